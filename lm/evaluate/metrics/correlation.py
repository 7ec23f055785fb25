"""Metrics of numbers: correlation and squared error."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lm.evaluate.metrics.common import Scores, Values, check_lengths, number_array


def pearson(predictions: Values, references: Values) -> Scores:
    """Pearson's correlation; nan, as SciPy's, where either is constant."""
    return {"pearson": _pearson(*_numbers(predictions, references))}


def spearman(predictions: Values, references: Values) -> Scores:
    """Spearman's rank correlation, ties by their average rank; nan where either is constant."""
    found, wanted = _numbers(predictions, references)
    return {"spearman": _pearson(ranks(found), ranks(wanted))}


def mean_squared_error(predictions: Values, references: Values) -> Scores:
    """The mean of the squared differences."""
    found, wanted = _numbers(predictions, references)
    return {"mean_squared_error": float(np.square(found - wanted).mean())}


def ranks(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Ranks from 1; equal values share the average of theirs."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(sizes) - (sizes - 1) / 2)[group]


def _numbers(
    predictions: Values, references: Values
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    found = number_array(predictions, "predictions")
    wanted = number_array(references, "references")
    check_lengths(len(found), len(wanted))
    return found, wanted


def _pearson(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> float:
    if (x == x[0]).all() or (y == y[0]).all():
        return float("nan")
    x, y = _deviations(x), _deviations(y)
    # Sums and no products of matrices, whose rounding is the processor's; and one root: that of a
    # square is exact, and so is the correlation of what lies on a line with itself.
    product = np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y))
    return float(np.clip(product, -1.0, 1.0))


def _deviations(x: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """From the mean, the largest of size 1; scaled before, too: squares leave float's range."""
    x = x / np.abs(x).max()
    x = x - x.mean()
    return x / np.abs(x).max()
