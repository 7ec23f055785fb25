"""Numbers that training wrote down itself: the last or best of a metric, when it was reached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lm.config.checks import check, positive
from lm.errors import UserError
from lm.reproduce.measures.base import Found, Inputs, MeasureBase


@dataclass(frozen=True)
class Metric(MeasureBase):
    """A metric of a split as evaluation in training found it: the `last` of the run, or the `best`
    (the lowest)."""

    split: str = "text"
    metric: str = "loss"
    take: Literal["last", "best"] = "last"
    kind: Literal["metric"] = "metric"

    def __post_init__(self) -> None:
        check(len(self.runs) > 0, "a metric is one of runs: runs names none")

    def measure(self, inputs: Inputs) -> Found:
        values = {
            name: [self._value(workdir) for workdir in workdirs]
            for name, workdirs in inputs.runs.items()
        }
        return Found(values)

    def _value(self, workdir: Path) -> float:
        found = [value for _, value in series(workdir, self.split, self.metric)]
        return found[-1] if self.take == "last" else min(found)


@dataclass(frozen=True)
class FirstBelow(MeasureBase):
    """The first step at which a metric was below `threshold`; None where it never was."""

    split: str = "text"
    metric: str = "loss"
    threshold: float = 0.1
    kind: Literal["first_below"] = "first_below"

    def __post_init__(self) -> None:
        check(len(self.runs) > 0, "a metric is one of runs: runs names none")
        positive(self, "threshold")

    def measure(self, inputs: Inputs) -> Found:
        values, notes = {}, []
        for name, workdirs in inputs.runs.items():
            values[name] = [self._step(workdir) for workdir in workdirs]
            if None in values[name]:
                last = series(workdirs[0], self.split, self.metric)[-1][0]
                notes.append(
                    f"{name}: {self.split} {self.metric} was not below {self.threshold:g} in "
                    f"{last} steps"
                )
        return Found(values, notes=tuple(notes))

    def _step(self, workdir: Path) -> float | None:
        points = series(workdir, self.split, self.metric)
        return next((float(step) for step, value in points if value < self.threshold), None)


def series(workdir: Path, split: str, metric: str) -> list[tuple[int, float]]:
    """(step, value) of a metric in a run's metrics.jsonl.

    Raises:
      UserError: it has none.
    """
    from lm.train.metrics import read_jsonl
    from lm.train.workdir import METRICS

    rows: list[dict[str, Any]] = read_jsonl(workdir / METRICS)
    found = [(row["step"], row[metric]) for row in rows if row["split"] == split and metric in row]
    if not found:
        there = sorted({f"{row['split']} {name}" for row in rows for name in row} - {"step"})
        some = ", ".join(name for name in there if not name.endswith((" step", " split")))
        raise UserError(
            f"{workdir / METRICS} has no {metric!r} of split {split!r}; there are: {some or 'none'}"
        )
    return found
