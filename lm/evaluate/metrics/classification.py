"""Metrics of class labels, as scikit-learn defines them.

A division by zero gives 0 (scikit-learn's default, `zero_division=0`): precision where a class is
never predicted, recall where it never occurs, F1 where it does neither.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Real

from lm.errors import ConfigError, UserError
from lm.evaluate.metrics.common import Scores, Values, check_lengths, number_array, pairs, ratio


@dataclass(frozen=True)
class Counts:
    """Of each class: how often predicted rightly, predicted at all, and in the references."""

    hits: Int[np.ndarray, "classes"]
    predicted: Int[np.ndarray, "classes"]
    actual: Int[np.ndarray, "classes"]


def accuracy(predictions: Values, references: Values) -> Scores:
    """The share of predictions that equal their reference."""
    found, wanted = pairs(predictions, references)
    return {"accuracy": sum(p == r for p, r in zip(found, wanted)) / len(wanted)}


def f1(
    predictions: Values,
    references: Values,
    *,
    average: str = "binary",
    positive: Any = 1,
    labels: Sequence[Any] | None = None,
) -> Scores:
    """Precision, recall and F1; all but the binary ones are named after their average.

    Args:
      average: "binary" is of the class `positive`; "micro" counts over all classes; "macro" is the
        mean over the classes; "weighted" weighs them by how often they occur in the references.
      labels: the classes to average over, for all but "binary"; None is all that occur among
        predictions or references. A predicted text that is no label at all counts as a class too
        then: give the labels where predictions are generated.

    Raises:
      UserError: labels of mixed kinds; "binary" with other than two classes.
      ConfigError: an unknown average, or labels with "binary".
    """
    found, wanted = pairs(predictions, references)
    if average == "binary":
        if labels is not None:
            raise ConfigError("labels choose what to average over: 'binary' has `positive` instead")
        present = _classes([*found, *wanted])
        if len(present) > 2 or (len(present) == 2 and positive not in present):
            raise UserError(
                f"binary F1 of the class {positive!r} is of two classes, one of them that; here "
                f"are {len(present)}: {present!r:.80}; f1_macro, f1_micro and f1_weighted take any"
            )
        return averaged(count(found, wanted, [positive]), "micro")
    scores = averaged(count(found, wanted, labels), average)
    return {f"{name}_{average}": value for name, value in scores.items()}


def count(
    predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[Any] | None = None
) -> Counts:
    """Counts of the given classes, or of all that occur, sorted."""
    classes = _classes([*predictions, *references]) if labels is None else list(labels)
    hits = [p for p, r in zip(predictions, references) if p == r]
    try:
        counters = Counter(hits), Counter(predictions), Counter(references)
    except TypeError as error:
        raise UserError(f"labels must be numbers or texts: {error}") from error
    return Counts(*(np.array([c[label] for label in classes], np.int64) for c in counters))


def class_rows(
    predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[Any] | None = None
) -> Int[np.ndarray, "n k"]:
    """What each example adds to `count`: 0 or 1 for each class as hits, then as predicted, then as
    actual."""
    classes = _classes([*predictions, *references]) if labels is None else list(labels)
    number = {label: place for place, label in enumerate(classes)}
    size, rows = len(classes), np.zeros((len(references), 3 * len(classes)), np.int64)
    for row, prediction, reference in zip(rows, predictions, references):
        if prediction in number:
            row[size + number[prediction]] = 1
            row[number[prediction]] = prediction == reference
        if reference in number:
            row[2 * size + number[reference]] = 1
    return rows


def counts_of_sums(sums: Real[np.ndarray, "k"], *, all_classes: bool = False) -> Counts:
    """The counts of summed rows [hits, predicted, actual of every class]. A class that does not
    occur in this sample counts only where all do."""
    hits, predicted, actual = sums.astype(np.int64).reshape(3, -1)
    kept = all_classes | (predicted + actual > 0)
    return Counts(hits[kept], predicted[kept], actual[kept])


def each_class(
    predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[Any]
) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of every label, and how many examples have it."""
    counts = count(predictions, references, labels)
    columns = {
        "precision": _ratios(counts.hits, counts.predicted),
        "recall": _ratios(counts.hits, counts.actual),
        "f1": _ratios(2 * counts.hits, counts.predicted + counts.actual),
        "examples": counts.actual,
    }
    return {
        str(label): {name: values[place].item() for name, values in columns.items()}
        for place, label in enumerate(labels)
    }


