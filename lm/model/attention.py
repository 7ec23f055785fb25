"""Scaled dot-product attention with grouped key/value heads."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int

from lm.config import ModelConfig, Rotary
from lm.model.cache import append
from lm.model.layers import Linear, residual_stddev
from lm.model.masks import Mask, Span
from lm.model.positions import rotate

# Keys and values of one layer, and the slot where the next are written.
LayerCache = tuple[Float[Array, "B S K H"], Float[Array, "B S K H"], Int[Array, ""]]


class Context(struct.PyTreeNode):
    """What every layer of one kind shares in one call: where it may look, and position terms."""

    mask: Mask = Mask()
    bias: Float[Array, "#B N T S"] | None = None
    rotary: tuple[Float[Array, "#B T half"], Float[Array, "#B T half"]] | None = None
    spans: tuple[Span, ...] | None = struct.field(pytree_node=False, default=None)


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
    """cap * tanh(x / cap) (Gemma 2, section 2): nearly x while small, never beyond +-cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def attend(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    context: Context,
    *,
    scale: float,
    cap: float | None = None,
    dropout: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Float[Array, "B T N H"]:
    """softmax(softcap(scale * q k^T) + bias) v; scores and softmax in float32.

    Query head n uses key/value head n // (N / K). A query that may attend to nothing gets the mean
    of the values: meaningless, but finite.
    """
    batch, length, heads, width = query.shape
    groups, num_keys = key.shape[2], key.shape[1]
    # Heads first, and one plain batched matrix product a block (a group's queries side by side):
    # on CPU half the time of products that leave the heads where they are.
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    bias = context.bias
    results = []
    for span in context.spans or ((0, length, 0, num_keys),):
        start, stop, first, last = span
        queries, keys = slice(start, stop), slice(first, last)
        scores = jnp.einsum(
            "bkqh,bksh->bkqs",
            query[:, :, queries].reshape(batch, groups, -1, width),
            key[:, :, keys],
            preferred_element_type=jnp.float32,
        )
        scores = scores.reshape(batch, heads, stop - start, last - first) * scale
        scores = softcap(scores, cap)
        if bias is not None:
            scores = scores + bias[:, :, queries, keys]
        # Made block by block and not kept: it costs a comparison, all of it would be T x S.
        mask = context.mask.materialise(length, num_keys, span)
        if mask is not None:
            scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
        probabilities = dropout(jax.nn.softmax(scores, axis=-1)).astype(value.dtype)
        block = jnp.einsum(
            "bkqs,bksh->bkqh",
            probabilities.reshape(batch, groups, -1, last - first),
            value[:, :, keys],
        )
        results.append(block.reshape(batch, heads, stop - start, width))
    result = results[0] if len(results) == 1 else jnp.concatenate(results, axis=2)
    return jnp.swapaxes(result, 1, 2)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), multi-query and grouped-query included."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: Context,
        cache: LayerCache | None = None,
        *,
        train: bool,
    ) -> tuple[Float[Array, "B T D"], LayerCache | None]:
        c = self.config
        dtype, width = jnp.dtype(c.compute_dtype), c.width_of_head
        project = functools.partial(
            Linear, (c.d_model,), bias=c.attention_bias, stddev=c.init.stddev, dtype=dtype
        )
        shared = ("embed", "kv_heads", "head")
        query = project((c.num_heads, width), axes=("embed", "heads", "head"), name="query")(x)
        key = project((c.kv_heads, width), axes=shared, name="key")(x)
        value = project((c.kv_heads, width), axes=shared, name="value")(x)
        if context.rotary is not None and isinstance(c.position, Rotary):
            turn = functools.partial(
                rotate, tables=context.rotary, interleaved=c.position.interleaved
            )
            query, key = turn(query), turn(key)
        if cache is not None:
            keys, values, index = cache
            key, value = append(keys, key, index), append(values, value, index)
            cache = (key, value, index)
        result = attend(
            query,
            key,
            value,
            context,
            scale=1 / math.sqrt(width) if c.attention_scale is None else c.attention_scale,
            cap=c.attention_softcap,
            dropout=nn.Dropout(c.dropout.attention, deterministic=not train),
        )
        output = Linear(
            (c.num_heads, width),
            (c.d_model,),
            ("heads", "head", "embed"),
            c.attention_output_bias,
            residual_stddev(c),
            dtype,
            name="output",
        )
        return output(result), cache
