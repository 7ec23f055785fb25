"""Attention against a loop in float64, in blocks, grouped, masked."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.model.attention import Context, attend, softcap
from lm.model.masks import Mask


def heads(num_heads: int, num_kv_heads: int, length: int = 6) -> Any:
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(2, length, n, 4) for n in (num_heads, num_kv_heads, num_kv_heads)]
    return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def by_hand(
    query: Any, key: Any, value: Any, allowed: Any, bias: Any, scale: float, cap: float | None
) -> np.ndarray:
    """One head and one query at a time, in float64."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    batch, length, num_heads, _ = query.shape
    group = num_heads // key.shape[2]
    result = np.zeros_like(query)
    for b in range(batch):
        for n in range(num_heads):
            for t in range(length):
                scores = key[b, :, n // group] @ query[b, t, n] * scale
                if cap is not None:
                    scores = cap * np.tanh(scores / cap)
                scores = np.where(allowed[t], scores + bias[n, t], -np.inf)
                weights = np.exp(scores - scores.max())
                result[b, t, n] = weights / weights.sum() @ value[b, :, n // group]
    return result


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_attention_by_hand(num_kv_heads: int, cap: float | None) -> None:
    query, key, value = heads(4, num_kv_heads)
    bias = jax.random.normal(jax.random.key(1), (4, 6, 6))
    context = Context(mask=Mask(causal=True), bias=bias[None])
    made = attend(query, key, value, context, scale=0.7, cap=cap)
    allowed = np.tril(np.ones((6, 6), bool))
    expected = by_hand(query, key, value, allowed, np.asarray(bias), 0.7, cap)
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [None, 3])
def test_blocks_of_queries_change_nothing(window: int | None) -> None:
    inputs = heads(4, 2, length=10)
    mask = Mask(causal=True, window=window)
    bias = jax.random.normal(jax.random.key(1), (1, 4, 10, 10))
    plain = Context(mask=mask, bias=bias)
    blocks = plain.replace(spans=mask.spans(10, 10, 4))
    assert len(blocks.spans) == 3

    def value_and_gradients(context: Context) -> Any:
        return jax.jit(jax.value_and_grad(lambda x: jnp.sin(attend(*x, context, scale=0.5)).sum()))(
            inputs
        )

    # The same sums, over different numbers of exact zeros.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        value_and_gradients(blocks),
        value_and_gradients(plain),
    )


def test_a_query_without_keys_is_finite_and_so_are_gradients() -> None:
    inputs = heads(2, 2)
    mask = Mask(allowed=jnp.zeros((1, 1, 6, 6), bool))

    def total(x: Any) -> Any:
        return attend(*x, Context(mask=mask), scale=1.0).sum()

    value, gradients = jax.value_and_grad(total)(inputs)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(g).all() for g in gradients)


def test_softmax_is_float32_for_bfloat16_inputs() -> None:
    """2048 equal keys: probabilities summed in bfloat16 would stop growing at 256 / 2048."""
    query = jnp.zeros((1, 1, 1, 4), jnp.bfloat16)
    key = jnp.zeros((1, 2048, 1, 4), jnp.bfloat16)
    result = attend(query, key, jnp.ones_like(key), Context(), scale=1.0)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(result, np.float32), 1.0, rtol=2**-8)


def test_softcap() -> None:
    assert softcap(jnp.array(0.01), 30.0) == pytest.approx(0.01, rel=1e-5)
    assert softcap(jnp.array(50.0), 30.0) == pytest.approx(30 * math.tanh(5 / 3), rel=1e-5)
    assert softcap(jnp.array(50.0), None) == 50.0
