"""How much better one way of training is than another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lm.config.checks import check
from lm.reproduce.measures.base import Found, Inputs, MeasureBase
from lm.reproduce.measures.training import series


@dataclass(frozen=True)
class Differences(MeasureBase):
    """A metric of a split at the end of runs, by run, and for each of `between` (a name, and two
    runs) that of the first less that of the second, seed by seed."""

    between: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    split: str = "text"
    metric: str = "loss"
    kind: Literal["differences"] = "differences"

    def __post_init__(self) -> None:
        check(len(self.between) > 0, "differences needs between, pairs of runs by name")
        for name, runs in self.between.items():
            check(name not in self.runs, f"between: {name!r} is the name of a run")
            for run in runs:
                check(run in self.runs, f"between.{name}: {run!r} is not in runs")

    @property
    def quantities(self) -> tuple[str, ...]:
        return (*self.runs, *self.between)

    def measure(self, inputs: Inputs) -> Found:
        last = {
            run: [series(workdir, self.split, self.metric)[-1][1] for workdir in workdirs]
            for run, workdirs in inputs.runs.items()
        }
        gaps = {
            name: [a - b for a, b in zip(last[one], last[other], strict=True)]
            for name, (one, other) in self.between.items()
        }
        return Found({**last, **gaps})
