"""From an empty process to the first step: `lm train` with warm caches, and torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lm.bench import shapes
from lm.bench.harness import Comparison, Contestant
from lm.bench.process import Start
from lm.bench.shapes import TrainShape
from lm.bench.suite import Finding, Settings, Suite
from lm.config import to_dict

OURS, THEIRS = "lm train, second start", "torch eager"
_EXPERIMENT = """from ml_collections import ConfigDict


def get_config(arg=""):
    return ConfigDict({values!r})
"""


def contestants(shape: TrainShape, settings: Settings) -> Sequence[Contestant]:
    """New processes with new workdirs. The first start of each, which fills the caches (compiled
    programs, tokens; the system's cache of files), is not counted."""
    # Here, for it imports JAX.
    from lm.train.workdir import METRICS

    place = settings.place
    config = shape.config(1)
    experiment = place.scratch / "experiment.py"
    experiment.write_text(_EXPERIMENT.format(values=to_dict(config)), encoding="utf-8")

    def ours(number: int) -> tuple[Sequence[str], Path]:
        workdir = place.scratch / f"start-{number}"
        command = [
            sys.executable, "-m", "lm.cli.main", "train", f"--config={experiment}",
            f"--workdir={workdir}", f"--data_root={place.text}",
        ]  # fmt: skip
        return command, workdir / METRICS

    env = {"LM_CACHE": str(place.cache)}
    found: list[Contestant] = [Start(OURS, ours, log=place.log(OURS), env=env)]
    if "eager" in settings.peers:
        folder = place.folder("shared")
        place.call(
            "ours.export:Training",
            {**place.data(config), "folder": str(folder), "steps": 1, "convert": False},
        )
        specification = folder / "first_step.json"
        values = {
            "model": to_dict(config.model),
            "optimizer": to_dict(shape.adamw),
            "folder": str(folder),
        }
        specification.write_text(json.dumps(values), encoding="utf-8")

        def theirs(number: int) -> tuple[Sequence[str], Path]:
            sign = folder / f"started-{number}"
            script = "lm.bench.peers.first_step"
            return [sys.executable, "-m", script, str(specification), str(sign)], sign

        found.append(Start(THEIRS, theirs, log=place.log(THEIRS)))
    return found


def findings(shape: TrainShape, comparison: Comparison) -> Sequence[Finding]:
    """The first start, which compiles, and how ours compares."""
    found = []
    [first] = comparison[OURS].facts["first_starts"]
    text = f"the first start of lm train in this benchmark took {first:.2f} s to its first step"
    found.append(Finding("first start, seconds", first, text))
    if THEIRS in comparison:
        ratio = comparison.ratio(THEIRS).median
        text = f"{THEIRS} takes {ratio:.2f}x as long to its first step as the second start of lm"
        found.append(Finding("torch eager", ratio, text))
    return found


SUITE = Suite(
    name="startup",
    summary="from a new process to the first training step",
    unit="start",
    base=OURS,
    # Models that transformers would have to load are no comparison with a plain script.
    shapes={name: shape for name, shape in shapes.TRAIN.items() if name != "llama"},
    default="ii",
    peers=("eager",),
    contestants=contestants,
    findings=findings,
)
