"""Sampling steps against literals, a direct numpy reference, and observed frequencies."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.errors import ConfigError
from lm.generate import sampling
from lm.generate.sampling import SamplingConfig, process_logits, sample

INF = np.inf


def logits_of(*probabilities: float) -> jax.Array:
    return jnp.log(jnp.asarray([probabilities], jnp.float32))


def kept(logits: jax.Array) -> list[list[int]]:
    return [np.flatnonzero(np.isfinite(row)).tolist() for row in np.asarray(logits)]


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits():
    logits = jnp.asarray([[2.0, -2.0, 2.0, -2.0, 0.0]])
    seen = jnp.asarray([[True, True, False, False, True]])
    out = sampling.penalize_repetition(logits, seen, 4.0)
    np.testing.assert_allclose(out, [[0.5, -8.0, 2.0, -2.0, 0.0]])


def test_top_k_keeps_the_k_highest_and_ties_of_the_last():
    logits = jnp.asarray([[1.0, 5.0, 3.0, 3.0, 0.0], [9.0, 8.0, 7.0, 6.0, 5.0]])
    assert kept(sampling.keep_top_k(logits, 1)) == [[1], [0]]
    assert kept(sampling.keep_top_k(logits, 2)) == [[1, 2, 3], [0, 1]]
    assert kept(sampling.keep_top_k(logits, 99)) == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.01, [1]),
        (0.49, [1]),
        (0.51, [1, 3]),
        (0.74, [1, 3]),
        (0.76, [0, 1, 3]),
        (0.95, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, expected):
    assert kept(sampling.keep_top_p(logits_of(0.15, 0.5, 0.1, 0.25), p)) == [expected]


def test_top_p_counts_an_exact_reach_as_reached():
    assert kept(sampling.keep_top_p(jnp.zeros((1, 4)), 0.5)) == [[0, 1]]
    assert kept(sampling.keep_top_p(jnp.zeros((1, 4)), 0.500001)) == [[0, 1, 2]]


def test_top_p_adds_up_the_probabilities_before_and_nothing_else():
    """8 equal tokens: the sums are exact multiples of 1/8, and p at each is reached by as many."""
    for count in range(1, 8):
        assert kept(sampling.keep_top_p(jnp.zeros((1, 8)), count / 8)) == [list(range(count))]
    # Where a sum is rounded, the boundary is the rounded sum itself.
    logits = 3 * jax.random.normal(jax.random.key(0), (1, 50))
    order = jnp.argsort(-logits[0], stable=True)
    sums = np.asarray(jnp.cumsum(jax.nn.softmax(logits[:, order], axis=-1)[0]))
    for count in range(1, 30):
        expected = sorted(order[:count].tolist())
        assert kept(sampling.keep_top_p(logits, float(sums[count - 1]))) == [expected]


def test_top_k_is_compiled_without_a_sort():
    program = jax.jit(lambda x: sampling.keep_top_k(x, 5)).lower(jnp.zeros((2, 100))).compile()
    assert '"TopK"' in program.as_text() and " sort(" not in program.as_text()


def test_the_lowest_temperature_is_greedy_and_never_wrong():
    logits = 50 * jax.random.normal(jax.random.key(1), (64, 30)) + 200
    keys = jax.random.split(jax.random.key(2), 64)
    chosen = sample(keys, logits, SamplingConfig(temperature=1e-6))
    assert (chosen == jnp.argmax(logits, axis=-1)).all()
    made = process_logits(logits, SamplingConfig(temperature=1e-6))
    assert jnp.isfinite(made).all() and (made.max(axis=-1) == 0).all()


def test_min_p_is_relative_to_the_most_likely_token():
    logits = logits_of(0.6, 0.29, 0.08, 0.03)
    assert kept(sampling.keep_min_p(logits, 0.0)) == [[0, 1, 2, 3]]
    assert kept(sampling.keep_min_p(logits, 0.1)) == [[0, 1, 2]]
    assert kept(sampling.keep_min_p(logits, 0.45)) == [[0, 1]]
    assert kept(sampling.keep_min_p(logits, 1.0)) == [[0]]


def typical_reference(logits: np.ndarray, p: float) -> list[int]:
    """Meister et al. 2023, equation 5 and what follows it, one token after another."""
    probabilities = np.exp(logits) / np.exp(logits).sum()
    entropy = -(probabilities * np.log(probabilities)).sum()
    chosen: list[int] = []
    for token in np.argsort(np.abs(-np.log(probabilities) - entropy)):
        if probabilities[chosen].sum() >= p:
            break
        chosen.append(int(token))
    return sorted(chosen)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.8, 0.95])
def test_typical_keeps_what_is_nearest_to_the_entropy(p):
    rows = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32) * 2
    expected = [typical_reference(row.astype(np.float64), p) for row in rows]
    assert kept(sampling.keep_typical(jnp.asarray(rows), p)) == expected
    # The likeliest token is not always one of them.
    assert p > 0.5 or any(int(np.argmax(row)) not in e for row, e in zip(rows, expected))


def test_typical_takes_ruled_out_tokens_for_none():
    logits = jnp.concatenate([logits_of(0.6, 0.3, 0.1), jnp.full((1, 2), -INF)], axis=-1)
    assert kept(sampling.keep_typical(logits, 0.5)) == kept(
        sampling.keep_typical(logits_of(0.6, 0.3, 0.1), 0.5)
    )
    assert kept(sampling.keep_typical(logits, 1.0)) == [[0, 1, 2]]


def test_epsilon_and_eta_cut_at_their_probabilities_and_keep_the_likeliest():
    rows = np.random.default_rng(1).normal(size=(40, 30)).astype(np.float32) * 2
    probabilities = np.exp(rows) / np.exp(rows).sum(-1, keepdims=True)
    entropy = -(probabilities * np.log(probabilities)).sum(-1, keepdims=True)
    eta = np.minimum(0.02, np.sqrt(0.02) * np.exp(-entropy))
    assert 0 < np.sum(eta < 0.02) < len(eta)
    for found, least in ((sampling.keep_epsilon, 0.02), (sampling.keep_eta, eta)):
        expected = [np.flatnonzero(row).tolist() for row in probabilities >= least]
        assert kept(found(jnp.asarray(rows), 0.02)) == expected
    assert kept(sampling.keep_epsilon(logits_of(0.3, 0.4, 0.3), 0.9)) == [[1]]


def test_typical_epsilon_and_eta_are_steps_of_the_config():
    logits = logits_of(0.5, 0.3, 0.15, 0.05)
    assert kept(process_logits(logits, SamplingConfig(epsilon_cutoff=0.1))) == [[0, 1, 2]]
    assert kept(process_logits(logits, SamplingConfig(typical_p=0.2))) == [[1]]
    assert kept(process_logits(logits, SamplingConfig(eta_cutoff=0.4))) == [[0, 1]]


def reference(logits, seen, config: SamplingConfig) -> np.ndarray:
    """The five steps one after another on one row, in numpy, in Hugging Face's order."""
    x = logits.astype(np.float64).copy()
    for token in np.flatnonzero(seen):
        x[token] = (
            x[token] / config.repetition_penalty
            if x[token] > 0
            else (x[token] * config.repetition_penalty)
        )
    x /= config.temperature
    x[x < np.sort(x)[-config.top_k]] = -INF
    probabilities = np.exp(x) / np.exp(x).sum()
    total = 0.0
    for token in np.argsort(-x, kind="stable"):
        if total >= config.top_p:
            x[token] = -INF
        total += probabilities[token]
    probabilities = np.exp(x) / np.exp(x).sum()
    x[probabilities < config.min_p * probabilities.max()] = -INF
    return x


