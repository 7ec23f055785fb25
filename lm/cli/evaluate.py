"""`lm evaluate`: the metrics of a trained run on its validation splits, as JSON on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from absl import flags

from lm.cli.common import define_data_root, no_positional, use_compilation_cache
from lm.errors import UserError

SUMMARY = "measure a trained run on its validation data (JSON on stdout)"
EXAMPLES = """
lm evaluate --workdir=runs/quickstart --baseline
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
    flags.DEFINE_boolean(
        "baseline", False, "beside what needs no model: unigram, majority", flag_values=values
    )
    define_data_root(values)
    flags.mark_flags_as_required(["workdir"], flag_values=values)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    no_positional(rest)
    use_compilation_cache()
    from lm.data.roots import cache_root
    from lm.evaluate.validation import evaluate_run
    from lm.train.workdir import EVALUATIONS, load_run, run_data_root

    loaded = load_run(Path(values.workdir), values.step)
    results = evaluate_run(
        loaded,
        data_root=run_data_root(loaded.workdir, values.data_root),
        cache_dir=cache_root(),
        batch_size=values.batch_size,
        limit=values.batches,
        baseline=values.baseline,
        report=lambda line: print(line, file=sys.stderr),
    )
    found = {"step": loaded.step, "splits": results}
    print(json.dumps(found, indent=2))
    if values.batches is None:
        _keep(loaded.workdir / EVALUATIONS / f"{loaded.step}.json", found)
    return 0


def _keep(path: Path, found: dict[str, Any]) -> None:
    """Writes the result into the run's folder, for pictures; a note where it is read-only. What
    needed no model, and was measured before, stays."""
    from lm.train.workdir import read_json, write_json

    try:
        before = read_json(path).get("splits", {}) if path.exists() else {}
        for name, split in before.items():
            if "baseline" in split and name in found["splits"]:
                found["splits"][name].setdefault("baseline", split["baseline"])
        path.parent.mkdir(exist_ok=True)
        write_json(path, found)
    except (OSError, UserError) as error:
        print(f"note: the result is not kept: {error}", file=sys.stderr)
