"""Extractive question answering: the span of a passage that answers a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lm.config import DataConfig, ModelConfig, QuestionAnswering
from lm.data.examples import Encoded, ExampleMaker
from lm.data.examples_read import Example
from lm.data.tokenizer import Tokenizer, spans_of
from lm.errors import ConfigError, UserError
from lm.model import build_model
from lm.objectives.base import Term
from lm.objectives.common import valid_tokens
from lm.objectives.tasks.body import initial_params, outputs
from lm.objectives.tasks.rows import Layout, layout_of, text_of, value_of
from lm.types import Batch, Features, Key, Params


@dataclass(frozen=True)
class Window:
    """A row's part of the context: places [begin, end) of the row, the characters of each of its
    tokens, and the place of the token that says there is no answer."""

    begin: int
    end: int
    spans: tuple[tuple[int, int], ...]
    none_at: int


class SpanRows:
    """A `lm.data.examples.ExampleMaker`: a row for every window of the context.

    Features besides those of `Layout.row`: start and end int32 [], the places of the answer's first
    and last token, or both that of no answer, and weights float32 []. `Encoded.notes` are
    the `Window`s.
    """

    def __init__(
        self, tokenizer: Tokenizer, layout: Layout, config: QuestionAnswering, *, none_last: bool
    ) -> None:
        self._tokenizer, self._layout, self._config = tokenizer, layout, config
        self._none_last = none_last
        if none_last and not layout.after:
            raise ConfigError(
                "question_answering by a decoder needs data.add_eos=True: the token at the end is "
                "the answer where there is none"
            )
        if layout.room(2) - config.max_question_tokens < 1:
            raise ConfigError(
                f"rows of {layout.length} tokens have no room for a context beside a question of "
                f"max_question_tokens={config.max_question_tokens}"
            )

    @property
    def room(self) -> str:
        return f"{self._config.max_question_tokens} tokens of the question (max_question_tokens)"

    def __call__(self, example: Example, *, labelled: bool) -> Encoded:
        most = self._config.max_question_tokens
        question = self._tokenizer.encode(text_of(example, "question"))
        kept = question[:most]
        context = text_of(example, "context")
        ids, spans = spans_of(self._tokenizer, context)
        answer = self._answer(example, context, spans) if labelled else None
        rows, windows = [], []
        room = self._layout.room(2) - len(kept)
        for first in self._firsts(len(ids), room):
            inside = ids[first : first + room]
            row, (_, begin) = self._layout.row([kept, inside])
            none_at = int(row["positions"].max()) if self._none_last else 0
            end = begin + len(inside)
            windows.append(Window(begin, end, tuple(spans[first : first + len(inside)]), none_at))
            places = (none_at, none_at)
            if answer is not None and first <= answer[0] and answer[1] < first + len(inside):
                places = (answer[0] - first + begin, answer[1] - first + begin)
            rows.append(row | _targets(places, labelled))
        return Encoded(rows, len(question) - len(kept), notes=windows)

    def _firsts(self, count: int, room: int) -> range:
        """The context's tokens that windows begin with: the last one reaches the end."""
        if count <= room:
            return range(1)
        stride = min(self._config.stride, room)
        return range(0, count - room + stride, stride)

    def _answer(
        self, example: Example, context: str, spans: Sequence[tuple[int, int]]
    ) -> tuple[int, int] | None:
        """The first and the last token of the first answer, None where there is none."""
        answers = answers_of(example, context)
        if not answers and not self._config.unanswerable:
            raise UserError(
                f"{example.place} has no answer: set objective.unanswerable=True, or leave such "
                "questions out"
            )
        if not answers:
            return None
        begin = answers[0][1]
        end = begin + len(answers[0][0])
        inside = [n for n, (left, right) in enumerate(spans) if right > begin and left < end]
        if not inside:
            raise UserError(f"{example.place}: the tokenizer has no token for {answers[0][0]!r}")
        return inside[0], inside[-1]


def _targets(places: tuple[int, int], labelled: bool) -> Features:
    return {
        "start": np.array(places[0], np.int32),
        "end": np.array(places[1], np.int32),
        "weights": np.array(labelled, np.float32),
    }


def answers_of(example: Example, context: str) -> list[tuple[str, int]]:
    """(text, first character) of every answer: from [{text, answer_start}], or {text: [...],
    answer_start: [...]}.

    Raises:
      UserError: anything else, or an answer that does not stand there.
    """
    given = value_of(example, "answers")
    wrong = UserError(
        f"{example.place}: answers should be a list of objects with text and answer_start, not "
        f"{given!r}"
    )
    if isinstance(given, dict):
        texts, starts = given.get("text"), given.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise wrong
        given = [{"text": text, "answer_start": start} for text, start in zip(texts, starts)]
    if not isinstance(given, (list, tuple)):
        raise wrong
    found = []
    for answer in given:
        text, start = (
            (answer.get("text"), answer.get("answer_start"))
            if isinstance(answer, dict)
            else (None, None)
        )
        if not isinstance(text, str) or isinstance(start, bool) or not isinstance(start, int):
            raise wrong
        there = context[start : start + len(text)] if start >= 0 else ""
        if not text.strip() or there != text:
            raise UserError(
                f"{example.place}: the answer {text!r} is not at character {start} of the context, "
                f"where {there!r} stands"
            )
        found.append((text, start))
    return found


