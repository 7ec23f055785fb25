"""Intervals and comparisons by resampling; the spread of seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lm.errors import ConfigError, UserError
from lm.evaluate.metrics.bootstrap import (
    compare_metric,
    compare_statistic,
    metric_intervals,
    spread,
    statistic_interval,
)
from lm.evaluate.metrics.classification import accuracy
from lm.evaluate.metrics.correlation import pearson

RNG = np.random.default_rng(0)
REFERENCES = RNG.integers(2, size=400)
# Right for about 80 % and 70 %.
GOOD = np.where(RNG.random(400) < 0.8, REFERENCES, 1 - REFERENCES)
WORSE = np.where(RNG.random(400) < 0.6, REFERENCES, 1 - REFERENCES)


def test_an_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    right = (GOOD == REFERENCES).astype(float)
    found = statistic_interval(right, resamples=2000)
    half = 1.96 * right.std() / math.sqrt(400)
    assert found.value == right.mean() and found.undefined == 0
    assert found.low == pytest.approx(right.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(right.mean() + half, abs=0.15 * half)
    narrow = statistic_interval(right, resamples=2000, confidence=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def test_the_same_seed_draws_the_same_examples_whatever_the_form() -> None:
    """A metric, its per-example values, and sums of statistics: one interval."""
    right = (GOOD == REFERENCES).astype(float)
    statistics = np.stack([right, np.ones(400)], 1)
    metric = metric_intervals(accuracy, GOOD, REFERENCES, resamples=50, seed=3)["accuracy"]
    values = statistic_interval(right, resamples=50, seed=3)
    sums = statistic_interval(statistics, lambda s: s[0] / s[1], resamples=50, seed=3)
    assert metric == values == sums
    assert statistic_interval(right, resamples=50, seed=4) != values
    # Lists are taken as arrays are.
    again = metric_intervals(accuracy, GOOD.tolist(), REFERENCES.tolist(), resamples=50, seed=3)
    assert again["accuracy"] == metric


def test_paired_comparison() -> None:
    found = compare_metric(accuracy, GOOD, WORSE, REFERENCES, resamples=200)["accuracy"]
    right = [(system == REFERENCES).astype(float) for system in (GOOD, WORSE)]
    assert found == compare_statistic(*right, resamples=200)
    assert found.first == right[0].mean() and found.second == right[1].mean()
    assert found.difference.value == pytest.approx(found.first - found.second)
    assert found.difference.low > 0 and found.p_value < 0.01 and found.first_wins > 0.99
    turned = compare_metric(accuracy, WORSE, GOOD, REFERENCES, resamples=200)["accuracy"]
    assert turned.p_value == found.p_value and turned.second_wins == found.first_wins
    same = compare_metric(accuracy, GOOD, GOOD, REFERENCES, resamples=20)["accuracy"]
    assert same.p_value == 1 and same.first_wins == same.second_wins == 0
    # Pairs matter: a system better by a little on every example is better in every sample.
    noise = RNG.normal(size=100)
    assert compare_statistic(noise + 0.01, noise, resamples=50).p_value == 0


def test_samples_without_the_figure_are_counted() -> None:
    """Of two examples half the samples are one example twice: no correlation."""
    found = metric_intervals(pearson, [1.0, 2.0], [2.0, 3.0], resamples=100)["pearson"]
    assert 25 < found.undefined < 75 and found.low == found.high == 1
    nothing = metric_intervals(pearson, [1.0], [2.0], resamples=10)["pearson"]
    assert nothing.undefined == 10 and math.isnan(nothing.low)


def test_spread_of_seeds() -> None:
    found = spread([1.0, 2.0, 4.0])
    assert found.mean == pytest.approx(7 / 3)
    assert found.deviation == pytest.approx(math.sqrt((16 + 1 + 25) / 9 / 2))
    assert str(found) == "2.333 ± 1.5 (3 runs)"
    assert spread([3.0]).deviation is None and str(spread([3.0])) == "3 (1 run)"


def test_errors() -> None:
    with pytest.raises(UserError, match="no examples"):
        statistic_interval([])
    with pytest.raises(UserError, match="1 predictions for 2"):
        metric_intervals(accuracy, [1], [1, 2])
    with pytest.raises(UserError, match="1 predictions for 2"):
        compare_metric(accuracy, [1, 2], [1], [1, 2])
    with pytest.raises(UserError, match="2 dimension"):
        statistic_interval([1.0], lambda sums: sums[0])
    with pytest.raises(UserError, match="no values"):
        spread([])
    with pytest.raises(ConfigError, match="between 0 and 1"):
        statistic_interval([1.0], confidence=95.0)
    with pytest.raises(ConfigError, match="1 resample"):
        statistic_interval([1.0], resamples=0)
