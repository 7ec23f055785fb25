"""The sums of a loss whose logits are products with a table, with a gradient part by part of it.

Where logits are made for a part of the tokens at a time, automatic differentiation adds up the
table's gradient over those parts: besides the sum it needs an array of the table's size for what it
adds, and reads and writes both for every part. Here the backward pass goes through the vocabulary:
every part of the table gets its gradient at once, of all tokens, and nothing is added up but the
gradient of the tokens' own vectors.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from lm.model.layers import product_with_rows
from lm.objectives.token_values import TokenValues

# Parts of the vocabulary to one of the tokens: beside its logits a part has their gradient, twice.
PARTS = 2


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def sums_of_products(
    values_of: TokenValues,
    size: int,
    x: Float[Array, "B T D"],
    table: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
) -> dict[str, Float[Array, ""]]:
    """Sums over the batch of the weighted values of logits x @ table.T, which are made for `size`
    positions of every row at a time; in the backward pass for all tokens, and about as many logits.
    Float32."""
    return _forward(values_of, size, x, table, targets, weights)[0]


def _forward(
    values_of: TokenValues,
    size: int,
    x: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
) -> tuple[dict[str, jax.Array], Any]:
    def part(_: None, inputs: tuple[jax.Array, jax.Array]) -> tuple[None, Any]:
        some, their_targets = inputs
        return None, values_of(product_with_rows(some, table, jnp.float32), their_targets)

    found = lax.scan(part, None, (chunks(x, size), chunks(targets, size)))[1]
    log_z, values = jax.tree.map(lambda v: _whole(v, targets.shape[1]), found)
    sums = {name: jnp.sum(value * weights) for name, value in values.items()}
    return sums, (x, table, targets, weights, log_z, values)


def _backward(values_of: TokenValues, size: int, kept: Any, slopes: dict[str, jax.Array]) -> Any:
    x, table, targets, weights, log_z, values = kept
    vectors = x.reshape(-1, x.shape[-1])
    of_token, labels = log_z.reshape(-1), targets.reshape(-1)
    by = {name: (slope * weights).reshape(-1) for name, slope in slopes.items()}

    def part(first: Any, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The gradients of the vectors, as far as it comes through these rows, and of the rows."""
        logits, pull = jax.vjp(
            lambda vectors, rows: product_with_rows(vectors, rows, jnp.float32), vectors, rows
        )
        hit = first + jnp.arange(len(rows)) == labels[:, None]
        of_vectors, of_rows = pull(values_of.slopes(logits, hit, of_token, by, len(table)))
        return of_vectors.astype(jnp.float32), of_rows

    def step(i: jax.Array, done: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        of_vectors, of_table = done
        first = i * count
        more, of_rows = part(first, lax.dynamic_slice_in_dim(table, first, count))
        return of_vectors + more, lax.dynamic_update_slice_in_dim(of_table, of_rows, first, 0)

    count = -(-len(table) // (PARTS * -(-x.shape[1] // size)))
    full = len(table) // count
    of_vectors, of_table = lax.fori_loop(
        0, full, step, (jnp.zeros(vectors.shape, jnp.float32), jnp.zeros_like(table))
    )
    if full * count < len(table):
        more, of_rows = part(full * count, table[full * count :])
        of_vectors += more
        of_table = lax.dynamic_update_slice_in_dim(of_table, of_rows, full * count, 0)
    return (
        of_vectors.reshape(x.shape).astype(x.dtype),
        of_table,
        np.zeros(targets.shape, jax.dtypes.float0),
        sum(slopes[name] * values[name] for name in slopes),
    )


sums_of_products.defvjp(_forward, _backward)


def chunks(x: Shaped[Array, "B T ..."], size: int) -> Shaped[Array, "chunks B {size} ..."]:
    """Consecutive positions together; the last chunk is filled up with zeros (weight 0)."""
    missing = -x.shape[1] % size
    x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)


def _whole(parts: Shaped[Array, "chunks B size"], length: int) -> Shaped[Array, "B {length}"]:
    """The inverse of `chunks`."""
    return jnp.moveaxis(parts, 0, 1).reshape(parts.shape[1], -1)[:, :length]
