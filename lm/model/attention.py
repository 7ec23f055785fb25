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

from lm.config import ModelConfig, RelativeKeys, Rotary
from lm.model.cache import LayerCache, append
from lm.model.fused_attention import attend_fused, obstacle, use_cudnn
from lm.model.layers import Embedding, Linear, Norm, projection_stddev
from lm.model.masks import Mask, Span
from lm.model.positions import relative_keys, rotate


class Memory(struct.PyTreeNode):
    """What cross-attention looks at: the encoder's output, None where a cache holds its keys and
    values already, and the positions that are not padding."""

    states: Float[Array, "B S D"] | None
    mask: Mask = Mask()


class Context(struct.PyTreeNode):
    """What every layer of one kind shares in one call: where it may look, and position terms."""

    mask: Mask = Mask()
    bias: Float[Array, "#B N T S"] | None = None
    rotary: tuple[Float[Array, "#B T half"], Float[Array, "#B T half"]] | None = None
    distance: Int[Array, "#B T S"] | None = None
    spans: tuple[Span, ...] | None = struct.field(pytree_node=False, default=None)
    memory: Memory | None = None


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
    query, key, value = map(_swap, (query, key, value))
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
    return _swap(result)


def _swap(x: jax.Array) -> jax.Array:
    """Heads before what they attend to, and back."""
    return jnp.swapaxes(x, 1, 2)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017), multi-query and grouped-query included: of a
    sequence to itself, or (`cross`) to an encoder's output. By cuDNN or in blocks of queries, as
    the config's `attention_kernel` says."""

    config: ModelConfig
    cross: bool = False

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
        width = c.width_of_head
        scale = 1 / math.sqrt(width) if c.attention_scale is None else c.attention_scale
        query = self._project(x, "query", c.num_heads)
        if isinstance(c.position, RelativeKeys):
            bias = self._distance_bias(query, context, c.position.max_distance)
            context = context.replace(bias=scale * bias)
        if self.cross:
            key, value, cache = self._of_memory(x, context, cache)
            context = Context(mask=context.memory.mask) if context.memory else Context()
        else:
            key = self._project(x, "key", c.kv_heads)
            value = self._project(x, "value", c.kv_heads)
            if context.rotary is not None and isinstance(c.position, Rotary):
                turn = functools.partial(
                    rotate, tables=context.rotary, interleaved=c.position.interleaved
                )
                query, key = turn(query), turn(key)
            if cache is not None:
                keys = append(cache.keys, _swap(key), cache.index, 2)
                values = append(cache.values, _swap(value), cache.index, 2)
                key, value = _swap(keys), _swap(values)
                cache = cache.replace(keys=keys, values=values)
        reason = obstacle(
            query,
            key,
            value,
            context.mask,
            cached=cache is not None,
            biased=context.bias is not None,
            cap=c.attention_softcap,
            dropout=c.dropout.attention if train else 0.0,
        )
        if use_cudnn(c.attention_kernel, reason):
            result = attend_fused(query, key, value, context.mask, scale=scale)
        else:
            result = attend(
                query,
                key,
                value,
                context,
                scale=scale,
                cap=c.attention_softcap,
                dropout=nn.Dropout(c.dropout.attention, deterministic=not train),
            )
        output = Linear(
            (c.num_heads, width),
            (c.d_model,),
            ("heads", "head", "embed"),
            c.attention_output_bias,
            projection_stddev(c, c.num_heads * width, c.d_model, residual=True),
            jnp.dtype(c.compute_dtype),
            name="output",
        )
        return output(result), cache

    def _project(self, x: jax.Array, name: str, heads: int) -> jax.Array:
        """Queries, keys or values of every head."""
        c = self.config
        joint = (c.num_heads + 2 * c.kv_heads) * c.width_of_head
        axis = "heads" if name == "query" else "kv_heads"
        linear = Linear(
            (c.d_model,),
            (heads, c.width_of_head),
            ("embed", axis, "head"),
            c.attention_bias,
            0.0 if name in c.init.zero else projection_stddev(c, c.d_model, joint),
            jnp.dtype(c.compute_dtype),
            name=name,
        )
        y = linear(x)
        if c.qk_norm and name != "value":
            y = Norm(c.norm, c.width_of_head, name=f"{name}_norm")(y)
        return y

    def _distance_bias(
        self, query: Float[Array, "B T N H"], context: Context, farthest: int
    ) -> Float[Array, "B N T S"]:
        """What trained vectors of distances add to the products of queries and keys."""
        heads, width = query.shape[2:]
        table = Embedding(
            farthest + 1,
            heads * width,
            ("position", None),
            self.config.init.stddev,
            query.dtype,
            name="position_embedding",
        )
        vectors = table(jnp.arange(farthest + 1)).reshape(-1, heads, width)
        return relative_keys(query, vectors, context.distance)

    def _of_memory(
        self, x: jax.Array, context: Context, cache: LayerCache | None
    ) -> tuple[jax.Array, jax.Array, LayerCache | None]:
        """Keys and values of the encoder's output: made from it, or remembered by the cache."""
        memory = context.memory
        if memory is None and self.is_initializing():
            memory = Memory(x)
        if memory is not None and memory.states is not None:
            key = self._project(memory.states, "key", self.config.kv_heads)
            value = self._project(memory.states, "value", self.config.kv_heads)
            cache = None if cache is None else cache.replace(cross=(_swap(key), _swap(value)))
        elif cache is not None and cache.cross is not None:
            key, value = map(_swap, cache.cross)
        else:
            raise ValueError(
                "a decoder with cross-attention needs the source (source= or encoded=), or a "
                "cache that has seen it"
            )
        return key, value, cache
