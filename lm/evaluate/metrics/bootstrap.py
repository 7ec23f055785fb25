"""How sure a figure is: bootstrap over examples, paired bootstrap of two systems, spread of seeds.

Examples are drawn anew with replacement, as many as there are, and the figure computed of each
such sample (Efron 1979). Two systems are compared on the same samples (Koehn 2004). The same seed
draws the same samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lm.errors import ConfigError, UserError
from lm.evaluate.metrics.common import (
    Metric,
    Scores,
    Values,
    check_lengths,
    number_array,
)

# A figure from the sums over examples of their statistics [K].
Combine = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Interval:
    """A figure, and the percentiles of the resampled ones that enclose it.

    `undefined` counts the samples in which it was nan or absent (a correlation with a constant);
    they are left out. Without any other, low and high are nan.
    """

    value: float
    low: float
    high: float
    undefined: int = 0


@dataclass(frozen=True)
class Comparison:
    """Two systems' figures on the same examples.

    `difference` is first - second. `first_wins` and `second_wins` are the shares of samples where
    that system's figure is the higher. `p_value` is the share of samples in which the difference
    has not the sign it has on all examples; 1 where that is 0.
    """

    first: float
    second: float
    difference: Interval
    first_wins: float
    second_wins: float
    p_value: float


def metric_intervals(
    metric: Metric,
    predictions: Values,
    references: Values,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of any metric's figures, computed anew of every sample of examples.

    Raises:
      ConfigError: no resamples, or a confidence not between 0 and 1.
      UserError: what the metric raises.
    """
    size = _size(predictions, references)
    samples = _samples(size, resamples, confidence, seed)
    whole = metric(predictions, references)
    drawn = [metric(_take(predictions, s), _take(references, s)) for s in samples]
    return {name: _interval(whole[name], _column(drawn, name), confidence) for name in whole}


def statistic_interval(
    statistics: Values,
    combine: Combine | None = None,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The interval of a mean of examples' values [N], or of what `combine` makes of the sums of
    their statistics [N, K]: far quicker than `metric_intervals`, where a metric has such.

    Raises: as `metric_intervals`.
    """
    figure, size = _figure(statistics, combine)
    samples = _samples(size, resamples, confidence, seed)
    whole = figure(np.arange(size))
    return _interval(whole, np.array([figure(sample) for sample in samples]), confidence)


def statistic_intervals(
    statistics: Values,
    figures: Callable[[np.ndarray], Scores],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """As `statistic_interval`, of several figures of the same sums [K].

    Raises: as `metric_intervals`.
    """
    array = number_array(statistics, "statistics", 2)
    check_lengths(len(array), len(array))
    samples = _samples(len(array), resamples, confidence, seed)
    whole = figures(array.sum(axis=0))
    drawn = [figures(array[sample].sum(axis=0)) for sample in samples]
    return {name: _interval(whole[name], _column(drawn, name), confidence) for name in whole}


def compare_metric(
    metric: Metric,
    first: Values,
    second: Values,
    references: Values,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compares two systems' predictions for the same references, by all of a metric's figures.

    Raises: as `metric_intervals`.
    """
    size = _size(first, references)
    _size(second, references)
    samples = _samples(size, resamples, confidence, seed)
    wholes = [metric(system, references) for system in (first, second)]
    drawn: tuple[list[Scores], list[Scores]] = ([], [])
    for sample in samples:
        wanted = _take(references, sample)
        for scores, system in zip(drawn, (first, second)):
            scores.append(metric(_take(system, sample), wanted))
    return {
        name: _comparison(
            wholes[0][name],
            wholes[1][name],
            _column(drawn[0], name),
            _column(drawn[1], name),
            confidence,
        )
        for name in wholes[0]
        if name in wholes[1]
    }


def compare_statistic(
    first: Values,
    second: Values,
    combine: Combine | None = None,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compares two systems by their examples' statistics; see `statistic_interval`."""
    (ours, size), (theirs, other) = _figure(first, combine), _figure(second, combine)
    check_lengths(size, other)
    samples = _samples(size, resamples, confidence, seed)
    whole = np.arange(size)
    drawn, others = (np.array([figure(s) for s in samples]) for figure in (ours, theirs))
    return _comparison(ours(whole), theirs(whole), drawn, others, confidence)


# -------------------------------------------------------------------------------------------- seeds


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (of a sample: n - 1) of `count` runs that differ in their seed;
    of one run there is no deviation."""

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        if self.deviation is None:
            return f"{self.mean:.4g} (1 run)"
        return f"{self.mean:.4g} ± {self.deviation:.2g} ({self.count} runs)"


def spread(values: Values) -> Spread:
    """Of one figure's values, one for each seed.

    Raises:
      UserError: no value, or one that is not finite.
    """
    array = number_array(values, "values")
    if not len(array):
        raise UserError("no values: there is no mean of nothing")
    deviation = float(array.std(ddof=1)) if len(array) > 1 else None
    return Spread(float(array.mean()), deviation, len(array))


# ----------------------------------------------------------------------------------------- the rest


def _samples(size: int, resamples: int, confidence: float, seed: int) -> list[Int[np.ndarray, "n"]]:
    if resamples < 1 or not 0 < confidence < 1:
        raise ConfigError(
            f"a bootstrap needs 1 resample or more, and a confidence between 0 and 1, not "
            f"{resamples} and {confidence}"
        )
    generator = np.random.default_rng(seed)
    return [generator.integers(size, size=size) for _ in range(resamples)]


def _size(predictions: Values, references: Values) -> int:
    check_lengths(len(predictions), len(references))
    return len(references)


def _take(values: Values, sample: Int[np.ndarray, "n"]) -> Values:
    if isinstance(values, np.ndarray):
        return values[sample]
    return [values[index] for index in sample.tolist()]


def _figure(
    statistics: Values, combine: Combine | None
) -> tuple[Callable[[np.ndarray], float], int]:
    """The figure of a sample of examples, and how many examples there are."""
    array = number_array(statistics, "statistics", 1 if combine is None else 2)
    check_lengths(len(array), len(array))
    if combine is None:
        return (lambda sample: float(array[sample].mean())), len(array)
    return (lambda sample: float(combine(array[sample].sum(axis=0)))), len(array)


def _column(scores: Sequence[Scores], name: str) -> Float[np.ndarray, "n"]:
    return np.array([some.get(name, math.nan) for some in scores], np.float64)


def _interval(value: float, drawn: Float[np.ndarray, "n"], confidence: float) -> Interval:
    defined = drawn[~np.isnan(drawn)]
    low = high = math.nan
    if len(defined):
        tail = 50 * (1 - confidence)
        low, high = map(float, np.percentile(defined, [tail, 100 - tail]))
    return Interval(float(value), low, high, len(drawn) - len(defined))


def _comparison(
    first: float,
    second: float,
    ours: Float[np.ndarray, "n"],
    theirs: Float[np.ndarray, "n"],
    confidence: float,
) -> Comparison:
    drawn = ours - theirs
    difference = _interval(first - second, drawn, confidence)
    # nan is neither: a sample that tells nothing counts against both.
    wins, losses = float((drawn > 0).mean()), float((drawn < 0).mean())
    agreeing = wins if difference.value > 0 else losses if difference.value < 0 else 0.0
    return Comparison(float(first), float(second), difference, wins, losses, 1 - agreeing)