class QuestionAnsweringObjective:
    """Cross-entropy of the answer's first and of its last token, their mean (Devlin et al. 2019,
    section 4.2). A batch is what `SpanRows` make, [B, ...]. Terms:

        loss      as above, in nats a window
        accuracy  metric: both tokens are the likeliest (of a window: not yet the answer's)
    Answers: {"answer" ("" where there is none), "start", "end": characters [start, end) of the
    context, or None, "score": its log-probability within its window, "null_score": that of no
    answer}. Over the windows the best span wins; with `unanswerable` there is no answer where no
    answer is likelier in every window, by more than `null_threshold` nats.
    """

    null_threshold = 0.0

    def __init__(self, config: QuestionAnswering, model: ModelConfig) -> None:
        self.config = config
        self.model = build_model(model)

    def example_maker(
        self, tokenizer: Tokenizer, data: DataConfig, training: Sequence[Example] = ()
    ) -> ExampleMaker:
        """See `SpanRows`."""
        layout = layout_of(tokenizer, self.model.config, data, self.config.separators)
        none_last = self.model.config.architecture != "encoder"
        return SpanRows(tokenizer, layout, self.config, none_last=none_last)

    def init(self, rng: Key, batch: Batch) -> Params:
        """Initial parameters, with their logical axis names."""
        return initial_params(self.model, rng, batch["tokens"])

    def logits(
        self, params: Params, batch: Batch, rng: Key | None = None, *, train: bool = False
    ) -> Float[Array, "B T ends"]:
        """Of the first and the last token; padding is neither."""
        found = outputs(self.model, params, "span", batch, rng, train=train)
        # A row that is all padding keeps its loss, of weight 0, finite.
        return jnp.where(valid_tokens(batch)[..., None], found, -1e9)

    def loss(
        self, params: Params, batch: Batch, rng: Key | None, *, train: bool
    ) -> dict[str, Term]:
        """The terms of one batch. Device, pure; `rng` feeds dropout while training."""
        logits = self.logits(params, batch, rng, train=train)
        weights = batch["weights"]
        targets = jnp.stack([batch["start"], batch["end"]], axis=-1)
        log_p = jax.nn.log_softmax(logits, axis=1)
        losses = -jnp.take_along_axis(log_p, targets[:, None, :], axis=1)[:, 0]
        right = jnp.all(jnp.argmax(logits, axis=1) == targets, axis=-1)
        weight = jnp.sum(weights)
        return {
            "loss": Term(jnp.sum(jnp.mean(losses, axis=-1) * weights), weight, 1.0),
            "accuracy": Term(jnp.sum(right * weights), weight, 0.0),
        }

    def predict(self, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """{"start", "end"}: log-probabilities of every place of a row, float32 [B, T]."""
        log_p = jax.nn.log_softmax(self.logits(params, batch), axis=1)
        return {"start": log_p[..., 0], "end": log_p[..., 1]}

    def answer(
        self, example: Example, encoded: Encoded, predicted: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """See `lm.objectives.base.TaskObjective`."""
        context = text_of(example, "context")
        best: tuple[float, int, int] | None = None
        nothing = np.inf
        windows: list[Window] = encoded.notes
        for window, start, end in zip(windows, predicted["start"], predicted["end"], strict=True):
            nothing = min(nothing, float(start[window.none_at] + end[window.none_at]))
            found = best_span(
                start[window.begin : window.end],
                end[window.begin : window.end],
                self.config.max_answer_tokens,
            )
            if found is not None and (best is None or found[0] > best[0]):
                best = found[0], window.spans[found[1]][0], window.spans[found[2]][1]
        result: dict[str, Any] = {"answer": "", "start": None, "end": None, "score": None}
        if best is not None:
            result["score"] = best[0]
            if not self.config.unanswerable or nothing - best[0] <= self.null_threshold:
                # A word's token may have the space before it.
                text = context[best[1] : best[2]]
                begin = best[1] + len(text) - len(text.lstrip())
                text = text.strip()
                result |= {"answer": text, "start": begin, "end": begin + len(text)}
        return result | {"null_score": float(nothing)}

    def truth(self, example: Example) -> dict[str, Any]:
        """{"answers": the texts of all right ones}."""
        return {"answers": [text for text, _ in answers_of(example, text_of(example, "context"))]}


def best_span(
    start: Float[np.ndarray, "n"], end: Float[np.ndarray, "n"], longest: int
) -> tuple[float, int, int] | None:
    """(start[i] + end[j], i, j), the largest with i <= j < i + `longest`; None of nothing."""
    best: tuple[float, int, int] | None = None
    for length in range(min(longest, len(start))):
        sums = start[: len(start) - length] + end[length:]
        i = int(np.argmax(sums))
        if best is None or sums[i] > best[0]:
            best = float(sums[i]), i, i + length
    return best
