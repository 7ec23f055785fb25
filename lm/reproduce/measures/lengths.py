"""Perplexity on rows longer than those of training."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lm.config import LinearScaling, Rotary
from lm.config.checks import check
from lm.errors import ConfigError
from lm.reproduce.measures.base import Found, Inputs, MeasureBase, finite


@dataclass(frozen=True)
class Lengths(MeasureBase):
    """The perplexity of a split cut, without overlap, into rows of `times` the training length.

    RUN-xN        at N times the length
    RUN-xN-ratio  over that at the training length
    RUN-pi-xN     of `interpolated` runs, whose rotations are slowed N times and not trained
                  further (position interpolation, Chen et al. 2023)
    """

    times: tuple[int, ...] = (1, 2, 4, 8, 16)
    interpolated: tuple[str, ...] = ()
    split: str = "text"
    kind: Literal["lengths"] = "lengths"

    def __post_init__(self) -> None:
        check(len(self.runs) > 0, "perplexity is one of runs: runs names none")
        check(self.times[:1] == (1,), "times begins with 1, the length of training")
        for name in self.interpolated:
            check(name in self.runs, f"interpolated: {name!r} is not in runs")

    @property
    def quantities(self) -> tuple[str, ...]:
        names = [f"{run}-x{n}" for run in self.runs for n in self.times]
        names += [f"{run}-x{n}-ratio" for run in self.runs for n in self.times[1:]]
        names += [f"{run}-pi-x{n}" for run in self.interpolated for n in self.times[1:]]
        return tuple(names)

    def measure(self, inputs: Inputs) -> Found:
        values: dict[str, list[float | None]] = {name: [] for name in self.quantities}
        for run, workdirs in inputs.runs.items():
            for workdir in workdirs:
                inputs.report(f"{workdir.name}: perplexity at {len(self.times)} lengths")
                direct = {n: self._perplexity(workdir, n, False, inputs) for n in self.times}
                for n, found in direct.items():
                    values[f"{run}-x{n}"].append(finite(found))
                    if n > 1:
                        values[f"{run}-x{n}-ratio"].append(finite(found / direct[1]))
                if run in self.interpolated:
                    for n in self.times[1:]:
                        found = self._perplexity(workdir, n, True, inputs)
                        values[f"{run}-pi-x{n}"].append(finite(found))
        return Found(values)

    def _perplexity(self, workdir: Path, times: int, interpolated: bool, inputs: Inputs) -> float:
        from lm.evaluate.validation import evaluate_run
        from lm.objectives import build_objective
        from lm.train.workdir import load_run

        run = load_run(workdir)
        config = run.config
        model = stretched(config.model, times) if interpolated else config.model
        data = dataclasses.replace(config.data, sequence_length=times * config.data.sequence_length)
        assert config.objective is not None
        objective = build_objective(config.objective, model)
        longer = dataclasses.replace(
            run,
            config=dataclasses.replace(config, model=model, data=data),
            objective=objective,
            model=objective.model,
        )
        found = evaluate_run(
            longer,
            data_root=inputs.data_root,
            cache_dir=inputs.cache_dir,
            # As many tokens at a time, whatever the length.
            batch_size=max(1, config.train.batch_size // times),
            limit=None,
            # That the split is cut otherwise than in training is meant.
            report=lambda line: None,
        )
        return math.exp(found.splits[self.split]["loss"])


def stretched(model: Any, times: int) -> Any:
    """The model with its rotations slowed `times`. Raises ConfigError where it has none."""
    position = model.position
    if not isinstance(position, Rotary) or position.scaling is not None:
        raise ConfigError("interpolated: needs a model with rotary positions, not scaled yet")
    scaled = dataclasses.replace(position, scaling=LinearScaling(factor=float(times)))
    return dataclasses.replace(model, position=scaled)
