"""What an objective is: host-side preparation of examples, and a pure loss on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from lm.config import DataConfig
from lm.data.examples import Encoded, ExampleMaker
from lm.data.examples_read import Example
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
    """What is learned. Owns its modules; knows nothing of devices, optimisers or files.

    What learns from documents is a `TextObjective` besides, what learns from examples an
    `ExampleObjective`.
    """

    model: Any
    """The Flax module that `generate`, `score`, `embed` and conversion use; its parameters are at
    the path `MODEL` of the objective's config."""

    def init(self, rng: Key, batch: Batch) -> Params:
        """Initial parameters; leaves carry their logical axis names (`nn.LogicallyPartitioned`)."""
        ...

    def loss(
        self, params: Params, batch: Batch, rng: Key | None, *, train: bool
    ) -> dict[str, Term]:
        """The terms of the loss on one batch. Device, pure. `rng` is for dropout and sampling."""
        ...


@runtime_checkable
class TextObjective(Objective, Protocol):
    """What is learned from documents, or from pairs of them."""

    def row_maker(self, tokenizer: Tokenizer, sequence_length: int) -> RowMaker:
        """From the tokens of a row to its features. Host, numpy, deterministic in its arguments.

        Raises:
          ConfigError: the tokenizer lacks a token that the objective needs.
        """
        ...


@runtime_checkable
class ExampleObjective(Objective, Protocol):
    """What is learned from the examples of a task. Its config is a `lm.config.TaskBase`."""

    def example_maker(
        self, tokenizer: Tokenizer, data: DataConfig, training: Sequence[Example] = ()
    ) -> ExampleMaker:
        """From an example to its rows. Host, numpy, deterministic in its arguments.

        `training` are the examples that are learned; without them nothing can be weighed by how
        often its label is there ("balanced"), which only training needs.

        Raises:
          ConfigError: the tokenizer lacks a token that the objective needs, or rows are too short.
          UserError: a training example has a label that the config does not name.
        """
        ...


@runtime_checkable
class TaskObjective(ExampleObjective, Protocol):
    """A task with answers that are not text to be generated. From an example to its answer:

        maker = objective.example_maker(tokenizer, data)
        encoded = maker(Example({"text": "..."}, "line 1"), labelled=False)
        arrays = objective.predict(params, batch)           # of lm.data.rows.stack(encoded.rows)
        objective.answer(example, encoded, arrays)          # {"label": "positive", ...}

    `lm.objectives.tasks.predictions` does this for many.
    """

    def predict(self, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """What is to be known of every row of a batch, [B, ...] each. Device, pure, no dropout."""
        ...

    def answer(
        self, example: Example, encoded: Encoded, predicted: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """The answer as JSON values, from what `predict` gave for the example's rows, [rows, ...]
        in their order. Host. Its keys are those that the objective's class lists."""
        ...

    def truth(self, example: Example) -> dict[str, Any]:
        """The right answer, under those of the keys that the example's targets say.

        Raises:
          UserError: there is none, or an unknown label.
        """
        ...
