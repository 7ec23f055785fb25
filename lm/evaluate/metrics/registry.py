"""Metrics by name, all of one shape: `metric("squad")(predictions, references)` -> named figures.

    accuracy           labels                              share of right ones
    f1                 labels, two classes                 precision, recall, F1 of one of them
    f1_macro, f1_micro, f1_weighted   labels               averaged over the classes
    matthews           labels                              Matthews' correlation
    multilabel         [N, labels] of 0 and 1              precision, recall, F1 and others
    calibration        probabilities [N, classes], class   expected calibration error
    pearson, spearman, mean_squared_error   numbers
    entities           tags (BIO, BIOES) of each sentence  precision, recall, F1 of entities
    squad              text, gold answers                  exact match, F1 (v1.1)
    squad_v2           text or (text, score), gold answers or none      also with no answer (v2)
    squad_chinese      text, gold answers                  exact match, F1 (CMRC 2018)
    word_accuracy      tags of each sentence               share of words with the right one
    bleu, bleu_tokenised, chrf, rouge, exact_match   text, references
    pass_at_k          programs of each problem, its tests pass@k, running them

Only predictions and references vary; the rest is options: `metric("bleu", tokenize="zh")`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from lm.errors import ConfigError, did_you_mean
from lm.evaluate.metrics import (
    answers,
    calibration,
    chrf,
    classification,
    code,
    correlation,
    entities,
    text,
)
from lm.evaluate.metrics.common import Metric, Scores

_METRICS: dict[str, Callable[..., Scores]] = {
    "accuracy": classification.accuracy,
    "f1": partial(classification.f1, average="binary"),
    "f1_macro": partial(classification.f1, average="macro"),
    "f1_micro": partial(classification.f1, average="micro"),
    "f1_weighted": partial(classification.f1, average="weighted"),
    "matthews": classification.matthews,
    "multilabel": classification.multilabel,
    "calibration": calibration.calibration,
    "pearson": correlation.pearson,
    "spearman": correlation.spearman,
    "mean_squared_error": correlation.mean_squared_error,
    "entities": entities.entities,
    "word_accuracy": entities.word_accuracy,
    "squad": answers.squad,
    "squad_v2": answers.squad_v2,
    "squad_chinese": answers.squad_chinese,
    "bleu": text.bleu,
    "bleu_tokenised": text.bleu_tokenised,
    "chrf": chrf.chrf,
    "rouge": text.rouge,
    "exact_match": text.exact_match,
    "pass_at_k": code.pass_at_k,
}
NAMES = tuple(_METRICS)


def metric(name: str, **options: Any) -> Metric:
    """A metric with its options set.

    Raises:
      ConfigError: an unknown metric or option.
    """
    found = _METRICS.get(name)
    if found is None:
        raise ConfigError(f"there is no metric {name!r}{did_you_mean(name, NAMES)}")
    bound = found.keywords if isinstance(found, partial) else {}
    known = [
        parameter.name
        for parameter in inspect.signature(found).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in bound
    ]
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known) or "; it has none"
            raise ConfigError(f"the metric {name!r} has no option {option!r}{hint}")
    return partial(found, **options)