def test_all_steps_together_equal_a_row_by_row_reference():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(64, 50)).astype(np.float32) * 2
    seen = rng.random((64, 50)) < 0.2
    config = SamplingConfig(
        temperature=0.7, top_k=20, top_p=0.9, min_p=0.03, repetition_penalty=1.3
    )
    out = np.asarray(process_logits(jnp.asarray(logits), config, jnp.asarray(seen)))
    expected = np.stack([reference(a, b, config) for a, b in zip(logits, seen)])
    # Tempered logits are relative to the highest.
    expected -= expected.max(axis=-1, keepdims=True)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # Dividing by the temperature before top-p, not after, changes who is in the nucleus.
        (SamplingConfig(temperature=0.5, top_p=0.6), [0]),
        (SamplingConfig(temperature=2.0, top_p=0.6), [0, 1]),
        # Top-k renormalises before top-p: 0.5 / 0.8 reaches 0.6 alone.
        (SamplingConfig(top_k=2, top_p=0.6), [0]),
        (SamplingConfig(top_p=0.6), [0, 1]),
    ],
)
def test_order_of_the_steps(config, expected):
    assert kept(process_logits(logits_of(0.5, 0.3, 0.15, 0.05), config)) == [expected]


def draw(config: SamplingConfig, logits: jax.Array, count: int) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), count)
    tokens = sample(keys, jnp.broadcast_to(logits, (count, logits.shape[-1])), config)
    return np.bincount(np.asarray(tokens), minlength=logits.shape[-1]) / count


