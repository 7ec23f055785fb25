"""Perplexity on rows longer than those of training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
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
                  further (position interpolation, Chen et al. 2023); RUN-pi-xN-ratio likewise

    `trained_on` names, by run, the one with whose parameters it began: what is once the length,
    and the perplexity at it, are that one's, of the same seed.
    """

    times: tuple[int, ...] = (1, 2, 4, 8, 16)
    interpolated: tuple[str, ...] = ()
    trained_on: Mapping[str, str] = field(default_factory=dict)
    split: str = "text"
    kind: Literal["lengths"] = "lengths"

    def __post_init__(self) -> None:
        check(len(self.runs) > 0, "perplexity is one of runs: runs names none")
        check(self.times[:1] == (1,), "times begins with 1, the length of training")
        for name in self.interpolated:
            check(name in self.runs, f"interpolated: {name!r} is not in runs")
        for name, first in self.trained_on.items():
            known = self.runs[: self.runs.index(name)] if name in self.runs else ()
            check(first in known, f"trained_on: {name!r} is not in runs, or not after {first!r}")

    @property
    def quantities(self) -> tuple[str, ...]:
        names = [f"{run}-x{n}" for run in self.runs for n in self.times]
        names += [f"{run}-pi-x{n}" for run in self.interpolated for n in self.times[1:]]
        return tuple(names + [f"{name}-ratio" for name in names])

    def measure(self, inputs: Inputs) -> Found:
        values: dict[str, list[float | None]] = {name: [] for name in self.quantities}
        once: dict[str, list[tuple[int, float]]] = {}
        for run in self.runs:
            once[run] = []
            for number, workdir in enumerate(inputs.runs[run]):
                inputs.report(f"{workdir.name}: perplexity at {len(self.times)} lengths")
                base = self.trained_on.get(run)
                length, reference = once[base][number] if base else (_length(workdir), None)
                found = {
                    f"{run}-x{n}": self._perplexity(workdir, n * length, 1, inputs)
                    for n in self.times
                }
                if run in self.interpolated:
                    for n in self.times[1:]:
                        slowed = self._perplexity(workdir, n * length, n, inputs)
                        found[f"{run}-pi-x{n}"] = slowed
                reference = found[f"{run}-x1"] if reference is None else reference
                once[run].append((length, reference))
                for name, value in found.items():
                    values[name].append(finite(value))
                    values[f"{name}-ratio"].append(finite(value / reference))
        return Found(values)

    def _perplexity(self, workdir: Path, length: int, slowed: int, inputs: Inputs) -> float:
        """On rows of `length` tokens, of a model whose rotations are slowed."""
        from lm.evaluate.validation import evaluate_run
        from lm.objectives import build_objective
        from lm.train.workdir import load_run

        run = load_run(workdir)
        config = run.config
        model = stretched(config.model, slowed) if slowed > 1 else config.model
        data = dataclasses.replace(config.data, sequence_length=length)
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
            batch_size=max(1, config.train.batch_size * config.data.sequence_length // length),
            limit=None,
            # That the split is cut otherwise than in training is meant.
            report=lambda line: None,
        )
        return math.exp(found.splits[self.split]["loss"])


def _length(workdir: Path) -> int:
    from lm.train.workdir import read_config

    return read_config(workdir).data.sequence_length


def stretched(model: Any, times: int) -> Any:
    """The model with its rotations slowed `times`. Raises ConfigError where it has none."""
    position = model.position
    if not isinstance(position, Rotary) or position.scaling is not None:
        raise ConfigError("interpolated: needs a model with rotary positions, not scaled yet")
    scaled = dataclasses.replace(position, scaling=LinearScaling(factor=float(times)))
    return dataclasses.replace(model, position=scaled)
