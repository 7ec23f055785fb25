"""Adafactor's scaling of large matrices on a CPU, in little more memory than the gradient's.

XLA for CPUs keeps the squares of a gradient that are averaged over both axes, and the update that
is measured: each as large as the gradient. Here the steps go over a large matrix in blocks of its
rows, and what becomes of the gradient takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from lm.model.sharding import device_count
from lm.types import PyTree

# Elements of a matrix that is worth the loops, and of a block.
LARGE = 2**23
BLOCK = 2**20
# optax's: the shorter axis from which on it factors, and what it adds to the squares.
FACTORED_FROM = 128
EPSILON = 1e-30


def scale_by_factored_rms(decay_rate: float) -> optax.GradientTransformation:
    """`optax.scale_by_factored_rms`, to rounding; the state is the same."""
    plain = optax.scale_by_factored_rms(
        decay_rate=decay_rate, min_dim_size_to_factor=FACTORED_FROM, epsilon=EPSILON
    )

    def update(updates: PyTree, state: Any, params: PyTree = None) -> Any:
        large = jax.tree.map(_in_blocks, updates)

        def rest(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda yes, x: None if yes else x, large, tree)

        trees = (state.v_row, state.v_col, state.v)
        small = state._replace(**dict(zip(("v_row", "v_col", "v"), map(rest, trees))))
        scaled, new = plain.update(rest(updates), small, rest(params))

        # 1 - (count + 1) ** -rate, as optax has it.
        decay = 1.0 - jnp.asarray(state.count + 1, jnp.float32) ** -decay_rate
        parts = jax.tree.map(
            lambda yes, g, row, column: _scaled(g, row, column, decay) if yes else None,
            large, updates, state.v_row, state.v_col,
        )  # fmt: skip

        def with_large(index: int, tree: PyTree, others: PyTree) -> PyTree:
            return jax.tree.map(lambda yes, x, part: part[index] if yes else x, large, tree, others)

        return with_large(0, scaled, parts), new._replace(
            v_row=with_large(1, new.v_row, parts),
            v_col=with_large(2, new.v_col, parts),
            v=jax.tree.map(lambda yes, x, old: old if yes else x, large, new.v, state.v),
        )

    return optax.GradientTransformation(plain.init, update)


def multiply(updates: PyTree, factor: Float[Array, ""]) -> PyTree:
    """The updates times a number, large ones in their place."""

    def product(x: jax.Array) -> jax.Array:
        return x * factor.astype(x.dtype)

    return jax.tree.map(lambda x: _in_place(product, x) if _in_blocks(x) else product(x), updates)


def _in_blocks(x: Any) -> bool:
    """Split over devices a matrix has no rows at hand; and XLA for accelerators squares where it
    sums."""
    large = x.ndim == 2 and x.size >= LARGE and min(x.shape) >= FACTORED_FROM
    return large and device_count() == 1 and jax.default_backend() == "cpu"


def _scaled(
    g: Float[Array, "N D"],
    v_row: Float[Array, " shorter"],
    v_col: Float[Array, " longer"],
    decay: Float[Array, ""],
) -> tuple[Float[Array, "N D"], Float[Array, " shorter"], Float[Array, " longer"]]:
    """What optax makes of a gradient and its moments; of equal axes the first is the shorter."""
    of_rows, of_columns = _mean_squares(g)
    tall = g.shape[0] > g.shape[1]
    shorter, longer = (of_columns, of_rows) if tall else (of_rows, of_columns)
    v_row = decay * v_row + (1.0 - decay) * shorter
    v_col = decay * v_col + (1.0 - decay) * longer
    row_factor, column_factor = (v_row / jnp.mean(v_row)) ** -0.5, v_col**-0.5
    across, down = (row_factor, column_factor) if tall else (column_factor, row_factor)
    return _in_place(lambda x, d: x * across * d[:, None], g, down), v_row, v_col


def _mean_squares(g: Float[Array, "N D"]) -> tuple[Float[Array, " N"], Float[Array, " D"]]:
    """Over every row and over every column."""

    def add(
        first: Any, block: jax.Array, done: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        of_rows, of_columns = done
        squares = jnp.square(block) + EPSILON
        means = jnp.mean(squares, axis=1)
        of_rows = lax.dynamic_update_slice_in_dim(of_rows, means, first, 0)
        return of_rows, of_columns + jnp.sum(squares, axis=0)

    rows, columns = g.shape
    start = jnp.zeros(rows, g.dtype), jnp.zeros(columns, g.dtype)
    of_rows, of_columns = _over_blocks(
        g.shape, lambda first, size, done: add(first, _rows(g, first, size), done), start
    )
    return of_rows, of_columns / rows


def _in_place(
    function: Callable[..., jax.Array], x: Float[Array, "N D"], *beside: Float[Array, " N"]
) -> Float[Array, "N D"]:
    """`function` of rows of x, and of the elements of other arrays beside them."""

    def put(first: Any, size: int, x: jax.Array) -> jax.Array:
        new = function(_rows(x, first, size), *(_rows(y, first, size) for y in beside))
        return lax.dynamic_update_slice_in_dim(x, new, first, 0)

    return _over_blocks(x.shape, put, x)


def _over_blocks(shape: tuple[int, ...], step: Callable[[Any, int, Any], Any], value: Any) -> Any:
    """`value` after step(first row, how many rows, value) of all blocks of a matrix in turn."""
    size = min(max(1, BLOCK // shape[1]), shape[0])
    full = shape[0] // size
    value = lax.fori_loop(0, full, lambda i, value: step(i * size, size, value), value)
    rest = shape[0] - full * size
    return step(full * size, rest, value) if rest else value


def _rows(x: jax.Array, first: Any, size: int) -> jax.Array:
    return lax.dynamic_slice_in_dim(x, first, size)