def test_frequencies_follow_the_softmax():
    probabilities = np.array([0.4, 0.3, 0.2, 0.1])
    frequencies = draw(SamplingConfig(), logits_of(*probabilities), 20000)
    # Five standard deviations of a frequency.
    assert np.all(np.abs(frequencies - probabilities) < 5 * np.sqrt(0.25 / 20000))


def test_frequencies_with_temperature_and_top_k():
    frequencies = draw(
        SamplingConfig(temperature=0.5, top_k=2), logits_of(0.4, 0.3, 0.2, 0.1), 20000
    )
    expected = np.array([0.16, 0.09, 0, 0]) / 0.25
    assert np.all(frequencies[2:] == 0)
    assert np.all(np.abs(frequencies - expected) < 5 * np.sqrt(0.25 / 20000))


def test_greedy_takes_the_first_maximum_after_the_penalty():
    config = SamplingConfig(temperature=0.0, repetition_penalty=3.0, top_k=2)
    logits = jnp.asarray([[1.0, 3.0, 2.0, 2.0], [1.0, 3.0, 2.0, 2.0]])
    seen = jnp.asarray([[False, True, False, False], [False] * 4])
    keys = jax.random.split(jax.random.key(0), 2)
    assert np.asarray(sample(keys, logits, config, seen)).tolist() == [2, 1]


def test_a_row_draws_the_same_in_any_batch():
    logits = jax.random.normal(jax.random.key(1), (5, 11))
    keys = jax.random.split(jax.random.key(2), 5)
    together = np.asarray(sample(keys, logits, SamplingConfig(top_p=0.9)))
    alone = [
        int(sample(keys[i : i + 1], logits[i : i + 1], SamplingConfig(top_p=0.9))[0])
        for i in range(5)
    ]
    assert together.tolist() == alone


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", -0.1, "temperature must be 0"),
        ("temperature", float("nan"), "temperature must be 0"),
        ("top_k", 0, "top_k must be at least 1, not 0"),
        ("top_p", 0.0, "top_p must be above 0 and at most 1, not 0.0"),
        ("top_p", 1.1, "top_p must be above 0 and at most 1, not 1.1"),
        ("min_p", -0.1, "min_p must be between 0 and 1"),
        ("min_p", 1.5, "min_p must be between 0 and 1"),
        ("typical_p", 0.0, "typical_p must be above 0 and at most 1, not 0.0"),
        ("epsilon_cutoff", 1.0, "epsilon_cutoff must be at least 0 and below 1, not 1.0"),
        ("eta_cutoff", -0.1, "eta_cutoff must be at least 0 and below 1, not -0.1"),
        ("temperature", 1e-40, r"at least 1e-06, not 1e-40; use 0 to take the most likely"),
        ("repetition_penalty", 0.0, r"repetition_penalty must be between 0\.001 and 1000 \(1 is"),
        ("repetition_penalty", 1e30, r"repetition_penalty must be between 0\.001 and 1000"),
        ("repetition_penalty", float("nan"), "repetition_penalty must be between"),
    ],
)
def test_values_out_of_range_are_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        SamplingConfig(**{field: value})
