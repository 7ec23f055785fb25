"""Calibration: whether predictions are right as often as their probabilities say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lm.errors import ConfigError, UserError
from lm.evaluate.metrics.common import Scores, Values, check_lengths, number_array

BINS = 15


def calibration(predictions: Values, references: Values, *, bins: int = BINS) -> Scores:
    """How far confidence is from accuracy (Guo et al. 2017, section 2).

    An example's confidence is its highest probability. Confidences fall into `bins` bins of equal
    width, closed on the right: ((m - 1) / bins, m / bins]. The expected error is the mean of
    |accuracy - mean confidence| over the bins, weighted by their examples; the maximum is over the
    bins that have any. Of equal probabilities the first class is the predicted one.

    Args:
      predictions: probabilities [examples, classes].
      references: the right class of each, by number.

    Raises:
      UserError: rows that are no probabilities, classes that do not exist.
      ConfigError: fewer than one bin.
    """
    if bins < 1:
        raise ConfigError(f"calibration needs 1 bin or more, not {bins}")
    # Empty input has no second dimension to speak of: it is refused by its length.
    check_lengths(len(predictions), len(references))
    p = number_array(predictions, "predictions", 2)
    classes = number_array(references, "references")
    if (p < 0).any() or not np.allclose(p.sum(1), 1, atol=1e-3):
        raise UserError("predictions must be probabilities: not negative, with rows that sum to 1")
    if not np.isin(classes, np.arange(p.shape[1])).all():
        raise UserError(f"references must be classes from 0 to {p.shape[1] - 1}")
    right = (p.argmax(1) == classes).astype(np.float64)
    # Rows may sum to a little more than 1, in float32.
    confidence = np.minimum(p.max(1), 1.0)
    return {
        **_gaps(reliability(confidence, right, bins), len(right)),
        "accuracy": float(right.mean()),
        "confidence": float(confidence.mean()),
    }


@dataclass(frozen=True)
class Bins:
    """Of every bin of confidence: its examples, and the sums of their confidence and of how many
    are right."""

    examples: Int[np.ndarray, "bins"]
    confidence: Float[np.ndarray, "bins"]
    right: Float[np.ndarray, "bins"]


def reliability(
    confidence: Float[np.ndarray, "n"], right: Float[np.ndarray, "n"], bins: int
) -> Bins:
    """Confidences in `bins` bins of equal width, as `calibration` has them."""
    edges = np.arange(bins + 1) / bins
    index = np.searchsorted(edges, confidence, side="left") - 1
    return Bins(
        np.bincount(index, minlength=bins),
        np.bincount(index, confidence, minlength=bins),
        np.bincount(index, right, minlength=bins),
    )


def _gaps(bins: Bins, total: int) -> Scores:
    some = bins.examples > 0
    sums = bins.right - bins.confidence
    gaps = np.abs(sums[some] / bins.examples[some])
    return {
        "expected_calibration_error": float(np.abs(sums).sum() / total),
        "maximum_calibration_error": float(gaps.max()),
    }
