"""The best learning rate of each width, and how far it moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lm.config.checks import check
from lm.reproduce.measures.base import Found, Inputs, MeasureBase
from lm.reproduce.measures.training import series


@dataclass(frozen=True)
class BestRates(MeasureBase):
    """The loss at the end of runs over widths and learning rates (of `split` as evaluation found
    it), by run, and of each of the `families` (a name, and its runs):

    FAMILY_octaves  how far apart the best learning rates of the widths are, in factors of two
    """

    families: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    split: str = "text"
    kind: Literal["best_rates"] = "best_rates"

    def __post_init__(self) -> None:
        check(len(self.families) > 0, "best_rates needs families, of runs")
        for family, runs in self.families.items():
            for run in runs:
                check(run in self.runs, f"families.{family}: {run!r} is not in runs")

    @property
    def quantities(self) -> tuple[str, ...]:
        return (*self.runs, *(f"{family}_octaves" for family in self.families))

    def measure(self, inputs: Inputs) -> Found:
        values: dict[str, list[float | None]] = {
            run: [series(workdir, self.split, "loss")[-1][1] for workdir in workdirs]
            for run, workdirs in inputs.runs.items()
        }
        best: dict[str, dict[str, list[float]]] = {}
        for family, runs in self.families.items():
            best[family] = self._best({run: inputs.runs[run] for run in runs}, values)
            logs = np.log2(list(best[family].values()))
            values[f"{family}_octaves"] = np.ptp(logs, axis=0).tolist()
        notes = tuple(
            f"{family}, width {width}: the best learning rate is "
            + ", ".join(f"{rate:.3g}" for rate in rates)
            for family, widths in best.items()
            for width, rates in widths.items()
        )
        return Found(values, {"best": best}, notes)

    def _best(
        self, runs: Mapping[str, Any], values: Mapping[str, list[float | None]]
    ) -> dict[str, list[float]]:
        """The best learning rate by width, one a seed."""
        from lm.train.workdir import read_config

        table: dict[int, dict[float, str]] = {}
        for run, workdirs in runs.items():
            config = read_config(workdirs[0])
            table.setdefault(config.model.d_model, {})[config.optimizer.learning_rate] = run
        seeds = range(min(len(workdirs) for workdirs in runs.values()))

        def loss(run: str, seed: int) -> float:
            value = values[run][seed]
            return math.inf if value is None else value

        return {
            str(width): [min(rates, key=lambda rate: loss(rates[rate], s)) for s in seeds]
            for width, rates in sorted(table.items())
        }
