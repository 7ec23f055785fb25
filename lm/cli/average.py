"""`lm average`: the mean of a run's checkpoints, as a workdir."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from absl import flags

from lm.cli.common import no_positional
from lm.errors import ConfigError

SUMMARY = "the mean of a run's checkpoints, as a model of its own"
EXAMPLES = """
lm average --workdir=runs/translate --last=10 --output=runs/translate-mean
lm average --workdir=runs/translate --steps=4000,4500,5000 --output=runs/translate-mean

The run has to have kept them: --config.checkpoint.keep_last=10 in lm train. What is averaged are
the parameters as they were trained, also where the run keeps a moving average of them. The output
is a workdir for lm generate, evaluate, score and convert, like that of lm convert. Standard output
is one JSON object about what was averaged.
"""


def define(values: flags.FlagValues) -> None:
    options: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("workdir", None, "folder of the run", **options)
    flags.DEFINE_integer("last", None, "average this many of the newest checkpoints", **options)
    flags.DEFINE_list("steps", None, "average the checkpoints of these steps", **options)
    flags.DEFINE_string("output", None, "new folder for the mean", **options)
    flags.mark_flags_as_required(["workdir", "output"], flag_values=values)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    no_positional(rest)
    if not values.output:
        raise ConfigError("--output is empty: name a new folder")
    steps = None if values.steps is None else [_step(text) for text in values.steps]
    from lm.train.averaging import average

    done = average(Path(values.workdir), Path(values.output), last=values.last, steps=steps)
    summary = {"output": values.output, "steps": done.steps, "parameters": done.parameters}
    print(json.dumps(summary, indent=2))
    return 0


def _step(text: str) -> int:
    if not text.strip().isdecimal():
        raise ConfigError(f"--steps: {text!r} is no step; write --steps=100,200")
    return int(text)
