"""Attention with relative positions that depend on the query: Transformer-XL's and XLNet's."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from lm.config import ModelConfig
from lm.model.layers import Linear, projection_stddev
from lm.model.positions import by_distance


class RelativeContext(struct.PyTreeNode):
    """What every layer shares in one call.

    distances      sinusoids of the distances, a row each, as `relative_sinusoids` orders them
    content_mask   True where a content query may see a key; None is everywhere
    query_mask     the same for the places to be predicted
    other_segment  True where query and key are of different segments, [B, T, S]
    query_at       the places to be predicted
    """

    distances: Float[Array, "distances D"]
    content_mask: Bool[Array, "B 1 T S"] | None = None
    query_mask: Bool[Array, "B 1 P S"] | None = None
    other_segment: Bool[Array, "B T S"] | None = None
    query_at: Int[Array, "B P"] | None = None


class RelativeAttention(nn.Module):
    """Transformer-XL's attention with XLNet's segment term (Yang et al. 2019, section 2.5 and
    appendix A.2): every query looks at contents, distances, and whether segments are the same."""

    config: ModelConfig

    def setup(self) -> None:
        c = self.config
        heads, width = c.num_heads, c.width_of_head
        dtype, stddev = jnp.dtype(c.compute_dtype), c.init.stddev

        def project() -> Linear:
            axes = ("embed", "heads", "head")
            initial = projection_stddev(c, c.d_model, 3 * heads * width)
            return Linear((c.d_model,), (heads, width), axes, False, initial, dtype)

        self.query, self.key, self.value, self.relative = (project() for _ in range(4))
        self.content_bias, self.position_bias, self.segment_bias = (
            HeadBias(heads, width, stddev) for _ in range(3)
        )
        self.segment_embedding = SegmentEmbedding(heads, width, stddev)
        self.output = Linear(
            (heads, width),
            (c.d_model,),
            ("heads", "head", "embed"),
            False,
            projection_stddev(c, heads * width, c.d_model, residual=True),
            dtype,
        )
        self.dropout = nn.Dropout(c.dropout.attention)

    def __call__(
        self,
        streams: tuple[Float[Array, "B T D"], Float[Array, "B P D"] | None],
        context: RelativeContext,
        memory: Float[Array, "B M D"] | None,
        *,
        train: bool,
    ) -> tuple[jax.Array, jax.Array | None]:
        content, query = streams
        seen = content if memory is None else jnp.concatenate([memory, content], axis=1)
        key, value = self.key(seen), self.value(seen)
        position_key = self.relative(context.distances)
        seen_as = (key, value, position_key)
        length, num_keys = content.shape[1], key.shape[1]

        def every(x: jax.Array) -> jax.Array:
            return by_distance(x, num_keys)

        answer = self._attend(
            self.query(content), seen_as, every, context.other_segment, context.content_mask, train
        )
        if query is None or context.query_at is None:
            return answer, None
        places = context.query_at

        def chosen(x: jax.Array) -> jax.Array:
            # As `by_distance`, of the rows at these places alone: row i begins at column T - i.
            cut = jax.vmap(  # over the batch, heads, places
                jax.vmap(
                    jax.vmap(
                        lambda row, at: jax.lax.dynamic_slice(row, (length - at,), (num_keys,))
                    ),
                    in_axes=(0, None),
                )
            )
            return cut(x, places)

        other = context.other_segment
        if other is not None:
            other = jnp.take_along_axis(other, places[:, :, None], axis=1)
        predicted = self._attend(
            self.query(query), seen_as, chosen, other, context.query_mask, train
        )
        return answer, predicted

    def _attend(
        self,
        query: Float[Array, "B P N H"],
        seen_as: tuple[jax.Array, jax.Array, jax.Array],
        rows: Any,
        other_segment: Bool[Array, "B P S"] | None,
        mask: Bool[Array, "B 1 P S"] | None,
        train: bool,
    ) -> Float[Array, "B P D"]:
        key, value, position_key = seen_as

        def scores(equation: str, query: jax.Array, key: jax.Array) -> jax.Array:
            return jnp.einsum(equation, query, key, preferred_element_type=jnp.float32)

        total = scores("bqnh,bsnh->bnqs", self.content_bias(query), key)
        total += rows(scores("bqnh,dnh->bnqd", self.position_bias(query), position_key))
        by_segment = scores(
            "bqnh,cnh->cbnq", self.segment_bias(query), self.segment_embedding().astype(query.dtype)
        )[..., None]
        if other_segment is None:
            total += by_segment[0]
        else:
            total += jnp.where(other_segment[:, None], by_segment[1], by_segment[0])
        total = total / math.sqrt(self.config.width_of_head)
        if mask is not None:
            total = jnp.where(mask, total, jnp.finfo(jnp.float32).min)
        probabilities = self.dropout(jax.nn.softmax(total, axis=-1), deterministic=not train)
        found = jnp.einsum("bnqs,bsnh->bqnh", probabilities.astype(value.dtype), value)
        return self.output(found)


class HeadBias(nn.Module):
    """A trained vector for every head, added to its queries."""

    heads: int
    width: int
    stddev: float

    @nn.compact
    def __call__(self, x: Float[Array, "B T N H"]) -> Float[Array, "B T N H"]:
        normal: Any = nn.with_logical_partitioning(
            nn.initializers.normal(self.stddev), ("heads", "head")
        )
        bias = self.param("bias", normal, (self.heads, self.width), jnp.float32)
        return x + bias.astype(x.dtype)


class SegmentEmbedding(nn.Module):
    """For every head, a key for tokens of the query's own segment and one for all others."""

    heads: int
    width: int
    stddev: float

    @nn.compact
    def __call__(self) -> Float[Array, "2 N H"]:
        normal: Any = nn.with_logical_partitioning(
            nn.initializers.normal(self.stddev), (None, "heads", "head")
        )
        return self.param("embedding", normal, (2, self.heads, self.width), jnp.float32)
