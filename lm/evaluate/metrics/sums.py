"""What each example adds to a metric: of its sums a sample's figures are made at once, so that
intervals cost seconds where measuring a thousand samples anew would take hours."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Num

from lm.evaluate.metrics import chrf, classification, entities, text
from lm.evaluate.metrics.bootstrap import Interval, metric_intervals, statistic_intervals
from lm.evaluate.metrics.common import Metric, Scores, Values, pairs
from lm.evaluate.metrics.registry import metric


class Sums(NamedTuple):
    """Rows [examples, k], and what their sum over examples says."""

    rows: Num[np.ndarray, "n k"]
    figures: Callable[[np.ndarray], Scores]


def intervals(
    name: str,
    predictions: Values,
    references: Values,
    *,
    resamples: int = 1000,
    seed: int = 0,
    **options: Any,
) -> dict[str, Interval]:
    """A metric's figures with their 95 % intervals over examples; without resamples the figures
    alone (low and high are nan).

    Raises: as `lm.evaluate.metrics.registry.metric`, and as the metric does.
    """
    chosen = metric(name, **options)
    whole = chosen(predictions, references)
    if not resamples:
        return {key: Interval(value, math.nan, math.nan) for key, value in whole.items()}
    drawing: dict[str, Any] = {"resamples": resamples, "seed": seed}
    if name in _SUMS:
        sums = _SUMS[name](predictions, references, **options)
    elif name in _MEANS and not any(key.startswith("best_") for key in whole):
        sums = _means(chosen, predictions, references)
    else:
        return metric_intervals(chosen, predictions, references, **drawing)
    found = statistic_intervals(sums.rows, sums.figures, **drawing)
    return {key: dataclasses.replace(found[key], value=value) for key, value in whole.items()}


# Means of what each example is worth (as the best threshold of SQuAD v2 is none).
_MEANS = ("accuracy", "squad", "squad_v2", "squad_chinese", "rouge", "exact_match")


def _means(chosen: Metric, predictions: Values, references: Values) -> Sums:
    """Two columns a figure: its value, and whether the example has it (of SQuAD v2 some figures
    are of questions with an answer, or without)."""
    each = [chosen([p], [r]) for p, r in zip(predictions, references)]
    names = list(dict.fromkeys(name for scores in each for name in scores))
    rows = [[x for name in names for x in (scores.get(name, 0.0), name in scores)]
            for scores in each]  # fmt: skip

    def figures(sums: np.ndarray) -> Scores:
        values, counts = sums.reshape(-1, 2).T
        return {n: v / c if c else math.nan for n, v, c in zip(names, values, counts)}

    return Sums(np.array(rows, np.float64), figures)


def _f1(
    predictions: Values,
    references: Values,
    *,
    average: str,
    positive: Any = 1,
    labels: Any = None,
) -> Sums:
    found, wanted = pairs(predictions, references)
    if average == "binary":
        rows = classification.class_rows(found, wanted, [positive])
        return Sums(rows, lambda sums: _averaged(sums, "micro", True))
    rows = classification.class_rows(found, wanted, labels)

    def figures(sums: np.ndarray) -> Scores:
        scores = _averaged(sums, average, labels is not None)
        return {f"{name}_{average}": value for name, value in scores.items()}

    return Sums(rows, figures)


def _averaged(sums: np.ndarray, average: str, all_classes: bool) -> Scores:
    counts = classification.counts_of_sums(sums, all_classes=all_classes)
    return classification.averaged(counts, average)


def _matthews(predictions: Values, references: Values) -> Sums:
    rows = classification.class_rows(*pairs(predictions, references))
    return Sums(
        rows, lambda sums: classification.matthews_of_counts(classification.counts_of_sums(sums))
    )


def _entities(predictions: Values, references: Values, *, average: str = "micro") -> Sums:
    _, rows = entities.entity_counts(predictions, references)
    return Sums(rows, partial(entities.entities_of_counts, average=average))


def _words(predictions: Values, references: Values) -> Sums:
    return Sums(entities.word_counts(predictions, references), entities.word_accuracy_of_counts)


def _bleu(predictions: Values, references: Values, **options: Any) -> Sums:
    return Sums(text.bleu_rows(predictions, references, **options), text.bleu_of_rows)


def _bleu_tokenised(
    predictions: Values, references: Values, *, split_compounds: bool = False
) -> Sums:
    rows = [
        text.bleu_counts(p, [r] if isinstance(r, str) else r, split_compounds)
        for p, r in zip(predictions, references)
    ]
    return Sums(np.array(rows), text.bleu_of_counts)


def _chrf(predictions: Values, references: Values, **options: Any) -> Sums:
    rows = [
        chrf.chrf_counts(p, [r] if isinstance(r, str) else r, **options)
        for p, r in zip(predictions, references)
    ]
    return Sums(np.array(rows), chrf.chrf_of_counts)


_SUMS: dict[str, Callable[..., Sums]] = {
    "f1": partial(_f1, average="binary"),
    "f1_macro": partial(_f1, average="macro"),
    "f1_micro": partial(_f1, average="micro"),
    "f1_weighted": partial(_f1, average="weighted"),
    "matthews": _matthews,
    "entities": _entities,
    "word_accuracy": _words,
    "bleu": _bleu,
    "bleu_tokenised": _bleu_tokenised,
    "chrf": _chrf,
}
