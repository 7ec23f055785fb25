"""Products with int8 weights, that stay int8 in memory."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

# The largest int8 of a symmetric range.
LARGEST = 127


@jax.jit
def quantized(weights: Float[Array, "outputs inputs"]) -> dict[str, jax.Array]:
    """Int8 rows {"quantized"}, and the {"scale"} of each: what `quantized_product` takes."""
    wide = weights.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axis=1)
    scale = jnp.where(largest > 0, largest / LARGEST, 1.0)
    return {"quantized": jnp.round(wide / scale[:, None]).astype(jnp.int8), "scale": scale}


def quantized_product(
    x: Float[Array, "*rows inputs"],
    weights: Int8[Array, "outputs inputs"],
    scale: Float[Array, " outputs"],
) -> Float[Array, "*rows outputs"]:
    """x @ (weights * scale[:, None]).T, in float32.

    On a CPU one row is multiplied as it is, with weights that become float32 in registers. XLA has
    no such product of several rows, but a fast one of integers: there a row is the sum of two int8
    digits, exact to 1/64,516 of its largest number, a sixteenth of what bfloat16 loses of that one.
    """
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).astype(jnp.float32)
    if jax.default_backend() != "cpu":
        wide = weights.astype(x.dtype)
        y = jnp.matmul(x.reshape(rows.shape), wide.T, preferred_element_type=jnp.float32)
    elif len(rows) == 1:
        # So that XLA does not make all of a loop's weights float32 before it begins.
        rows, weights = jax.lax.optimization_barrier((rows, weights))
        y = rows @ weights.astype(jnp.float32).T
    else:
        y = _of_digits(rows, weights)
    return (y * scale).reshape(*x.shape[:-1], len(scale))


def _of_digits(x: jax.Array, weights: jax.Array) -> jax.Array:
    unit = jnp.max(jnp.abs(x), axis=-1, keepdims=True) / LARGEST
    # A row of zeros is zero in any unit.
    inner = x / jnp.where(unit > 0, unit, 1)
    high = jnp.round(inner)
    # What is left is at most a half: the second digit's unit is 1 / 254 of the first one's.
    low = jnp.round((inner - high) * (2 * LARGEST))
    digits = jnp.concatenate([high, low]).astype(jnp.int8)
    contract = (((1,), (1,)), ((), ()))
    y = jax.lax.dot_general(digits, weights, contract, preferred_element_type=jnp.int32)
    high, low = jnp.split(y.astype(jnp.float32), 2)
    return unit * (high + low / (2 * LARGEST))
