"""What an objective is: host-side preparation of examples, and a pure loss on the device."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from lm.types import Batch, Features, Key, Params


class Term(NamedTuple):
    """One part of a loss, as a sum and a weight, never a mean.

    The objective is the sum over terms of coefficient * (sum over the whole batch) / (weight over
    the whole batch). Sums and weights add up exactly over devices, hosts, microbatches and
    evaluation batches, so the division happens once. A coefficient of 0 makes a metric.
    The weight must depend on the batch alone, not on the parameters.
    """

    sum: jax.Array | float
    weight: jax.Array | float
    coefficient: float = 1.0


@runtime_checkable
class Objective(Protocol):
    """What is learned. Owns its modules; knows nothing of devices, optimisers or files."""

    lookahead: int
    """Tokens a row needs beyond the model's sequence length (1 for next-token prediction)."""

    model: Any
    """The Flax module that `generate`, `score` and conversion use."""

    def prepare(self, example: Features, rng: np.random.Generator) -> Features:
        """One piece of a document, {"tokens": int32 [n]}, to aligned 1-D features [n - lookahead].

        Host, numpy, deterministic in its arguments.
        """
        ...

    def init(self, rng: Key, batch: Batch) -> Params:
        """Initial parameters; leaves carry their logical axis names (`nn.LogicallyPartitioned`)."""
        ...

    def loss(
        self, params: Params, batch: Batch, rng: Key | None, *, train: bool
    ) -> dict[str, Term]:
        """The terms of the loss on one batch. Device, pure. `rng` is for dropout and sampling."""
        ...
