"""A label, several labels, or a number for a text or a pair of texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lm.config import Classification, DataConfig, ModelConfig, Regression, SequenceTask
from lm.data.examples import Encoded, ExampleMaker
from lm.data.examples_read import Example
from lm.data.tokenizer import Tokenizer
from lm.errors import UserError
from lm.model import build_model
from lm.objectives.base import Term
from lm.objectives.tasks.body import initial_params, outputs
from lm.objectives.tasks.rows import Labels, Layout, layout_of, spelled, text_of, value_of
from lm.types import Batch, Features, Key, Params


class SequenceRows:
    """A `lm.data.examples.ExampleMaker`: a row for a text, or for a pair.

    Features besides those of `Layout.row`: weights float32 [], 1 where the example has its target,
    and what `target` makes of it.
    """

    def __init__(
        self,
        objective: ClassificationObjective | RegressionObjective,
        tokenizer: Tokenizer,
        layout: Layout,
        weights: Sequence[float] | None,
    ) -> None:
        self._objective, self._tokenizer, self._layout = objective, tokenizer, layout
        self._weights = weights

    @property
    def room(self) -> str:
        return f"{self._layout.room(1)} tokens of text"

    def __call__(self, example: Example, *, labelled: bool) -> Encoded:
        texts = [text_of(example, "text")]
        if "text_pair" in example.values:
            texts.append(text_of(example, "text_pair"))
        parts, left_out = self._layout.fitted([self._tokenizer.encode(text) for text in texts])
        row, _ = self._layout.row(parts)
        target = self._objective.target(example if labelled else None)
        row |= {**target, "weights": np.array(labelled, np.float32)}
        if self._weights is not None:
            row["class_weights"] = np.array(self._weights[int(row["labels"])], np.float32)
        return Encoded([row], left_out)


class ClassificationObjective:
    """Cross-entropy of the right label; with `multi_label` the binary cross-entropy of each label,
    their mean.

    A batch is what `SequenceRows` make, [B, ...], with labels int32 [B], or float32 [B, labels] of
    0 and 1 (`multi_label`); class_weights float32 [B] where the config has some. Terms:

        loss            as above, in nats
        weighted_loss   while training, in the place of "loss" (which stays as a metric): smoothed
                        labels and class weights, where the config has them
        accuracy        metric: the likeliest label is right, or all labels are
        actual, found, hit   metrics, where `config.counted`: the share of examples that have the
                        second label, those said to have it, and those rightly; with `multi_label`
                        labels an example
    Answers: {"label", "probabilities": {label: p}}, or {"labels": [...], "probabilities"}.
    """

    def __init__(self, config: Classification, model: ModelConfig) -> None:
        self.config = config
        self.model = build_model(model)
        self._labels = Labels(config.labels)

    def example_maker(
        self, tokenizer: Tokenizer, data: DataConfig, training: Sequence[Example] = ()
    ) -> ExampleMaker:
        """See `SequenceRows`."""
        self._labels.check_all(training, self._names)
        weights = None
        if not self.config.multi_label:
            weights = self._labels.weights(self.config.class_weights, training, self._names)
        return SequenceRows(self, tokenizer, _layout(self, tokenizer, data), weights)

    def _names(self, example: Example) -> list[str]:
        """The labels of an example, as spelled in the data."""
        value = value_of(example, "label")
        if not self.config.multi_label:
            return [spelled(value)]
        if isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        if not isinstance(value, (list, tuple)):
            raise UserError(
                f"{example.place}: with multi_label the label should be a list, not {value!r}"
            )
        return [spelled(one) for one in value]

    def target(self, example: Example | None) -> Features:
        """{"labels"} of an example; of none zeros."""
        names = [] if example is None else self._names(example)
        place = "" if example is None else example.place
        numbers = [self._labels.number(name, place) for name in names]
        if not self.config.multi_label:
            return {"labels": np.array(numbers[0] if numbers else 0, np.int32)}
        row = np.zeros(len(self.config.labels), np.float32)
        row[numbers] = 1
        return {"labels": row}

    def init(self, rng: Key, batch: Batch) -> Params:
        """Initial parameters, with their logical axis names."""
        return initial_params(self.model, rng, batch["tokens"])

    def logits(
        self, params: Params, batch: Batch, rng: Key | None = None, *, train: bool = False
    ) -> Float[Array, "B labels"]:
        return outputs(self.model, params, "classification", batch, rng, train=train)

    def loss(
        self, params: Params, batch: Batch, rng: Key | None, *, train: bool
    ) -> dict[str, Term]:
        """The terms of one batch. Device, pure; `rng` feeds dropout while training."""
        logits = self.logits(params, batch, rng, train=train)
        if self.config.multi_label:
            return self._terms_of_many(logits, batch, train)
        return self._terms(logits, batch, train)

    def _terms(
        self, logits: Float[Array, "B labels"], batch: Batch, train: bool
    ) -> dict[str, Term]:
        labels, weights = batch["labels"], batch["weights"]
        weight, e = jnp.sum(weights), self.config.label_smoothing
        log_p = jax.nn.log_softmax(logits)
        losses = -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
        found = jnp.argmax(logits, axis=-1)

        def metric(values: jax.Array) -> Term:
            return Term(jnp.sum(values * weights), weight, 0.0)

        weighted = train and ("class_weights" in batch or e > 0)
        terms = {"loss": Term(jnp.sum(losses * weights), weight, 0.0 if weighted else 1.0)}
        if weighted:
            own = weights * batch["class_weights"] if "class_weights" in batch else weights
            smoothed = (1 - e) * losses - e * jnp.mean(log_p, axis=-1)
            terms["weighted_loss"] = Term(jnp.sum(smoothed * own), jnp.sum(own), 1.0)
        terms["accuracy"] = metric(found == labels)
        if self.config.counted:
            actual, said = labels == 1, found == 1
            terms |= {
                "actual": metric(actual),
                "found": metric(said),
                "hit": metric(actual & said),
            }
        return terms

    def _terms_of_many(
        self, logits: Float[Array, "B labels"], batch: Batch, train: bool
    ) -> dict[str, Term]:
        labels, weights = batch["labels"], batch["weights"]
        weight = jnp.sum(weights)
        losses = jax.nn.softplus(logits) - labels * logits
        found, actual = logits > 0, labels > 0

        def mean(values: jax.Array, coefficient: float = 0.0) -> Term:
            return Term(jnp.sum(values * weights), weight, coefficient)

        given = self.config.class_weights
        weighted = train and given is not None
        terms = {"loss": mean(jnp.mean(losses, axis=-1), 0.0 if weighted else 1.0)}
        if weighted:
            own = jnp.asarray(given, jnp.float32)
            terms["weighted_loss"] = mean(jnp.mean(losses * own, axis=-1), 1.0)
        return terms | {
            "accuracy": mean(jnp.all(found == actual, axis=-1)),
            "actual": mean(jnp.sum(actual, axis=-1)),
            "found": mean(jnp.sum(found, axis=-1)),
            "hit": mean(jnp.sum(actual & found, axis=-1)),
        }

    def predict(self, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """{"probabilities": float32 [B, labels]}."""
        logits = self.logits(params, batch)
        squash = jax.nn.sigmoid if self.config.multi_label else jax.nn.softmax
        return {"probabilities": squash(logits)}

    def answer(
        self, example: Example, encoded: Encoded, predicted: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """See `lm.objectives.base.TaskObjective`."""
        names, p = self.config.labels, predicted["probabilities"][0]
        probabilities = {name: float(value) for name, value in zip(names, p, strict=True)}
        if self.config.multi_label:
            chosen = [name for name, value in probabilities.items() if value > 0.5]
            return {"labels": chosen, "probabilities": probabilities}
        return {"label": names[int(np.argmax(p))], "probabilities": probabilities}

    def truth(self, example: Example) -> dict[str, Any]:
        names = self._names(example)
        for name in names:
            self._labels.number(name, example.place)
        if self.config.multi_label:
            return {"labels": [name for name in self.config.labels if name in names]}
        return {"label": names[0]}


class RegressionObjective:
    """Squared error of a number. A batch is what `SequenceRows` make, with values float32 [B].
    Terms:

        loss            the squared error
        absolute_error  metric
        mean_found, mean_value, square_found, square_value, product   metrics: the moments of
                        which `config.ratios` makes Pearson's correlation
    Answers: {"value"}.
    """

    def __init__(self, config: Regression, model: ModelConfig) -> None:
        self.config = config
        self.model = build_model(model)

    def example_maker(
        self, tokenizer: Tokenizer, data: DataConfig, training: Sequence[Example] = ()
    ) -> ExampleMaker:
        """See `SequenceRows`."""
        return SequenceRows(self, tokenizer, _layout(self, tokenizer, data), None)

    def target(self, example: Example | None) -> Features:
        """{"values"} of an example; of none 0."""
        value = 0.0 if example is None else self.truth(example)["value"]
        return {"values": np.array(value, np.float32)}

    def init(self, rng: Key, batch: Batch) -> Params:
        """Initial parameters, with their logical axis names."""
        return initial_params(self.model, rng, batch["tokens"])

    def found(
        self, params: Params, batch: Batch, rng: Key | None = None, *, train: bool = False
    ) -> Float[Array, "B"]:
        return outputs(self.model, params, "regression", batch, rng, train=train)[:, 0]

    def loss(
        self, params: Params, batch: Batch, rng: Key | None, *, train: bool
    ) -> dict[str, Term]:
        """The terms of one batch. Device, pure; `rng` feeds dropout while training."""
        found, values = self.found(params, batch, rng, train=train), batch["values"]
        weights = batch["weights"]
        weight = jnp.sum(weights)

        def mean(x: jax.Array, coefficient: float = 0.0) -> Term:
            return Term(jnp.sum(x * weights), weight, coefficient)

        return {
            "loss": mean(jnp.square(found - values), 1.0),
            "absolute_error": mean(jnp.abs(found - values)),
            "mean_found": mean(found),
            "mean_value": mean(values),
            "square_found": mean(found * found),
            "square_value": mean(values * values),
            "product": mean(found * values),
        }

    def predict(self, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """{"value": float32 [B]}."""
        return {"value": self.found(params, batch)}

    def answer(
        self, example: Example, encoded: Encoded, predicted: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """See `lm.objectives.base.TaskObjective`."""
        return {"value": float(predicted["value"][0])}

    def truth(self, example: Example) -> dict[str, Any]:
        value = value_of(example, "value")
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise UserError(f"{example.place}: the value {value!r} is no number") from None
        if not math.isfinite(number) or isinstance(value, bool):
            raise UserError(f"{example.place}: the value {value!r} is no finite number")
        return {"value": number}


def _layout(
    objective: ClassificationObjective | RegressionObjective, tokenizer: Tokenizer, data: DataConfig
) -> Layout:
    config: SequenceTask = objective.config
    return layout_of(tokenizer, objective.model.config, data, config.separators)
