"""`lm repeat`: a config with several seeds, or cross-validated; mean and spread of its metrics."""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from lm.cli.common import define_data_root, no_positional
from lm.errors import EXIT_FAILED, EXIT_PREEMPTED, ConfigError

SUMMARY = "repeat a run with other seeds or folds: mean, sd, interval"
EXAMPLES = """
lm repeat --config=experiments/tasks/trec.py --workdir=runs/trec --seeds=0,1,2,3,4
lm repeat --config=experiments/tasks/trec.py --workdir=runs/folds --folds=10 --metrics=accuracy
lm repeat --config=experiments/tasks/trec.py --workdir=runs/both --seeds=0,1 --folds=5

Each run has a folder in the workdir, and is an ordinary one, to go on with: lm evaluate
--workdir=runs/both/seed0-fold3. What is finished is not run again. Folds divide data.train into
parts of the same size, of a classification with the same share of every label; every example is in
one of them, whatever the seed, and metrics are those of the part that was held out
("fold/accuracy"): of the last evaluation, with early stopping of the best one. Standard output is
a table; repeat.json and sweep.json in the workdir have all of it.
"""


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "config",
        None,
        "experiment file, FILE.py or FILE.py:VARIANT; --config.a.b=VALUE overrides a key",
        flag_values=values,
    )
    flags.DEFINE_string("workdir", None, "folder of the runs", flag_values=values)
    define_data_root(values)
    flags.DEFINE_list("seeds", None, "a run for each (else the config's own)", flag_values=values)
    flags.DEFINE_integer(
        "folds", None, "a run for each of so many parts of data.train, which it holds out",
        lower_bound=2, flag_values=values,
    )  # fmt: skip
    flags.DEFINE_list(
        "metrics", None, "which to show (else all), as in accuracy or fold/accuracy",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "jobs", 1, "runs at a time, on this machine", lower_bound=1, flag_values=values
    )
    flags.mark_flags_as_required(["config", "workdir"], flag_values=values)


def run(values: flags.FlagValues, rest: list[str], overrides: list[tuple[str, str]]) -> int:
    no_positional(rest)
    from lm.reproduce.engines import build_engine
    from lm.reproduce.repeat import cells, spread_table, spreads, write_spreads
    from lm.reproduce.sweep import run_sweep
    from lm.reproduce.sweep_table import final_table, how_to_continue

    workdir = Path(values.workdir)
    results = run_sweep(
        cells(values.config, overrides, _seeds(values.seeds), values.folds),
        workdir,
        build_engine("local", jobs=values.jobs),
        data_root=None if values.data_root is None else Path(values.data_root),
    )
    print(final_table(results, (values.metrics or ["loss"])[0].split("/")[-1]))
    found = spreads(results, values.metrics)
    if found:
        write_spreads(workdir, found)
        print(f"\n{spread_table(found)}")
    if any(result.interrupted for result in results):
        print(how_to_continue(results), file=sys.stderr)
        return EXIT_PREEMPTED
    return EXIT_FAILED if any(result.status == "failed" for result in results) else 0


def _seeds(texts: list[str] | None) -> list[int] | None:
    if texts is None:
        return None
    if not texts or not all(text.strip().isdecimal() for text in texts):
        raise ConfigError(f"--seeds={','.join(texts)}: write whole numbers, as in --seeds=0,1,2")
    return [int(text) for text in texts]
