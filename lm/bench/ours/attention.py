"""Attention alone, forward and backward: the ways there are to compute it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from lm.bench.harness import Unavailable
from lm.bench.ours.loop import device_memory
from lm.model.attention import Context, attend
from lm.model.fused_attention import attend_fused, lacking
from lm.model.masks import Mask
from lm.model.stack import query_block

Kind = Literal["blockwise", "plain", "jax", "cudnn"]


class Attention:
    """Causal attention of [B, T, N, H] to itself, and the gradient to queries, keys and values.

    "cudnn" is what a model uses where it can, "blockwise" what it uses elsewhere: blocks of queries
    that skip the keys after them. "plain" has one block; "jax" is `jax.nn.dot_product_attention`.
    """

    def __init__(
        self, kind: Kind, batch: int, length: int, heads: int, width: int, dtype: str, calls: int
    ) -> None:
        self._kind, self._calls = kind, calls
        self._shape, self._dtype = (batch, length, heads, width), jnp.dtype(dtype)

    def prepare(self) -> dict[str, Any]:
        missing = lacking() if self._kind == "cudnn" else None
        if missing is not None:
            raise Unavailable(f"cuDNN's attention: {missing}")
        keys = jax.random.split(jax.random.key(0), 4)
        *self._inputs, weights = (jax.random.normal(key, self._shape, self._dtype) for key in keys)
        function = _function(self._kind, self._shape[1], self._shape[3])

        def total(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            return jnp.sum((function(query, key, value) * weights).astype(jnp.float32))

        self._gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
        try:
            self.round()
        # cuDNN's has no float32 and no odd head widths.
        except NotImplementedError as error:
            if self._kind != "cudnn":
                raise
            raise Unavailable(f"cuDNN's attention: {error}") from error
        return {"units": self._calls}

    def round(self) -> float:
        began = time.perf_counter()
        for _ in range(self._calls):
            jax.block_until_ready(self._gradient(*self._inputs))
        return time.perf_counter() - began

    def finish(self) -> dict[str, Any]:
        return device_memory()


def _function(kind: Kind, length: int, width: int) -> Callable[..., jax.Array]:
    mask, scale = Mask(causal=True), 1 / math.sqrt(width)
    if kind in ("jax", "cudnn"):
        implementation: Any = "xla" if kind == "jax" else "cudnn"
        return lambda query, key, value: attend_fused(
            query, key, value, mask, scale=scale, implementation=implementation
        )
    block = length if kind == "plain" else query_block(length)
    context = Context(mask, spans=mask.spans(length, length, block))
    return lambda query, key, value: attend(query, key, value, context, scale=scale)
