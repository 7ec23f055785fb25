"""`lm inspect`: what a run's checkpoint holds, as JSON on stdout."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from absl import flags

from lm.cli.common import define_step, no_positional

SUMMARY = "show a run's step, parameters and digests (JSON on stdout)"
EXAMPLES = """
lm inspect --workdir=runs/quickstart
lm inspect --workdir=runs/quickstart --step=200
"""


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    define_step(values)
    flags.mark_flags_as_required(["workdir"], flag_values=values)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    no_positional(rest)
    from lm.reproduce.cell import config_digest
    from lm.train.checkpoint import Checkpoints
    from lm.train.digest import DIGESTED, json_digest, state_digests
    from lm.train.early_stopping import chosen_step
    from lm.train.restoring import named_shapes
    from lm.train.workdir import CHECKPOINTS, CONVERTED, read_config, read_json

    workdir = Path(values.workdir)
    config = read_config(workdir)
    checkpoints = Checkpoints(
        workdir / CHECKPOINTS, report=lambda line: print(line, file=sys.stderr)
    )
    step = chosen_step(checkpoints, config, values.step)
    restored = checkpoints.restore_parts(DIGESTED, step)
    digests = state_digests(restored.state, restored.data)
    params = restored.state["params"]
    shapes = named_shapes(params)
    table = [{"name": n, "shape": list(s), "size": math.prod(s)} for n, s in shapes.items()]
    summary = {
        "workdir": str(workdir),
        "step": restored.step,
        "checkpoints": checkpoints.steps(),
        "parameters": sum(map(math.prod, shapes.values())),
        # As reports have them: of the config, and of all digests together.
        "config_digest": config_digest(config),
        "state_digest": json_digest(digests),
        "digests": digests,
        "data": restored.data,
        "evaluation": restored.meta["evaluation"],
        "table": table,
    }
    if (workdir / CONVERTED).exists():
        origin = read_json(workdir / CONVERTED)
        summary["converted"] = {name: origin.get(name) for name in ("from", "format", "family")}
    print(json.dumps(summary, indent=2))
    return 0
