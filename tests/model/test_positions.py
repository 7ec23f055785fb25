"""Position schemes against their papers' formulas."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import LinearScaling, Llama3Scaling, Rotary, Sinusoidal
from lm.model.positions import (
    alibi_bias,
    alibi_slopes,
    rotary_frequencies,
    rotary_tables,
    rotate,
    sinusoidal,
    t5_bias,
    t5_bucket,
)

# A few units in the last place of float32, for values of order 1.
ROUNDING = 1e-6


def test_sinusoidal_interleaves_sines_and_cosines() -> None:
    table = np.asarray(sinusoidal(jnp.array([0, 1, 7]), 6, Sinusoidal()))
    for row, position in enumerate((0, 1, 7)):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert table[row, 2 * i] == pytest.approx(math.sin(angle), abs=ROUNDING)
            assert table[row, 2 * i + 1] == pytest.approx(math.cos(angle), abs=ROUNDING)
    odd = np.asarray(sinusoidal(jnp.array([7]), 5, Sinusoidal()))[0]
    angles = [7 / 10000 ** (2 * i / 5) for i in range(3)]
    expected = [f(a) for a in angles for f in (math.sin, math.cos)][:5]
    np.testing.assert_allclose(odd, expected, atol=ROUNDING)


def test_rotary_by_hand() -> None:
    """Head width 4, base 100: pair 0 turns by 1 radian a position, pair 1 by 1/10."""
    x = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    tables = rotary_tables(jnp.array([[2]]), 4, Rotary(base=100.0))
    c, s, d, t = math.cos(2), math.sin(2), math.cos(0.2), math.sin(0.2)
    halves = [1 * c - 3 * s, 2 * d - 4 * t, 3 * c + 1 * s, 4 * d + 2 * t]
    neighbours = [1 * c - 2 * s, 2 * c + 1 * s, 3 * d - 4 * t, 4 * d + 3 * t]
    for interleaved, expected in ((False, halves), (True, neighbours)):
        turned = rotate(x, tables, interleaved=interleaved)
        np.testing.assert_allclose(turned.ravel(), expected, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("width", [8, 4])
def test_rotary_scores_depend_on_distance_only(width: int, interleaved: bool) -> None:
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def score(query_position: int, key_position: int) -> float:
        turned = [
            rotate(x, rotary_tables(jnp.array([[p]]), width, Rotary()), interleaved=interleaved)
            for x, p in ((query, query_position), (key, key_position))
        ]
        return float(jnp.vdot(*turned))

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert abs(score(9, 4) - score(9, 5)) > 1e-2


def test_partial_rotary_leaves_the_rest_alone() -> None:
    x = jax.random.normal(jax.random.key(0), (1, 3, 2, 8))
    turned = rotate(x, rotary_tables(jnp.arange(3)[None], 4, Rotary()), interleaved=False)
    assert (turned[..., 4:] == x[..., 4:]).all()
    assert (turned[:, 1:, :, :4] != x[:, 1:, :, :4]).any()


def test_alibi_slopes_of_a_power_of_two() -> None:
    np.testing.assert_allclose(alibi_slopes(8), [2.0**-i for i in range(1, 9)], rtol=ROUNDING)
    np.testing.assert_allclose(alibi_slopes(1), [2.0**-8], rtol=ROUNDING)


def test_alibi_slopes_between_powers_of_two() -> None:
    """12 heads: the 8 slopes of 8 heads, then the 1st, 3rd, 5th and 7th of 16 heads."""
    expected = [2.0**-i for i in range(1, 9)] + [2.0 ** (-i / 2) for i in (1, 3, 5, 7)]
    np.testing.assert_allclose(alibi_slopes(12), expected, rtol=ROUNDING)


def test_alibi_bias() -> None:
    bias = alibi_bias(jnp.array([[3]]), jnp.array([[0, 2, 3]]), 2)
    expected = [[-3 / 16, -1 / 16, 0], [-3 / 256, -1 / 256, 0]]
    np.testing.assert_allclose(bias[0, :, 0], expected, rtol=ROUNDING)


def test_t5_buckets() -> None:
    """8 buckets to distance 20: 0-3 are exact; bucket 4 + k begins at 4 * 5^(k/4)."""
    distance = jnp.array([-3, 0, 1, 2, 3, 4, 5, 6, 8, 9, 13, 14, 19, 20, 1000])
    expected = [0, 0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7, 7, 7]
    assert t5_bucket(distance, 8, 20).tolist() == expected


def test_t5_default_buckets() -> None:
    """32 buckets to 128: 0-15 are exact, and 128 is in the last."""
    distance = jnp.array([15, 16, 127, 128])
    assert t5_bucket(distance, 32, 128).tolist() == [15, 16, 31, 31]


def test_t5_bias_looks_up_every_head() -> None:
    table = jnp.arange(8.0).reshape(4, 2)
    bias = t5_bias(table, jnp.array([[2]]), jnp.array([[0, 1, 2]]), 8)
    assert bias.shape == (1, 2, 1, 3)
    assert bias[0, :, 0].tolist() == [[4.0, 2.0, 0.0], [5.0, 3.0, 1.0]]


def test_halved_sinusoids() -> None:
    """Sines first; tensor2tensor's frequencies end at 1 / base exactly."""
    table = np.asarray(sinusoidal(jnp.array([7]), 6, Sinusoidal(layout="halves", offset=1)))[0]
    angles = [8 / 10000 ** (2 * i / 6) for i in range(3)]
    expected = [*map(math.sin, angles), *map(math.cos, angles)]
    np.testing.assert_allclose(table, expected, atol=ROUNDING)
    table = np.asarray(sinusoidal(jnp.array([7]), 7, Sinusoidal(layout="tensor2tensor")))[0]
    angles = [7 / 10000 ** (i / 2) for i in range(3)]
    expected = [*map(math.sin, angles), *map(math.cos, angles), 0.0]
    np.testing.assert_allclose(table, expected, atol=ROUNDING)


def test_t5_buckets_both_ways() -> None:
    """8 buckets, 4 a direction: 0, 1, then logarithmic up to 16; later keys from bucket 4 on."""
    distances = jnp.array([0, 1, 2, 3, 8, 50, -1, -2, -8, -50])
    found = t5_bucket(distances, 8, 16, both_ways=True)
    np.testing.assert_array_equal(found, [0, 1, 2, 2, 3, 3, 5, 6, 7, 7])


def test_llama3_scaling_keeps_the_fast_and_stretches_the_slow() -> None:
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 8192)
    plain = rotary_frequencies(Rotary(base=500000.0), 128)
    scaled = rotary_frequencies(Rotary(base=500000.0, scaling=scaling), 128)
    turns = 8192 * plain / (2 * math.pi)
    np.testing.assert_array_equal(scaled[turns > 4], plain[turns > 4])
    np.testing.assert_allclose(scaled[turns < 1], plain[turns < 1] / 8, rtol=1e-12)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    share = (turns[between] - 1) / 3
    expected = share * plain[between] + (1 - share) * plain[between] / 8
    np.testing.assert_allclose(scaled[between], expected, rtol=1e-12)


def test_linear_scaling_divides_positions() -> None:
    scaled = rotary_tables(jnp.array([[8]]), 4, Rotary(scaling=LinearScaling(4.0)))
    plain = rotary_tables(jnp.array([[2]]), 4, Rotary())
    np.testing.assert_allclose(scaled, plain, rtol=ROUNDING, atol=ROUNDING)
