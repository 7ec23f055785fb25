"""`lm evaluate`: the metrics of a trained run on its validation splits, as JSON on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from absl import flags

from lm.cli.common import define_data_root, no_positional, use_compilation_cache

SUMMARY = "measure a trained run on its validation data (JSON on stdout)"
EXAMPLES = """
lm evaluate --workdir=runs/quickstart
lm evaluate --workdir=runs/shakespeare --data_root=DIR --step=1000 --batches=20
"""


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_integer("step", None, "checkpoint step (else the newest)", flag_values=values)
    flags.DEFINE_integer(
        "batches", None, "batches a split (else the whole split)", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "batch_size", None, "rows a batch (else the config's)", lower_bound=1, flag_values=values
    )
    define_data_root(values)
    flags.mark_flags_as_required(["workdir"], flag_values=values)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    no_positional(rest)
    use_compilation_cache()
    from lm.data.roots import cache_root
    from lm.evaluate.validation import evaluate_run
    from lm.train.workdir import load_run, run_data_root

    loaded = load_run(Path(values.workdir), values.step)
    results = evaluate_run(
        loaded,
        data_root=run_data_root(loaded.workdir, values.data_root),
        cache_dir=cache_root(),
        batch_size=values.batch_size,
        limit=values.batches,
        report=lambda line: print(line, file=sys.stderr),
    )
    print(json.dumps({"step": loaded.step, "splits": results}, indent=2))
    return 0
