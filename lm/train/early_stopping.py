"""Which checkpoint is best, and when training no longer makes a better one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from lm.config import CheckpointConfig, Config, EarlyStopping
from lm.errors import UserError
from lm.train.restoring import Restoring

Results = Mapping[str, Mapping[str, float]]
# A checkpoint of a run: of a step, the best one, or (None) the newest.
Step = int | Literal["best"] | None


class Ranking(NamedTuple):
    """What checkpoints are compared by: a metric of a validation split, or (None) the first."""

    split: str | None
    metric: str
    mode: Literal["min", "max"]

    def metrics(self, results: Results) -> Mapping[str, float] | None:
        """Those of the split, where it was evaluated."""
        if self.split is not None:
            return results.get(self.split)
        return next(iter(results.values()), None)

    def better(self, a: float, b: float, least: float = 0.0) -> bool:
        """Whether a is better than b, by more than `least`."""
        return (b - a if self.mode == "min" else a - b) > least


def ranking(config: Config) -> Ranking:
    """Early stopping's where the config has it, else that of the checkpoints to keep."""
    stopping = config.evaluation.early_stopping
    if stopping is not None:
        return Ranking(stopping.split, stopping.metric, stopping.mode)
    return Ranking(None, config.checkpoint.metric, config.checkpoint.mode)


def kept(config: Config) -> CheckpointConfig:
    """The checkpoints to keep: with early stopping the best one too."""
    if config.evaluation.early_stopping is None:
        return config.checkpoint
    _, metric, mode = ranking(config)
    most = max(1, config.checkpoint.keep_best)
    return dataclasses.replace(config.checkpoint, keep_best=most, metric=metric, mode=mode)


def chosen_step(checkpoints: Restoring, config: Config, step: Step) -> int | None:
    """The step that is meant: the best is that with the best evaluation of those that are there, of
    equals the first.

    Raises:
      UserError: no checkpoint was evaluated.
    """
    if step != "best":
        return step
    order = ranking(config)
    best: tuple[float, int] | None = None
    for step in checkpoints.steps():
        metrics = order.metrics(checkpoints.restore_parts((), step).meta["evaluation"])
        value = None if metrics is None else metrics.get(order.metric)
        if value is not None and (best is None or order.better(value, best[0])):
            best = value, step
    if best is None:
        raise UserError(
            f"no checkpoint in {checkpoints.directory} was evaluated ({order.metric}), so none is "
            "the best: name a step, or train with evaluation.every"
        )
    return best[1]


class Stopper:
    """Watches the evaluations of a run, and says when to stop. All that it knows is `state`, which
    checkpoints keep: a run that was killed stops where it would have.

    Without a config it never says anything.
    """

    def __init__(self, config: Config) -> None:
        self._config: EarlyStopping | None = config.evaluation.early_stopping
        self._ranking = ranking(config)
        # The best value and its step; the value that has to be bettered by min_delta, and for how
        # many evaluations it has not been.
        self._best: tuple[float, int] | None = None
        self._reference = 0.0
        self._waited = 0

    def see(self, step: int, results: Results) -> bool:
        """Takes note of the evaluation at `step`; whether it is the best so far."""
        metrics = self._ranking.metrics(results)
        if self._config is None or metrics is None:
            return False
        value = metrics[self._ranking.metric]
        first = self._best is None
        if first or self._ranking.better(value, self._reference, self._config.min_delta):
            self._reference, self._waited = value, 0
        else:
            self._waited += 1
        if self._best is None or self._ranking.better(value, self._best[0]):
            self._best = value, step
            return True
        return False

    @property
    def stopped(self) -> bool:
        return self._config is not None and self._waited >= self._config.patience

    def state(self) -> dict[str, Any] | None:
        """JSON values for a checkpoint."""
        if self._config is None or self._best is None:
            return None
        return {
            "ranking": list(self._ranking),
            "best": list(self._best),
            "reference": self._reference,
            "waited": self._waited,
        }

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Goes on from what a checkpoint knows. Of another metric than the config's now it is
        nothing."""
        if state is None or state["ranking"] != list(self._ranking):
            return
        value, step = state["best"]
        self._best = value, step
        self._reference, self._waited = state["reference"], state["waited"]

    def message(self, step: int) -> str:
        """Why training ended at `step`."""
        assert self._config is not None and self._best is not None
        value, best = self._best
        times = "evaluation" if self._waited == 1 else "evaluations in a row"
        return (
            f"stopped early at step {step}: {self._waited} {times} did not better "
            f"{self._ranking.metric} {self._reference:.6g}"
            + (f" by more than {self._config.min_delta:g}" if self._config.min_delta else "")
            + f"; the best is {value:.6g}, of step {best}: --step=best in lm commands"
        )


def metric_names(terms: Sequence[str], config: Config) -> list[str]:
    """What an evaluation whose loss has these terms gives."""
    assert config.objective is not None
    return [*terms, *config.objective.ratios(dict.fromkeys(terms, 0.5))]
