"""`lm train`: trains the run that a config describes, or goes on with the one in the workdir."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from absl import flags

from lm.cli.common import define_data_root, kept_programs, no_positional, use_compilation_cache

SUMMARY = "train a model from a config; the same command resumes it"
EXAMPLES = """
lm train --config=experiments/quickstart.py --workdir=runs/quickstart
lm train --config=experiments/nanogpt/shakespeare_char.py:cpu --workdir=runs/s --data_root=DIR
lm train --config=experiments/quickstart.py --workdir=runs/b --config.optimizer.learning_rate=1e-3
lm train --config=experiments/quickstart.py --workdir=runs/p --profile_steps=20:30
lm train --config=experiments/continue.py --workdir=runs/c --config.train.warm_start=runs/quickstart
lm train --config=FILE.py --workdir=runs/l --config.train.warm_start=W --config.train.lora.rank=8
"""


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "config",
        None,
        "experiment file, FILE.py or FILE.py:VARIANT; --config.a.b=VALUE overrides a key",
        flag_values=values,
    )
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    define_data_root(values)
    flags.DEFINE_string(
        "profile_steps",
        None,
        "steps to profile, into WORKDIR/profile: A:B are those after step A up to step B, N are N "
        "steps after a warm-up",
        flag_values=values,
    )
    flags.mark_flags_as_required(["config", "workdir"], flag_values=values)


def run(values: flags.FlagValues, rest: list[str], overrides: list[tuple[str, str]]) -> int:
    from lm.cli.configs import load_config
    from lm.data.roots import cache_root

    no_positional(rest)
    # Before the config, which may be that of a model to go on with.
    use_compilation_cache()
    workdir = Path(values.workdir)
    if (workdir / "convert.json").exists():
        from lm.train.workdir import check_not_converted

        check_not_converted(workdir)
    config = load_config(values.config, overrides, workdir)

    # Imports make many objects and no garbage.
    gc.disable()
    programs = kept_programs(config, workdir)
    from lm.train.profile import Profile
    from lm.train.setup import train
    from lm.train.workdir import run_data_root

    gc.enable()
    profile = None if values.profile_steps is None else Profile(values.profile_steps)
    around = {} if profile is None else {"around": profile.around}
    try:
        return train(
            config,
            workdir,
            data_root=run_data_root(workdir, values.data_root),
            cache_dir=cache_root(),
            command=sys.argv,
            programs=programs,
            **around,
        )
    finally:
        if profile is not None:
            profile.close()
