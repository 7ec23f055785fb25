"""When things happen in a run: a pure function of the config and the size of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lm.config import Config, Duration
from lm.errors import ConfigError

InSteps = Callable[[Duration], int]


@dataclass(frozen=True)
class Plan:
    """Steps in all, steps a dispatch, and the cadences in steps (None: only at the end)."""

    total_steps: int
    group: int
    evaluate_every: int | None
    checkpoint_every: int | None

    def dispatch(self, step: int) -> int:
        """Steps of the dispatch that begins at `step`. Depends on the step alone, so a resumed run
        groups its steps as an uninterrupted one does."""
        return min(self.group - step % self.group, self.total_steps - step)

    def evaluates(self, step: int) -> bool:
        return _due(step, self.evaluate_every, self.total_steps)

    def saves(self, step: int) -> bool:
        return _due(step, self.checkpoint_every, self.total_steps)


def _due(step: int, every: int | None, total: int) -> bool:
    return step == total or (every is not None and step % every == 0)


def durations(config: Config, rows_per_epoch: int) -> InSteps:
    """How this run turns a duration into optimiser steps."""
    rows = config.train.batch_size
    return lambda duration: duration.in_steps(
        tokens_per_step=rows * config.data.sequence_length, steps_per_epoch=rows_per_epoch / rows
    )


def make_plan(config: Config, in_steps: InSteps) -> Plan:
    """Resolves every duration of the config.

    Raises:
      ConfigError: a training of no steps, a cadence that does not fall on the ends of dispatches,
        or checkpoints to rank without an evaluation at the same step.
    """
    group = config.train.steps_per_dispatch
    total = in_steps(config.train.duration)
    if total < 1:
        raise ConfigError(f"train.duration is {config.train.duration}: no step to train")
    evaluate = _cadence("evaluation.every", config.evaluation.every, in_steps, group)
    save = _cadence("checkpoint.every", config.checkpoint.every, in_steps, group)
    if config.checkpoint.keep_best:
        if not config.data.validation:
            raise ConfigError("checkpoint.keep_best needs data.validation to rank checkpoints by")
        if save is not None and (evaluate is None or save % evaluate):
            raise ConfigError(
                f"checkpoint.keep_best ranks checkpoints by evaluation: checkpoint.every={save} "
                f"steps must be a multiple of evaluation.every={evaluate} steps"
            )
    return Plan(total, group, evaluate, save)


def _cadence(name: str, every: Duration | None, in_steps: InSteps, group: int) -> int | None:
    if every is None:
        return None
    steps = in_steps(every)
    if every.steps is None:
        # Epochs and tokens seldom fall on a dispatch's end: the nearest one will do.
        steps = max(1, round(steps / group)) * group
    if steps < 1 or steps % group:
        raise ConfigError(
            f"{name}={steps} steps must be a positive multiple of train.steps_per_dispatch={group}"
        )
    return steps