def averaged(counts: Counts, average: str) -> Scores:
    """Precision, recall and F1 over classes; no class at all gives 0."""
    if average == "micro":
        summed = (values.sum() for values in (counts.hits, counts.predicted, counts.actual))
        counts = Counts(*(np.array([value], np.int64) for value in summed))
        weights = np.ones(1)
    elif average == "macro":
        weights = np.ones(len(counts.actual))
    elif average == "weighted":
        weights = counts.actual.astype(np.float64)
    else:
        raise ConfigError(
            "average must be macro, micro or weighted (f1 has binary, multilabel samples too), not "
            f"{average!r}"
        )
    each = {
        "precision": _ratios(counts.hits, counts.predicted),
        "recall": _ratios(counts.hits, counts.actual),
        "f1": _ratios(2 * counts.hits, counts.predicted + counts.actual),
    }
    return {
        name: ratio(float(values @ weights), float(weights.sum())) for name, values in each.items()
    }


def confusion_matrix(
    predictions: Values, references: Values, labels: Sequence[Any] | None = None
) -> tuple[list[Any], Int[np.ndarray, "classes classes"]]:
    """The classes, and how often each (row) was taken for each (column).

    Args:
      labels: the classes, in this order; None is all that occur, sorted. Examples of others are
        left out, as scikit-learn does.
    """
    found, wanted = pairs(predictions, references)
    classes = _classes([*found, *wanted]) if labels is None else list(labels)
    index = {label: place for place, label in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for (wanted_one, found_one), times in Counter(zip(wanted, found)).items():
        if wanted_one in index and found_one in index:
            matrix[index[wanted_one], index[found_one]] += times
    return classes, matrix


def matthews(predictions: Values, references: Values) -> Scores:
    """Matthews' correlation, of two or more classes (Gorodkin 2004); 0 where either is constant."""
    return matthews_of_counts(count(*pairs(predictions, references)))


def matthews_of_counts(counts: Counts) -> Scores:
    """`matthews` of the counts of all classes."""
    # Python's integers: fourth powers of a count soon exceed 64 bits.
    total, hits = int(counts.actual.sum()), int(counts.hits.sum())
    predicted, actual = counts.predicted.tolist(), counts.actual.tolist()
    covariance = hits * total - sum(p * a for p, a in zip(predicted, actual))
    spreads = [total * total - sum(n * n for n in counted) for counted in (predicted, actual)]
    return {"matthews": ratio(covariance, math.sqrt(spreads[0] * spreads[1]))}


def multilabel(
    predictions: Values,
    references: Values,
    *,
    average: str = "micro",
) -> Scores:
    """Metrics of examples that may have several labels, or none.

    Precision, recall and F1 are as for single labels; "samples" is the mean over the examples of
    each one's. "subset_accuracy" is the share of examples with all labels right, "hamming_loss"
    the share of wrong entries.

    Args:
      predictions, references: [examples, labels] of 0 and 1.

    Raises:
      UserError: other values or shapes.
    """
    found, wanted = _indicators(predictions, "predictions"), _indicators(references, "references")
    check_lengths(len(found), len(wanted))
    if found.shape != wanted.shape or not wanted.shape[1]:
        raise UserError(f"as many labels, and some: {found.shape[1]} for {wanted.shape[1]}")
    axis = 1 if average == "samples" else 0
    counts = Counts((found & wanted).sum(axis), found.sum(axis), wanted.sum(axis))
    scores = averaged(counts, "macro" if average == "samples" else average)
    return {
        **{f"{name}_{average}": value for name, value in scores.items()},
        "subset_accuracy": float((found == wanted).all(1).mean()),
        "hamming_loss": float((found != wanted).mean()),
    }


def _ratios(
    numerators: Int[np.ndarray, "n"], denominators: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    return np.where(denominators > 0, numerators / np.maximum(denominators, 1), 0.0)


def _classes(labels: Sequence[Any]) -> list[Any]:
    """What occurs, sorted."""
    for label in labels:
        if isinstance(label, float) and not label.is_integer():
            raise UserError(f"{label} is no class label: labels are whole numbers or texts")
    try:
        return sorted(set(labels))
    except TypeError as error:
        raise UserError(f"labels must be all numbers or all texts: {error}") from error


def _indicators(values: Values, name: str) -> Int[np.ndarray, "n labels"]:
    if not len(values):
        return np.zeros((0, 0), np.int64)
    array = number_array(values, name, 2)
    if not np.isin(array, (0, 1)).all():
        raise UserError(f"{name} must be 0 or 1 for each label of each example")
    return array.astype(np.int64)
