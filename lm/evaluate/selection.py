"""Which metrics measure the answers of an objective, and what they take of answers and truths.

Answers are those of `lm.predict`; truths are under the same names: what `TaskObjective.truth` says,
or {"texts": [...]} where a text was to be written.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lm.config import (
    Classification,
    Config,
    QuestionAnswering,
    TokenClassification,
    WordsTokenizer,
)
from lm.errors import ConfigError, did_you_mean
from lm.evaluate.metrics.answers import mixed_tokens
from lm.evaluate.metrics.entities import is_tag
from lm.evaluate.metrics.registry import metric
from lm.evaluate.metrics.text import in_other_script

Answer = Mapping[str, Any]
# `--metrics` that measures no answers.
LOSS = "loss"
# What a metric needs that `lm[eval]` brings.
_PACKAGES = {"bleu": "sacrebleu", "rouge": "rouge_score"}
_LABEL = ("accuracy", "f1", "f1_macro", "f1_micro", "f1_weighted", "matthews", "calibration")
# Options that are lists of texts, or a text whatever it looks like.
_LISTS, _WORDS = ("kinds", "labels"), ("positive", "tokenize", "tokenizer", "average")
_TYPES = {bool: "true or false", int: "a whole number", str: "a name"}
_TEXT = ("chrf", "bleu", "bleu_tokenised", "rouge", "exact_match")


@dataclass(frozen=True)
class Chosen:
    """A metric and its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


def kind_of(config: Config) -> str:
    """The kind of answers that a run gives: its objective's, but "multi_label", and
    "sequence_to_sequence" for a converted model that reads one text and writes another."""
    objective = config.objective
    if isinstance(objective, Classification) and objective.multi_label:
        return "multi_label"
    return "sequence_to_sequence" if objective is None else objective.name


_KNOWN: dict[str, tuple[str, ...]] = {
    "classification": _LABEL,
    "multi_label": ("multilabel",),
    "regression": ("pearson", "spearman", "mean_squared_error"),
    "token_classification": ("entities", "word_accuracy"),
    "question_answering": ("squad", "squad_v2", "squad_chinese"),
    "multiple_choice": ("accuracy", "calibration"),
    "sequence_to_sequence": _TEXT,
    "instruction": _TEXT,
}
MEASURED = tuple(_KNOWN)


def parsed(texts: Sequence[str]) -> list[Chosen]:
    """`--metrics=a,b:option=value:option=value`; a list is written with + between.

    Raises:
      ConfigError: an option without a value, or a metric twice.
    """
    found = []
    for text in texts:
        name, *options = text.strip().split(":")
        values = {}
        for option in options:
            key, equals, value = option.partition("=")
            if not (key and equals and value):
                raise ConfigError(
                    f"--metrics: {text!r}: an option is written {name}:OPTION=VALUE, not {option!r}"
                )
            values[key] = _option(key, value)
        found.append(Chosen(name, values))
    twice = [one.name for one in found if [other.name for other in found].count(one.name) > 1]
    if twice:
        raise ConfigError(f"--metrics names {twice[0]!r} twice")
    return found


def _option(name: str, text: str) -> Any:
    if name in _LISTS:
        return text.split("+")
    if text in ("true", "false") and name not in _WORDS:
        return text == "true"
    for kind in (int, float):
        if name not in _WORDS:
            with contextlib.suppress(ValueError):
                return kind(text)
    return text


def check(config: Config, chosen: Sequence[Chosen]) -> None:
    """Raises ConfigError for a metric that measures something else, or an option it has not."""
    kind = kind_of(config)
    for one in chosen:
        if one.name not in _KNOWN[kind]:
            raise ConfigError(
                f"--metrics: {one.name!r} is no metric of {kind}"
                f"{did_you_mean(one.name, _KNOWN[kind])} ({LOSS!r} alone measures no answers)"
            )
        if one.name == "f1" and len(_labels(config)) != 2:
            raise ConfigError(
                f"--metrics: f1 is of the second of two labels, and here are {len(_labels(config))}"
                ": take f1_macro, f1_micro or f1_weighted"
            )
        _check_options(one)
        if kind in ("sequence_to_sequence", "instruction"):
            # A package that is missing, or a value that is none, before hours of writing texts.
            metric(one.name, **one.options)(["a"], ["a"])


def _check_options(chosen: Chosen) -> None:
    """Raises ConfigError for an option that the metric has not, or of another type."""
    metric(chosen.name, **chosen.options)
    parameters = inspect.signature(metric(chosen.name)).parameters
    for option, value in chosen.options.items():
        kind, free = type(parameters[option].default), parameters[option].annotation == "Any"
        if not free and kind in _TYPES and type(value) is not kind:
            raise ConfigError(
                f"--metrics: {chosen.name}:{option} should be {_TYPES[kind]}, not {value!r}"
            )


