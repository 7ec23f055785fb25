"""A loss of products with a table: its sums and gradients, and what they need."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import CausalLM, ModelConfig, Rotary
from lm.objectives import build_objective
from lm.objectives.products import sums_of_products
from lm.objectives.token_values import TokenValues


def inputs(batch: int, length: int, width: int, vocab: int, dtype: Any = np.float32) -> Any:
    rng = np.random.default_rng(0)
    x, table, weights = (
        rng.normal(size=shape).astype(np.float32)
        for shape in ((batch, length, width), (vocab, width), (batch, length))
    )
    targets = rng.integers(vocab, size=(batch, length)).astype(np.int32)
    return (
        jnp.asarray(x, dtype),
        jnp.asarray(table, dtype),
        jnp.asarray(targets),
        jnp.asarray(weights),
    )


def whole(values_of: TokenValues, x: Any, table: Any, targets: Any, weights: Any) -> Any:
    logits = jnp.einsum("btd,vd->btv", x, table, preferred_element_type=jnp.float32)
    _, values = values_of(logits, targets)
    return {name: jnp.sum(value * weights) for name, value in values.items()}


@pytest.mark.parametrize("uniform_loss", [False, True])
@pytest.mark.parametrize("z_loss", [False, True])
# 2 positions do not divide 7, nor the parts that follow from that 13 or 5 tokens.
@pytest.mark.parametrize(("size", "vocab"), [(2, 13), (7, 16), (1, 5)])
def test_sums_and_gradients_are_those_of_all_logits(
    uniform_loss: bool, z_loss: bool, size: int, vocab: int
) -> None:
    values_of = TokenValues(uniform_loss=uniform_loss, z_loss=z_loss)
    x, table, targets, weights = inputs(3, 7, 4, vocab)

    def total(function: Any) -> Any:
        def of(x: Any, table: Any, weights: Any) -> Any:
            sums = function(x, table, targets, weights)
            # A number of its own for each, and a sum that nothing depends on.
            return sum((i + 1.5) * sums[name] for i, name in enumerate(sorted(sums)))

        return jax.jit(jax.value_and_grad(of, argnums=(0, 1, 2)))(x, table, weights)

    got = total(lambda *given: sums_of_products(values_of, size, *given))
    expected = total(lambda *given: whole(values_of, *given))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), got, expected)


def test_bfloat16_has_gradients_of_bfloat16_near_those_of_float32() -> None:
    values_of = TokenValues()
    exact, rounded = inputs(2, 32, 16, 40), inputs(2, 32, 16, 40, jnp.bfloat16)

    def gradients(function: Any, given: Any) -> Any:
        x, table, *rest = given
        of = jax.grad(lambda x, table: function(x, table, *rest)["loss"], argnums=(0, 1))
        return jax.jit(of)(x, table)

    got = gradients(lambda *a: sums_of_products(values_of, 8, *a), rounded)
    expected = gradients(lambda *a: whole(values_of, *a), exact)
    for mine, right in zip(got, expected):
        assert mine.dtype == jnp.bfloat16
        error = np.linalg.norm(np.asarray(mine, np.float32) - right) / np.linalg.norm(right)
        assert error < 0.02


def test_the_table_s_gradient_is_all_that_is_as_large_as_the_table() -> None:
    """Of a tied model, with a table that is nearly all of it."""
    vocab, width = 2**15, 32
    model = ModelConfig(vocab, 1, width, 2, 32, Rotary())
    objective = build_objective(CausalLM(chunk_tokens=8), model)
    batch = {
        "tokens": jnp.zeros((1, 256), jnp.int32),
        "targets": jnp.zeros((1, 256), jnp.int32),
        "weights": jnp.ones((1, 256)),
    }
    shapes = nn.meta.unbox(jax.eval_shape(objective.init, jax.random.key(0), batch))

    def step(params: Any) -> Any:
        def loss(params: Any) -> Any:
            return objective.loss(params, batch, None, train=True)["loss"].sum

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    memory = jax.jit(step, donate_argnums=0).lower(shapes).compile().memory_analysis()
    table = vocab * width * 4
    # The gradient, and parts of logits: beside the sum of parts there would be another table.
    assert memory.temp_size_in_bytes < 1.9 * table
