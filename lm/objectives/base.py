"""What an objective is: host-side preparation of examples, and a pure loss on the device."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from lm.data.rows import RowMaker
from lm.data.tokenizer import Tokenizer
from lm.types import Batch, Key, Params


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

    model: Any
    """The Flax module that `generate`, `score`, `embed` and conversion use; its parameters are at
    the path `MODEL` of the objective's config."""

    def row_maker(self, tokenizer: Tokenizer, sequence_length: int) -> RowMaker:
        """From the tokens of a row to its features. Host, numpy, deterministic in its arguments.

        Raises:
          ConfigError: the tokenizer lacks a token that the objective needs.
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
