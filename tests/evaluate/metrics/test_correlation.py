"""Correlations and squared error, equal to SciPy's."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.errors import UserError
from lm.evaluate.metrics.correlation import mean_squared_error, pearson, ranks, spearman

NUMBERS = st.one_of(st.integers(-2, 2).map(float), st.floats(-1e3, 1e3).map(lambda x: round(x, 3)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=10))
def test_as_scipy(pairs: list[tuple[float, float]]) -> None:
    x, y = np.array(pairs).T
    np.testing.assert_array_equal(ranks(x), scipy.stats.rankdata(x))
    with warnings.catch_warnings():
        # It warns of constants, and says nan too.
        warnings.simplefilter("ignore")
        expected = scipy.stats.pearsonr(x, y)[0], scipy.stats.spearmanr(x, y)[0]
    assert pearson(x, y)["pearson"] == pytest.approx(expected[0], abs=1e-9, nan_ok=True)
    assert spearman(x, y)["spearman"] == pytest.approx(expected[1], abs=1e-9, nan_ok=True)
    squares = [(a - b) ** 2 for a, b in pairs]
    assert mean_squared_error(x, y)["mean_squared_error"] == pytest.approx(np.mean(squares))


def test_extremes() -> None:
    assert pearson([1e300, -1e300, 1e300], [1e-300, -1e-300, 1e-300])["pearson"] == 1
    assert spearman([1, 2, 3], [1e9, 0, -1e9])["spearman"] == -1
    assert math.isnan(pearson([0.1, 0.1, 0.1], [1, 2, 3])["pearson"])
    assert math.isnan(spearman([1], [2])["spearman"])


def test_what_cannot_be_measured() -> None:
    for predictions, references, words in (
        ([], [], "no examples"),
        ([1.0], [1.0, 2.0], "1 predictions for 2"),
        ([1.0, math.nan], [1.0, 2.0], r"predictions\[1\] is nan"),
        (["high"], [1.0], "must be numbers"),
        ([[1.0]], [1.0], "1 dimension"),
    ):
        with pytest.raises(UserError, match=words):
            pearson(predictions, references)
