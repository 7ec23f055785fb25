"""Which of several texts goes with a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lm.config import DataConfig, ModelConfig, MultipleChoice
from lm.data.examples import Encoded, ExampleMaker
from lm.data.examples_read import Example
from lm.data.rows import stack
from lm.data.tokenizer import Tokenizer
from lm.data.validation import padding_like
from lm.errors import UserError
from lm.model import build_model
from lm.objectives.base import Term
from lm.objectives.tasks.body import initial_params, outputs
from lm.objectives.tasks.rows import Layout, checked_text, layout_of, list_of, text_of, value_of
from lm.types import Batch, Key, Params

ROW = ("tokens", "positions", "token_types")


class ChoiceRows:
    """A `lm.data.examples.ExampleMaker`: an example a row, of C choices.

    Features: those of `Layout.row` for the text and each choice, [C, T]; valid float32 [C], 1 for
    choices that there are; labels int32 [] and weights float32 [].
    """

    def __init__(self, tokenizer: Tokenizer, layout: Layout, choices: int) -> None:
        self._tokenizer, self._layout, self._choices = tokenizer, layout, choices

    @property
    def room(self) -> str:
        return f"{self._layout.room(2)} tokens of the text and a choice"

    def __call__(self, example: Example, *, labelled: bool) -> Encoded:
        text, choices = text_of(example, "text"), choices_of(example, self._choices)
        before = self._tokenizer.encode(text)
        rows, left_out = [], 0
        for choice in choices:
            parts, over = self._layout.fitted([before, self._tokenizer.encode(choice)])
            rows.append(self._layout.row(parts)[0])
            left_out += over
        rows += [padding_like(rows[0])] * (self._choices - len(rows))
        valid = np.arange(self._choices) < len(choices)
        label = label_of(example, len(choices)) if labelled else 0
        return Encoded(
            [
                {
                    **stack(rows),
                    "valid": valid.astype(np.float32),
                    "labels": np.array(label, np.int32),
                    "weights": np.array(labelled, np.float32),
                }
            ],
            left_out,
        )


def choices_of(example: Example, most: int) -> list[str]:
    """Raises UserError for fewer than two, or more than `most`."""
    choices = value_of(example, "choices")
    if not isinstance(choices, (list, tuple)) or not 2 <= len(choices) <= most:
        raise UserError(
            f"{example.place}: choices should be a list of 2 to {most} texts (objective.choices), "
            f"not {choices!r}"
        )
    return [checked_text(choice, "choice", example.place) for choice in choices]


def label_of(example: Example, count: int) -> int:
    """Raises UserError for what is no number of a choice."""
    value = value_of(example, "label")
    if isinstance(value, bool) or str(value).strip() not in map(str, range(count)):
        raise UserError(
            f"{example.place}: the label {value!r} should be the number of a choice, 0 to "
            f"{count - 1}"
        )
    return int(value)


class MultipleChoiceObjective:
    """Cross-entropy of the right choice. A batch is what `ChoiceRows` make, [B, ...]. Terms:

        loss      as above, in nats
        accuracy  metric: the likeliest choice is right
    Answers: {"label": its number from 0, "probabilities": [of every choice]}.
    """

    def __init__(self, config: MultipleChoice, model: ModelConfig) -> None:
        self.config = config
        self.model = build_model(model)

    def example_maker(
        self, tokenizer: Tokenizer, data: DataConfig, training: Sequence[Example] = ()
    ) -> ExampleMaker:
        """See `ChoiceRows`."""
        layout = layout_of(tokenizer, self.model.config, data, self.config.separators)
        return ChoiceRows(tokenizer, layout, self.config.choices)

    def init(self, rng: Key, batch: Batch) -> Params:
        """Initial parameters, with their logical axis names."""
        return initial_params(self.model, rng, batch["tokens"][:, 0])

    def logits(
        self, params: Params, batch: Batch, rng: Key | None = None, *, train: bool = False
    ) -> Float[Array, "B choices"]:
        """-inf for choices that there are not."""
        valid = batch["valid"]
        apart = {name: batch[name].reshape(-1, batch[name].shape[-1])
                 for name in ROW if name in batch}  # fmt: skip
        found = outputs(self.model, params, "multiple_choice", apart, rng, train=train)
        return jnp.where(valid > 0, found.reshape(valid.shape), -jnp.inf)

    def loss(
        self, params: Params, batch: Batch, rng: Key | None, *, train: bool
    ) -> dict[str, Term]:
        """The terms of one batch. Device, pure; `rng` feeds dropout while training."""
        # A row of padding has no choice at all: its first one keeps the loss, of weight 0, finite.
        there = jnp.maximum(batch["valid"], jnp.arange(self.config.choices) == 0)
        logits = self.logits(params, {**batch, "valid": there}, rng, train=train)
        labels, weights = batch["labels"], batch["weights"]
        weight = jnp.sum(weights)
        log_p = jax.nn.log_softmax(logits)
        losses = -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
        right = jnp.argmax(logits, axis=-1) == labels
        return {
            "loss": Term(jnp.sum(losses * weights), weight, 1.0),
            "accuracy": Term(jnp.sum(right * weights), weight, 0.0),
        }

    def predict(self, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """{"probabilities": float32 [B, choices]}."""
        return {"probabilities": jax.nn.softmax(self.logits(params, batch))}

    def answer(
        self, example: Example, encoded: Encoded, predicted: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """See `lm.objectives.base.TaskObjective`."""
        p = predicted["probabilities"][0][: len(list_of(example, "choices"))]
        return {"label": int(np.argmax(p)), "probabilities": [float(x) for x in p]}

    def truth(self, example: Example) -> dict[str, Any]:
        return {"label": label_of(example, len(choices_of(example, self.config.choices)))}
