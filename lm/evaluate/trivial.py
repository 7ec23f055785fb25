"""Answers that need no model, to stand beside a model's: the floor of every task.

They are of the form that the model's have (`lm.predict`), so that the same metrics measure them.

    classification     the most frequent label of the training data, with its labels' frequencies as
                       probabilities; `multi_label`: the labels that more than half of it has
    regression         the mean of the training data
    token_classification   every word's most frequent tag in the training data
    question_answering     the sentence of the context with the most words of the question; no
                       answer, where the training data has such questions and that has the higher
                       F1 on it
    multiple_choice    the place at which the right choice most often stands
    sequence_to_sequence   the source itself; its first sentence, where targets are on average less
                       than half as long as their sources
    instruction        the most frequent answer of the training data

Of what is equally frequent the first by name is taken (of places and sentences the first), so that
the order of the data does not matter.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm.config import Config
from lm.data.examples_read import Example
from lm.evaluate.metrics.answers import mixed_tokens, squad_v2
from lm.evaluate.selection import Answer, kind_of
from lm.objectives.tasks.tokens import words_of

# Added to the count of every label, so that one unseen in training has a probability.
_ADDED = 0.5
# Where a sentence ends: a sign and white space after it, or a Chinese sign.
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*")


class Trivial(NamedTuple):
    """Answers, what they are in words, and their loss as the objective has it (None: none)."""

    answers: list[dict[str, Any]]
    what: str
    loss: float | None = None


def trivial(
    config: Config,
    training: Sequence[tuple[Example, Answer]],
    examples: Sequence[Example],
    truths: Sequence[Answer],
) -> Trivial:
    """The answers to `examples` that the table above says.

    Args:
      training: the examples learned from, with their right answers.
      truths: the right answers, for the loss alone.
    """
    return _KINDS[kind_of(config)](config, [t for _, t in training], training, examples, truths)


def _label(config: Config, learned: Any, _: Any, examples: Any, truths: Any) -> Trivial:
    labels: tuple[str, ...] = config.objective.labels  # type: ignore[union-attr]
    counts = Counter(truth["label"] for truth in learned)
    total = len(learned) + _ADDED * len(labels)
    p = {label: (counts[label] + _ADDED) / total for label in labels}
    most = _most(Counter({label: counts[label] for label in labels}))
    loss = -sum(math.log(p[truth["label"]]) for truth in truths) / len(truths)
    answer = {"label": most, "probabilities": p}
    return Trivial([answer] * len(examples), f"always {most!r}, the most frequent label", loss)


def _labels(config: Config, learned: Any, _: Any, examples: Any, truths: Any) -> Trivial:
    labels: tuple[str, ...] = config.objective.labels  # type: ignore[union-attr]
    counts = Counter(label for truth in learned for label in truth["labels"])
    # A label is there or not: two outcomes.
    p = {label: (counts[label] + _ADDED) / (len(learned) + 2 * _ADDED) for label in labels}
    chosen = [label for label in labels if p[label] > 0.5]
    losses = [
        math.log(p[label] if label in truth["labels"] else 1 - p[label])
        for truth in truths
        for label in labels
    ]
    answer = {"labels": chosen, "probabilities": p}
    what = "the labels that more than half of the training data has: " + (
        ", ".join(chosen) or "none"
    )
    return Trivial([answer] * len(examples), what, -sum(losses) / len(losses))


def _number(config: Config, learned: Any, _: Any, examples: Any, truths: Any) -> Trivial:
    mean = float(np.mean([truth["value"] for truth in learned]))
    loss = float(np.mean([(truth["value"] - mean) ** 2 for truth in truths]))
    return Trivial(
        [{"value": mean}] * len(examples), f"always {mean:.4g}, the training data's mean", loss
    )


def _tags(config: Config, learned: Any, training: Any, examples: Any, truths: Any) -> Trivial:
    by_word: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for example, truth in training:
        for word, tag in zip(words_of(example), truth["tags"]):
            by_word[word][tag] += 1
    most = _most(sum(by_word.values(), Counter()))
    likeliest = {word: _most(tags) for word, tags in by_word.items()}
    answers = []
    for example in examples:
        tags = [likeliest.get(word, most) for word in words_of(example)]
        answers.append({"tags": tags, "probabilities": [None] * len(tags)})
    return Trivial(answers, f"every word's most frequent tag; {most!r} for words never seen")


def _span(config: Config, learned: Any, training: Any, examples: Any, truths: Any) -> Trivial:
    golds = [truth["answers"] for truth in learned]
    if not all(golds):
        said = [_sentence(example)["answer"] for example, _ in training]
        nothing, sentence = (squad_v2(each, golds)["f1"] for each in ([""] * len(golds), said))
        if nothing >= sentence:
            answer = {"answer": "", "score": None}
            return Trivial([answer] * len(examples), "no answer to any question")
    what = "the sentence of the context with the most words of the question"
    return Trivial(list(map(_sentence, examples)), what)


def _sentence(example: Example) -> dict[str, Any]:
    asked = set(mixed_tokens(example.values["question"]))
    # Of equally good ones the first.
    best = max(
        sentences(example.values["context"]),
        key=lambda sentence: len(asked & set(mixed_tokens(sentence))),
    )
    return {"answer": best, "score": None}


def _choice(config: Config, learned: Any, _: Any, examples: Any, truths: Any) -> Trivial:
    counts = Counter(truth["label"] for truth in learned)
    answers: list[dict[str, Any]] = []
    for example in examples:
        places = range(len(example.values["choices"]))
        total = sum(counts[place] + _ADDED for place in places)
        p = [(counts[place] + _ADDED) / total for place in places]
        answers.append({"label": int(np.argmax(p)), "probabilities": p})
    losses = [math.log(a["probabilities"][t["label"]]) for a, t in zip(answers, truths)]
    what = f"always choice {_most(counts)}, the most often right one"
    return Trivial(answers, what, -sum(losses) / len(losses))


def _copy(config: Config, learned: Any, training: Any, examples: Any, truths: Any) -> Trivial:
    sources = sum(len(example.values["text"]) for example, _ in training)
    targets = sum(len(truth["texts"][0]) for truth in learned)
    texts = [example.values["text"] for example in examples]
    if 2 * targets < sources:
        return Trivial([{"text": sentences(t)[0]} for t in texts], "the source's first sentence")
    return Trivial([{"text": text} for text in texts], "the source itself")


def _reply(config: Config, learned: Any, _: Any, examples: Any, truths: Any) -> Trivial:
    most = _most(Counter(truth["texts"][0] for truth in learned))
    shown = most if len(most) <= 40 else f"{most[:40]} ..."
    return Trivial([{"text": most}] * len(examples), f"always {shown!r}, the most frequent answer")


def _most(counts: Counter[Any]) -> Any:
    """The most frequent; of several the first by name."""
    return min(counts, key=lambda name: (-counts[name], name))


_KINDS: dict[str, Callable[..., Trivial]] = {
    "classification": _label,
    "multi_label": _labels,
    "regression": _number,
    "token_classification": _tags,
    "question_answering": _span,
    "multiple_choice": _choice,
    "sequence_to_sequence": _copy,
    "instruction": _reply,
}


def sentences(text: str) -> list[str]:
    """A text's sentences, roughly: abbreviations end some too early. At least one."""
    found = [part.strip() for part in _SENTENCE.split(text) if part.strip()]
    return found or [text]
