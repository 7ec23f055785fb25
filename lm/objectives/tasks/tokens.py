"""A tag for every word: names, parts of speech."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lm.config import DataConfig, ModelConfig, TokenClassification
from lm.data.corruption.seq2seq import Tokens
from lm.data.examples import Encoded, ExampleMaker
from lm.data.examples_read import Example
from lm.data.tokenizer import Tokenizer, spans_of
from lm.errors import UserError
from lm.model import build_model
from lm.objectives.base import Term
from lm.objectives.tasks.body import initial_params, outputs
from lm.objectives.tasks.rows import Labels, Layout, layout_of, list_of, spelled
from lm.types import Batch, Key, Params


class WordRows:
    """A `lm.data.examples.ExampleMaker`: a sentence a row.

    Features besides those of `Layout.row`: labels int32 [T], weights float32 [T], 1 at the first
    token of every word, and class_weights float32 [T] where the config has some. `Encoded.notes` is
    where in the row each word begins, int [words]; -1 for words that were cut off.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        layout: Layout,
        labels: Labels,
        class_weights: Sequence[float] | None,
    ) -> None:
        self._tokenizer, self._layout, self._labels = tokenizer, layout, labels
        self._class_weights = class_weights

    @property
    def room(self) -> str:
        return f"{self._layout.room(1)} tokens of text"

    def __call__(self, example: Example, *, labelled: bool) -> Encoded:
        words = words_of(example)
        ids, first = self._first_tokens(words, example.place)
        (kept,), left_out = self._layout.fitted([ids])
        row, (begin,) = self._layout.row([kept])
        places = np.where(first < len(kept), first + begin, -1)
        labels = np.zeros(self._layout.length, np.int32)
        weights = np.zeros(self._layout.length, np.float32)
        if labelled:
            tags = tags_of(example, words)
            there = places >= 0
            numbers = np.array([self._labels.number(tag, example.place) for tag in tags])
            labels[places[there]] = numbers[there]
            weights[places[there]] = 1
        row |= {"labels": labels, "weights": weights}
        if self._class_weights is not None:
            row["class_weights"] = np.array(self._class_weights, np.float32)[labels]
        return Encoded([row], left_out, notes=places)

    def _first_tokens(self, words: list[str], place: str) -> tuple[list[int], Tokens]:
        """The sentence's tokens, and the first one of every word: that with the word's first
        characters that any token has."""
        ids, spans = spans_of(self._tokenizer, " ".join(words))
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        begins = ends - [len(word) for word in words]
        # By where tokens end: a space before a word may be the word's token's.
        reached = np.array([end for _, end in spans])
        first = np.searchsorted(reached, begins, side="right")
        for number, token in enumerate(first):
            if token == len(ids) or spans[token][0] >= ends[number]:
                raise UserError(
                    f"{place}: the tokenizer has no token for the word {words[number]!r} "
                    f"(number {number + 1}): remove it, or write it otherwise"
                )
        return ids, first


def words_of(example: Example) -> list[str]:
    """Raises UserError for words that are none."""
    words = list_of(example, "words")
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise UserError(f"{example.place}: {word!r} is no word")
    return words


def tags_of(example: Example, words: list[str]) -> list[str]:
    """Raises UserError where there are not as many tags as words."""
    tags = [spelled(tag) for tag in list_of(example, "tags")]
    if len(tags) != len(words):
        raise UserError(f"{example.place} has {len(words)} words and {len(tags)} tags")
    return tags


class TokenClassificationObjective:
    """Cross-entropy of every word's tag. A batch is what `WordRows` make, [B, T]. Terms:

        loss            as above, in nats a word
        weighted_loss   while training, in the place of "loss" (which stays as a metric), where the
                        config has class weights: their weighted mean
        accuracy        metric: the likeliest tag is right
        actual, found, hit   metrics, where `config.outside` is set: shares of the words: those with
                        another tag than that, those said to have one, and those rightly
    Answers: {"tags", "probabilities"}, both a list with an item a word; None for words that did
    not fit the row.
    """

    def __init__(self, config: TokenClassification, model: ModelConfig) -> None:
        self.config = config
        self.model = build_model(model)
        self._labels = Labels(config.labels)

    def example_maker(
        self, tokenizer: Tokenizer, data: DataConfig, training: Sequence[Example] = ()
    ) -> ExampleMaker:
        """See `WordRows`."""

        def names(example: Example) -> list[str]:
            return [spelled(tag) for tag in list_of(example, "tags")]

        self._labels.check_all(training, names)
        weights = self._labels.weights(self.config.class_weights, training, names)
        layout = layout_of(tokenizer, self.model.config, data)
        return WordRows(tokenizer, layout, self._labels, weights)

    def init(self, rng: Key, batch: Batch) -> Params:
        """Initial parameters, with their logical axis names."""
        return initial_params(self.model, rng, batch["tokens"])

    def logits(
        self, params: Params, batch: Batch, rng: Key | None = None, *, train: bool = False
    ) -> Float[Array, "B T labels"]:
        return outputs(self.model, params, "token_classification", batch, rng, train=train)

    def loss(
        self, params: Params, batch: Batch, rng: Key | None, *, train: bool
    ) -> dict[str, Term]:
        """The terms of one batch. Device, pure; `rng` feeds dropout while training."""
        logits = self.logits(params, batch, rng, train=train)
        labels, weights = batch["labels"], batch["weights"]
        weight = jnp.sum(weights)
        log_p = jax.nn.log_softmax(logits)
        losses = -jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
        found = jnp.argmax(logits, axis=-1)

        def mean(values: jax.Array, coefficient: float = 0.0) -> Term:
            return Term(jnp.sum(values * weights), weight, coefficient)

        weighted = train and "class_weights" in batch
        terms = {"loss": mean(losses, 0.0 if weighted else 1.0), "accuracy": mean(found == labels)}
        if weighted:
            own = weights * batch["class_weights"]
            terms["weighted_loss"] = Term(jnp.sum(losses * own), jnp.sum(own), 1.0)
        if self.config.outside is not None:
            outside = self.config.labels.index(self.config.outside)
            actual, said = labels != outside, found != outside
            terms |= {
                "actual": mean(actual),
                "found": mean(said),
                "hit": mean(actual & (found == labels)),
            }
        return terms

    def predict(self, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """{"tag": int32 [B, T], "probability": float32 [B, T]}: the likeliest one's."""
        p = jax.nn.softmax(self.logits(params, batch))
        return {"tag": jnp.argmax(p, axis=-1), "probability": jnp.max(p, axis=-1)}

    def answer(
        self, example: Example, encoded: Encoded, predicted: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """See `lm.objectives.base.TaskObjective`."""
        tags, p = predicted["tag"][0], predicted["probability"][0]
        places = [int(place) for place in encoded.notes]
        return {
            "tags": [self.config.labels[tags[i]] if i >= 0 else None for i in places],
            "probabilities": [float(p[i]) if i >= 0 else None for i in places],
        }

    def truth(self, example: Example) -> dict[str, Any]:
        tags = tags_of(example, words_of(example))
        for tag in tags:
            self._labels.number(tag, example.place)
        return {"tags": tags}
