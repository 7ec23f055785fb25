"""The sums of a loss whose logits are products with a table, with a gradient part by part of it.

Where logits are made for a part of the tokens at a time, automatic differentiation adds up the
table's gradient over those parts: besides the sum it needs an array of the table's size for what it
adds, and reads and writes both for every part. Here the backward pass goes through the vocabulary:
every part of the table gets its gradient at once, of all tokens. The gradient of the tokens' own
vectors is made with the loss where it can be, so that the table's need not be there before the
layers have theirs. (Logits and slopes twice, as with rematerialised parts: no product is added.)
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

# Parts of the vocabulary to one of the tokens: beside their logits is the gradient, twice.
PARTS = 4


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
    return _values(values_of, size, x, table, targets, weights, slope=False)[0]


def _values(
    values_of: TokenValues,
    size: int,
    x: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    slope: bool,
) -> tuple[dict[str, jax.Array], Any]:
    """The sums, and what a backward pass needs: all tokens' log Z and values, and with `slope` the
    gradient of the sum of losses in x."""

    def part(_: None, inputs: tuple[jax.Array, ...]) -> tuple[None, Any]:
        some, labels, shares = inputs
        logits, pull = jax.vjp(lambda some: product_with_rows(some, table, jnp.float32), some)
        log_z, values = values_of(logits, labels)
        if not slope:
            return None, (log_z, values, None)
        hit = jnp.arange(len(table)) == labels[..., None]
        slopes = values_of.slopes(logits, hit, log_z, {"loss": shares}, len(table))
        return None, (log_z, values, pull(slopes)[0])

    inputs = tuple(chunks(y, size) for y in (x, targets, weights))
    found = jax.tree.map(lambda y: _whole(y, targets.shape[1]), lax.scan(part, None, inputs)[1])
    sums = {name: jnp.sum(value * weights) for name, value in found[1].items()}
    return sums, (x, table, targets, weights, *found)


def _forward(values_of: TokenValues, size: int, *inputs: jax.Array) -> tuple[Any, Any]:
    # Of the loss alone the gradient is a multiple of what it is now. Then only the table's is left
    # for the backward pass, where it can wait until the layers, which need none of it, are done.
    return _values(values_of, size, *inputs, slope=values_of == TokenValues())


def _backward(values_of: TokenValues, size: int, kept: Any, slopes: dict[str, jax.Array]) -> Any:
    x, table, targets, weights, log_z, values, of_x = kept
    vectors = x.reshape(-1, x.shape[-1])
    of_token, labels = log_z.reshape(-1), targets.reshape(-1)
    by = {name: (slope * weights).reshape(-1) for name, slope in slopes.items()}

    def part(first: Any, rows: jax.Array) -> tuple[jax.Array | None, jax.Array]:
        """The gradients of the vectors, as far as it comes through these rows, and of the rows."""
        logits, pull = jax.vjp(
            lambda vectors, rows: product_with_rows(vectors, rows, jnp.float32), vectors, rows
        )
        hit = first + jnp.arange(len(rows)) == labels[:, None]
        of_vectors, of_rows = pull(values_of.slopes(logits, hit, of_token, by, len(table)))
        return of_vectors.astype(jnp.float32) if of_x is None else None, of_rows

    def step(first: Any, size: int, done: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        of_vectors, of_table = done
        more, of_rows = part(first, lax.dynamic_slice_in_dim(table, first, size))
        of_table = lax.dynamic_update_slice_in_dim(of_table, of_rows, first, 0)
        return None if more is None else of_vectors + more, of_table

    count = -(-len(table) // (PARTS * -(-x.shape[1] // size)))
    full = len(table) // count
    start = jnp.zeros(vectors.shape, jnp.float32) if of_x is None else None
    done: tuple[Any, jax.Array] = start, jnp.zeros_like(table)
    done = lax.fori_loop(0, full, lambda i, done: step(i * count, count, done), done)
    if full * count < len(table):
        done = step(full * count, len(table) - full * count, done)
    of_vectors, of_table = done
    of_x = of_vectors if of_x is None else of_x * slopes["loss"]
    return (
        of_x.reshape(x.shape).astype(x.dtype),
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


def _whole(
    parts: Shaped[Array, "chunks B size ..."], length: int
) -> Shaped[Array, "B {length} ..."]:
    """The inverse of `chunks`."""
    return jnp.moveaxis(parts, 0, 1).reshape(parts.shape[1], -1, *parts.shape[3:])[:, :length]