def default(config: Config, truths: Sequence[Answer]) -> tuple[list[Chosen], list[str]]:
    """What papers measure such answers by; and the names of metrics that are left out, as the
    packages they need are not installed. Chinese has its own forms; ROUGE takes the characters of
    examples whose references are in another script than Latin, and the words of the others."""
    objective, kind = config.objective, kind_of(config)
    if kind == "classification":
        two = ["f1"] if len(_labels(config)) == 2 else []
        return [Chosen(n) for n in ("accuracy", *two, "f1_macro", "matthews", "calibration")], []
    if isinstance(objective, TokenClassification):
        tags = all(map(is_tag, objective.labels))
        return [*([Chosen("entities")] if tags else []), Chosen("word_accuracy")], []
    if isinstance(objective, QuestionAnswering):
        if objective.unanswerable:
            return [Chosen("squad_v2")], []
        return [Chosen("squad_chinese" if _chinese(truths, "answers") else "squad")], []
    if kind in ("sequence_to_sequence", "instruction"):
        return _of_texts(config, truths)
    first = {"multiple_choice": ("accuracy",)}
    return [Chosen(name) for name in first.get(kind, _KNOWN[kind])], []


def _of_texts(config: Config, truths: Sequence[Answer]) -> tuple[list[Chosen], list[str]]:
    chinese = _chinese(truths, "texts")
    # Words are runs of a-z: one example in another script does not decide for the rest.
    others = [in_other_script(truth["texts"]) for truth in truths]
    tokenizer = "characters" if all(others) else "script" if any(others) else "words"
    rouge = Chosen("rouge", {} if tokenizer == "words" else {"tokenizer": tokenizer})
    if kind_of(config) == "instruction":
        wanted = [Chosen("exact_match"), rouge]
    else:
        bleu = Chosen("bleu", {"tokenize": "zh"} if chinese else {})
        wanted = [Chosen("chrf"), Chosen("bleu_tokenised") if tokenised(config) else bleu, rouge]
    lacking = [one.name for one in wanted if not installed(one.name)]
    return [one for one in wanted if one.name not in lacking], lacking


def installed(name: str) -> bool:
    """Whether what a metric needs is there."""
    return name not in _PACKAGES or importlib.util.find_spec(_PACKAGES[name]) is not None


def tokenised(config: Config) -> bool:
    """Whether the run's texts are words split already, perhaps with "@@ " inside (`joined`)."""
    return isinstance(config.data.tokenizer, WordsTokenizer)


def joined(text: str) -> str:
    """BPE's pieces as words again ("wo@@ rds"), as fairseq's --remove-bpe has them."""
    return (text + " ").replace("@@ ", "").rstrip()


def _chinese(truths: Sequence[Answer], name: str) -> bool:
    """Whether most of what was to be said is Chinese: most tokens are single characters of it."""
    tokens = [token for truth in truths for text in truth[name] for token in mixed_tokens(text)]
    return sum("\u4e00" <= token <= "\u9fa5" for token in tokens) > len(tokens) / 2


def _labels(config: Config) -> tuple[str, ...]:
    return getattr(config.objective, "labels", ())


def options_of(config: Config, chosen: Chosen) -> dict[str, Any]:
    """The options of a metric, with what the objective says of them."""
    own = {"positive": _labels(config)[1]} if chosen.name == "f1" else {}
    return {**own, **chosen.options}


def values_of(
    config: Config, name: str, answers: Sequence[Answer], truths: Sequence[Answer]
) -> tuple[Any, Any]:
    """Predictions and references as the metric `name` takes them."""
    kind = kind_of(config)
    if name == "calibration":
        return _probabilities(config, answers, truths)
    if kind in ("classification", "multiple_choice"):
        return [a["label"] for a in answers], [t["label"] for t in truths]
    if kind == "multi_label":
        return _indicators(config, answers), _indicators(config, truths)
    if kind == "regression":
        return _values(answers), _values(truths)
    if kind == "token_classification":
        # Of a word that was cut off nothing is said.
        nothing = getattr(config.objective, "outside", None) or "O"
        said = [[nothing if tag is None else tag for tag in a["tags"]] for a in answers]
        return said, [t["tags"] for t in truths]
    if kind == "question_answering":
        return [a["answer"] for a in answers], [t["answers"] for t in truths]
    texts, wanted = [a["text"] for a in answers], [t["texts"] for t in truths]
    if tokenised(config):
        return [joined(text) for text in texts], [[joined(t) for t in some] for some in wanted]
    return texts, wanted


def _values(some: Sequence[Answer]) -> np.ndarray:
    return np.array([one["value"] for one in some], np.float64)


def _indicators(config: Config, some: Sequence[Answer]) -> np.ndarray:
    """[examples, labels] of 0 and 1."""
    return np.array([[label in one["labels"] for label in _labels(config)] for one in some], int)


def _probabilities(
    config: Config, answers: Sequence[Answer], truths: Sequence[Answer]
) -> tuple[np.ndarray, np.ndarray]:
    """[examples, labels], and the number of each right label. Choices that there are not have
    probability 0."""
    if kind_of(config) == "multiple_choice":
        most = max(len(a["probabilities"]) for a in answers)
        p = np.zeros((len(answers), most))
        for row, answer in zip(p, answers):
            row[: len(answer["probabilities"])] = answer["probabilities"]
        return p, np.array([t["label"] for t in truths])
    labels = _labels(config)
    p = np.array([[a["probabilities"][label] for label in labels] for a in answers])
    return p, np.array([labels.index(t["label"]) for t in truths])
