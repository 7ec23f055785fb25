"""What is mapped, the pure functions of a run, and what every mapping of them offers.

Nothing here knows a model, objective or optimiser: the functions come from the caller. Of a state
only `params` and `ema` are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax

from lm.errors import ConfigError
from lm.types import Batch, Metrics, Params, PyTree

State = Any
Reduce = Callable[[PyTree], PyTree]
Evaluation = dict[str, tuple[jax.Array, jax.Array]]


class TrainFn(Protocol):
    """Optimiser steps on batches [K, B, ...], pure: the state after them, and metrics [K]."""

    def __call__(
        self, state: State, batches: Batch, *, reduce: Reduce, device: jax.Array | None
    ) -> tuple[State, Metrics]: ...


class EvaluateFn(Protocol):
    """Sums and weights of one batch [B, ...], pure."""

    def __call__(self, params: Params, batch: Batch, *, reduce: Reduce) -> Evaluation: ...


@dataclass(frozen=True)
class Program:
    """The pure functions of a run.

    `init` makes the state before the first step; `boxed_params` the parameters with their logical
    axis names, and is only ever traced for shapes.
    """

    init: Callable[[], State]
    boxed_params: Callable[[], PyTree]
    train: TrainFn
    evaluate: EvaluateFn


class Mapped(Protocol):
    """A program placed on devices. Batches are numpy arrays with this process's rows, or what
    `put` made of them."""

    devices: int
    """Devices over which the rows of a batch are split, on all hosts."""

    def abstract(self) -> State:
        """Shapes and shardings of the state as it is saved."""
        ...

    def init(self) -> State:
        """The state before the first step, made in place on the devices."""
        ...

    def prepare(self, batches: Batch) -> None:
        """May start to compile `train` for K batches [K, B, ...], of which only the shapes matter,
        while the caller does something else; `train` waits for it."""
        ...

    def train(self, state: State, batches: Batch) -> tuple[State, Metrics]:
        """Optimiser steps on K batches [K, B, ...], with metrics [K]. The state given is donated:
        it must not be used again."""
        ...

    def settle(self) -> None:
        """Returns when it is certain that the steps were this program's: to be called before what
        they computed is saved.

        Raises:
          UserError: they were not (see `lm.parallel.kept`).
        """
        ...

    def distrust(self) -> None:
        """Has later starts use no program of which that is not certain yet: to be called when
        something has failed."""
        ...

    def compiled_text(self, state: State, batches: Batch) -> str:
        """The compiled program that `train` runs on these, as text (XLA's HLO). Compiles it where
        that has not been done; runs and donates nothing."""
        ...

    def evaluate(self, params: Params, batch: Batch) -> Evaluation:
        """(sum, weight) of every term over a batch [B, ...] on all devices and hosts."""
        ...

    def put(self, batches: Batch) -> Batch:
        """Starts the copy of K batches [K, B, ...] to the devices, for `train`."""
        ...

    def put_evaluation(self, batch: Batch) -> Batch:
        """Starts the copy of a batch [B, ...] to the devices, for `evaluate`."""
        ...

    def params(self, state: State) -> Params:
        """The parameters to evaluate: the moving average where there is one."""
        ...

    def to_save(self, state: State) -> State:
        """The state as checkpoints hold it: global arrays of the parameters' own shapes."""
        ...

    def from_saved(self, state: State) -> State:
        """The inverse of `to_save`."""
        ...


def identity(tree: PyTree) -> PyTree:
    """The reduction where one call sees the whole batch."""
    return tree


def evaluated(state: State) -> Params:
    """The parameters to evaluate: the moving average where there is one."""
    return state.params if state.ema is None else state.ema


def on_host(batch: Batch) -> bool:
    """Whether some array of the batch still has to go to the devices."""
    return not all(isinstance(x, jax.Array) for x in jax.tree.leaves(batch))


def check_batch(batch: Batch, axis: int, devices: int) -> None:
    """Rows of every array, of this process, against its devices."""
    for name, x in batch.items():
        if x.shape[axis] % devices:
            raise ConfigError(
                f"a batch of {x.shape[axis]} rows ({name!r}) cannot be split evenly over {devices} "
                f"devices; use a batch size that {devices} divides"
            )
