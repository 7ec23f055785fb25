"""Layers against their formulas."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.model.layers import ACTIVATIONS, MANY_ROWS, Embedding, FeedForward, normalise, product

POINTS = np.array([-3.0, -1.0, -0.1, 0.0, 0.5, 2.0])


def gelu(x: float) -> float:
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


FORMULAS = {
    "relu": lambda x: max(x, 0.0),
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "swiglu": silu,
    "geglu": gelu,
    "geglu_tanh": gelu_tanh,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_activation_formula(name: str) -> None:
    function, gated = ACTIVATIONS[name]
    expected = [FORMULAS[name](x) for x in POINTS]
    np.testing.assert_allclose(function(jnp.asarray(POINTS)), expected, rtol=1e-5, atol=1e-6)
    assert gated == ("glu" in name)


def test_gelu_and_its_written_gradient() -> None:
    """To a few float32 roundings of the largest; into the tails, where a gradient is nearly 0."""
    x = np.linspace(-9, 9, 181)
    exact = ACTIVATIONS["gelu"][0]
    slopes = jax.vmap(jax.grad(exact))(jnp.asarray(x, jnp.float32))
    cdf = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in x])
    expected = cdf + x * np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(slopes, expected, atol=1e-6)
    np.testing.assert_allclose(exact(jnp.asarray(x, jnp.float32)), x * cdf, atol=2e-6)
    # In bfloat16 to its own rounding, as everything between is float32.
    short = jnp.asarray(x, jnp.bfloat16)
    wide = np.asarray(short, np.float64)
    y = np.array([z * 0.5 * math.erfc(-z / math.sqrt(2)) for z in wide])
    np.testing.assert_allclose(exact(short).astype(jnp.float32), y, rtol=2**-8, atol=2e-6)
    assert jax.grad(exact)(jnp.asarray(-3.0, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("rows", [(MANY_ROWS // 8, 8), (3, MANY_ROWS), (2, 3)], ids=str)
@pytest.mark.parametrize(("inputs", "outputs"), [((6,), (5,)), ((6,), (2, 4)), ((2, 3), (5,))])
def test_a_product_over_some_axes_and_its_gradient(
    rows: tuple[int, ...], inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    x, kernel, seed = (
        rng.normal(size=s) for s in (rows + inputs, inputs + outputs, rows + outputs)
    )
    single = [jnp.asarray(a, jnp.float32) for a in (x, kernel, seed)]
    y, back = jax.vjp(lambda x, kernel: product(x, kernel, len(inputs)), *single[:2])
    to_x, to_kernel = back(single[2])
    count, axes = len(inputs), tuple(range(len(rows)))
    np.testing.assert_allclose(y, np.tensordot(x, kernel, count), atol=1e-4)
    last = tuple(range(-len(outputs), 0))
    np.testing.assert_allclose(to_x, np.tensordot(seed, kernel, (last, last)), atol=1e-4)
    # Of up to 768 rows: sums of some 30, to a few float32 roundings.
    np.testing.assert_allclose(to_kernel, np.tensordot(x, seed, (axes, axes)), atol=1e-4)


def test_feed_forward_gates_with_the_activation(tiny: Any) -> None:
    x = jax.random.normal(jax.random.key(0), (1, 3, 16))
    layer = FeedForward(tiny(activation="swiglu", mlp_bias=False))
    params = jax.tree.map(jnp.asarray, layer.init(jax.random.key(1), x, train=False))
    kernels = {
        name: np.asarray(params["params"][name]["kernel"].unbox(), np.float64)
        for name in ("up", "gate", "down")
    }
    inputs = np.asarray(x, np.float64)
    gate = inputs @ kernels["gate"]
    expected = (gate / (1 + np.exp(-gate)) * (inputs @ kernels["up"])) @ kernels["down"]
    np.testing.assert_allclose(layer.apply(params, x, train=False), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_norm_and_its_written_gradient(centre: bool, with_bias: bool) -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    x = 3 * jax.random.normal(keys[0], (2, 3, 8)) + 1
    scale = jax.random.normal(keys[1], (8,))
    bias = jax.random.normal(keys[2], (8,)) if with_bias else None
    weight = jax.random.normal(keys[3], x.shape)

    def formula(x: Any, scale: Any, bias: Any) -> Any:
        if centre:
            x = x - x.mean(-1, keepdims=True)
        y = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * scale
        return y if bias is None else y + bias

    arguments = (0, 1, 2) if with_bias else (0, 1)
    made = jax.value_and_grad(lambda *a: (normalise(*a, 1e-3, centre) * weight).sum(), arguments)(
        x, scale, bias
    )
    expected = jax.value_and_grad(lambda *a: (formula(*a) * weight).sum(), arguments)(
        x, scale, bias
    )
    # Sums of 48 terms of order 10 in float32.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), made, expected
    )


def test_norm_is_computed_in_float32() -> None:
    """The statistics of bfloat16 input are those of its exact values."""
    x = (100 + jax.random.normal(jax.random.key(0), (4, 64))).astype(jnp.bfloat16)
    y = normalise(x, jnp.ones(64), None, 1e-6, True)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    assert y.dtype == jnp.bfloat16
    # Only the result is rounded, to 8 bits.
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, rtol=2**-8, atol=1e-3)


def test_an_index_beyond_the_table_is_loud() -> None:
    table = Embedding(5, 3, ("vocab", "embed"), 1.0, jnp.float32)
    params = table.init(jax.random.key(0), jnp.array([0]))
    vectors = table.apply(params, jnp.array([4, 5]))
    assert jnp.isfinite(vectors[0]).all() and jnp.isnan(vectors[1]).all()


def test_norms_have_no_forward_derivative_but_a_second_one() -> None:
    """As the docstring says; the second against differences of the first."""
    x = jax.random.normal(jax.random.key(0), (6,))

    def total(x: Any) -> Any:
        return jnp.sin(normalise(x, jnp.ones(6), None, 1e-5, True)).sum()

    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(total, (x,), (x,))
    shifts = 1e-2 * jnp.eye(6)
    slopes = jax.vmap(lambda d: (jax.grad(total)(x + d) - jax.grad(total)(x - d)) / 2e-2)(shifts)
    # Errors of differences: squares of 1e-2, and rounding over 1e-2.
    np.testing.assert_allclose(jax.hessian(total)(x), slopes, atol=3e-3)
