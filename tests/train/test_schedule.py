"""Learning-rate schedules: end points, shapes, and lengths that do not fit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import (
    Constant,
    Cosine,
    Duration,
    InverseSqrt,
    Linear,
    Schedule,
    WarmupStableDecay,
)
from lm.errors import ConfigError
from lm.train.schedule import build_schedule

PEAK, WARMUP, TOTAL = 2.0, 4, 20


def in_steps(duration: Duration) -> int:
    return duration.in_steps(tokens_per_step=10, steps_per_epoch=5.0)


def values(config: Schedule, total: int = TOTAL) -> np.ndarray:
    schedule = build_schedule(config, peak=PEAK, total_steps=total, in_steps=in_steps)
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(total)))


SCHEDULES: list[Any] = [
    Constant(Duration(steps=WARMUP)),
    Linear(Duration(steps=WARMUP), final=0.25),
    Cosine(Duration(steps=WARMUP), final=0.25),
    InverseSqrt(Duration(steps=WARMUP)),
    WarmupStableDecay(Duration(steps=WARMUP), decay=Duration(steps=5), final=0.25),
]


@pytest.mark.parametrize("config", SCHEDULES, ids=lambda c: c.kind)
def test_warm_up_is_a_line_through_zero_and_the_peak_follows(config: Any) -> None:
    rates = values(config)
    np.testing.assert_allclose(rates[: WARMUP + 1], PEAK * np.arange(1, 6) / 5, rtol=1e-6)
    assert (np.diff(rates[WARMUP:]) <= 1e-7).all()
    assert (rates > 0).all()


@pytest.mark.parametrize("config", SCHEDULES, ids=lambda c: c.kind)
def test_without_warm_up_the_first_step_is_the_peak(config: Any) -> None:
    rates = values(type(config)())
    np.testing.assert_allclose(rates[0], PEAK, rtol=1e-6)


@pytest.mark.parametrize("config", [SCHEDULES[1], SCHEDULES[2], SCHEDULES[4]], ids=lambda c: c.kind)
def test_decay_reaches_its_end_at_the_last_step_and_not_before(config: Any) -> None:
    rates = values(config)
    np.testing.assert_allclose(rates[-1], 0.25 * PEAK, rtol=1e-6)
    assert rates[-2] > rates[-1]
    schedule = build_schedule(config, peak=PEAK, total_steps=TOTAL, in_steps=in_steps)
    np.testing.assert_allclose(schedule(TOTAL + 100), 0.25 * PEAK, rtol=1e-6)


def test_shapes_between_the_ends() -> None:
    constant, linear, cosine, inverse, stable = map(values, SCHEDULES)
    steps = np.arange(TOTAL)
    progress = (steps[WARMUP:] - WARMUP) / (TOTAL - 1 - WARMUP)
    np.testing.assert_allclose(constant[WARMUP:], PEAK)
    np.testing.assert_allclose(linear[WARMUP:], PEAK * (1 - 0.75 * progress), rtol=1e-5)
    np.testing.assert_allclose(
        cosine[WARMUP:], PEAK * (0.25 + 0.375 * (1 + np.cos(np.pi * progress))), rtol=1e-5
    )
    np.testing.assert_allclose(
        inverse[WARMUP:], PEAK * np.sqrt((WARMUP + 1) / (steps[WARMUP:] + 1)), rtol=1e-5
    )
    np.testing.assert_allclose(stable[WARMUP:15], PEAK)
    np.testing.assert_allclose(stable[15:], PEAK * (1 - 0.75 * np.arange(1, 6) / 5), rtol=1e-5)


def test_durations_count_in_any_unit() -> None:
    expected = values(Cosine(Duration(steps=5)))
    np.testing.assert_array_equal(values(Cosine(Duration(epochs=1))), expected)
    np.testing.assert_array_equal(values(Cosine(Duration(tokens=41))), expected)


def test_one_step_of_training_is_at_the_peak() -> None:
    np.testing.assert_allclose(values(Cosine(), total=1), [PEAK])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Constant(Duration(steps=21)), r"21 steps of warm-up do not fit into 20 steps"),
        (Cosine(Duration(steps=20)), r"warm-up of 20 steps leaves none of the 20 steps"),
        (
            WarmupStableDecay(Duration(steps=15), decay=Duration(steps=6)),
            r"15 steps of warm-up and 6 of decay do not fit into 20 steps",
        ),
    ],
)
def test_a_schedule_longer_than_the_training_is_refused(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_schedule(config, peak=PEAK, total_steps=TOTAL, in_steps=in_steps)


def test_warm_up_and_decay_may_fill_the_training() -> None:
    rates = values(WarmupStableDecay(Duration(steps=15), decay=Duration(steps=5)))
    assert rates[14] < PEAK > rates[15]
    assert rates[-1] == 0
