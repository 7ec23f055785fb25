"""XLNet (Yang et al. 2019): two streams of attention, relative positions, memory.

The content stream of a token knows what it is; the query stream of a place to be predicted knows
only where it is. Both share all weights. Which keys a query may see follows from the order in which
the tokens are predicted, any permutation of them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from lm.config import ModelConfig, XLNetRelative
from lm.model.heads import WithHeads
from lm.model.layers import Embedding, FeedForward, Norm
from lm.model.positions import relative_sinusoids
from lm.model.relative_attention import RelativeAttention, RelativeContext
from lm.model.sharding import split_rows
from lm.model.stack import layer_function, layer_parameters
from lm.types import Params

# The hidden states of earlier tokens, one array [B, M, D] a layer: its inputs.
LayerMemories = tuple[Float[Array, "B _ D"], ...]


class TwoStreamBlock(nn.Module):
    """norm(x + attention), norm(x + feed-forward), on both streams with the same weights."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        streams: tuple[Float[Array, "B T D"], Float[Array, "B P D"] | None],
        context: RelativeContext,
        memory: Float[Array, "B M D"] | None = None,
        *,
        train: bool,
    ) -> tuple[tuple[jax.Array, jax.Array | None], None]:
        c = self.config
        dropout = nn.Dropout(c.dropout.residual, deterministic=not train)
        attention = RelativeAttention(c, name="attention")
        attention_norm = Norm(c.norm, c.d_model, name="attention_norm")
        feed_forward = FeedForward(c, name="mlp")
        mlp_norm = Norm(c.norm, c.d_model, name="mlp_norm")

        def after(x: jax.Array, found: jax.Array) -> jax.Array:
            x = attention_norm(x + dropout(found))
            return mlp_norm(x + dropout(feed_forward(x, train=train)))

        content, query = streams
        found = attention(streams, context, memory, train=train)
        content = after(content, found[0])
        if query is not None and found[1] is not None:
            query = after(query, found[1])
        return (content, query), None


class TwoStream(WithHeads):
    """XLNet."""

    def setup(self) -> None:
        c = self.config
        self.setup_heads()
        self.mask_embedding = Embedding(
            1, c.d_model, (None, "embed"), c.init.stddev, jnp.dtype(c.compute_dtype)
        )
        for i in range(c.num_layers):
            if not self.has_variable("params", f"layer_{i}"):
                self.param(f"layer_{i}", self._init_layer)
        self.embedding_dropout = nn.Dropout(c.dropout.embedding)
        self.output_dropout = nn.Dropout(c.dropout.output)

    def _init_layer(self, key: jax.Array) -> Params:
        c = self.config
        x = jnp.zeros((1, 1, c.d_model), c.compute_dtype)
        context = RelativeContext(jnp.zeros((2, c.d_model)))
        return TwoStreamBlock(c, parent=None).init(key, (x, None), context, train=False)["params"]

    def __call__(
        self, tokens: Int[Array, "B T"], **arguments: Any
    ) -> tuple[Float[Array, "B P V"], LayerMemories]:
        """Float32 logits, at every place of `query_at` from the query stream, or without it at
        every token from the content stream; and the memory for the tokens that follow.

        Args:
          tokens: token ids.
          positions: only tells padding apart: -1 is never attended to (but by itself). Distances
            are counted in tokens, memory included.
          token_types: the segment of every token, default 0; attention knows whether two tokens
            are of the same segment, and memory counts as segment 0.
          allowed: [B, T, T], True where query i may see token j; None is everywhere. A token's
            content stream always sees the token itself.
          query_at: [B, P] places to be predicted: the query stream there sees what `allowed` says
            of that place (which must not be the place itself). Needs `allowed`.
          memory: what an earlier call returned: every query may see all of it. A caller that wants
            a shorter one cuts the arrays.
          train: apply dropout, with the random stream "dropout".

        Raises:
          ValueError: query_at without allowed; token types that the model does not know.
        """
        hidden, memory = self.hidden(tokens, **arguments)
        return self.result(hidden), memory

    def hidden(
        self, tokens: Int[Array, "B T"], **arguments: Any
    ) -> tuple[Float[Array, "B P D"], LayerMemories]:
        """What `logits` turns into logits, and the memory. As for `__call__`."""
        (content, query), memory, _ = self._run(tokens, **arguments)
        return content if query is None else query, memory

    def hidden_states(
        self, tokens: Int[Array, "B T"], **arguments: Any
    ) -> tuple[Float[Array, "B T D"], ...]:
        """The content stream's: first layer's input, every layer's output. As for `__call__`."""
        return self._run(tokens, **arguments)[2]

    def _run(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        token_types: Int[Array, "B T"] | None = None,
        allowed: Bool[Array, "B T T"] | None = None,
        query_at: Int[Array, "B P"] | None = None,
        memory: LayerMemories | None = None,
        train: bool = False,
    ) -> tuple[tuple[jax.Array, jax.Array | None], LayerMemories, tuple[jax.Array, ...]]:
        """Both streams, the memory, and the content stream's states: what is not used of them is
        not computed, or not kept, under jit."""
        c = self.config
        if query_at is not None and allowed is None:
            raise ValueError(
                "query_at needs allowed: without it, a place would see the token to be predicted"
            )
        if token_types is not None and not c.token_types:
            raise ValueError("token_types are given, but model.token_types is 0")
        earlier = 0 if memory is None else memory[0].shape[1]
        context = self._context(tokens, earlier, positions, token_types, allowed, query_at)
        context = context.replace(
            distances=self.embedding_dropout(context.distances, deterministic=not train)
        )
        content = self.embedding_dropout(self.token_embedding(tokens), deterministic=not train)
        query = None
        if self.is_initializing():
            self.mask_embedding(jnp.zeros((1, 1), jnp.int32))
        if query_at is not None:
            query = self.mask_embedding(jnp.zeros_like(query_at))
            query = self.embedding_dropout(query, deterministic=not train)
        key = self.make_rng("dropout") if train and self.has_rng("dropout") else None
        run = layer_function(TwoStreamBlock(c, parent=None), key, train)
        layers = layer_parameters(self, c.num_layers)
        streams = (split_rows(content), None if query is None else split_rows(query))
        inputs = []
        for i, params in enumerate(layers):
            before = None if memory is None else memory[i]
            inputs.append(streams[0])
            streams, _ = run(params, streams, i, context, before)
        content, query = (
            None if x is None else self.output_dropout(x, deterministic=not train) for x in streams
        )
        remembered = tuple(
            jax.lax.stop_gradient(x if memory is None else jnp.concatenate([memory[i], x], axis=1))
            for i, x in enumerate(inputs)
        )
        assert content is not None
        return (content, query), remembered, (*inputs, content)

    def _context(
        self,
        tokens: Int[Array, "B T"],
        earlier: int,
        positions: Int[Array, "B T"] | None,
        token_types: Int[Array, "B T"] | None,
        allowed: Bool[Array, "B T T"] | None,
        query_at: Int[Array, "B P"] | None,
    ) -> RelativeContext:
        """Masks, segments and distances over `earlier` remembered tokens and these."""
        c = self.config
        assert isinstance(c.position, XLNetRelative)
        batch, length = tokens.shape
        distances = relative_sinusoids(
            length, earlier + length, c.d_model, c.position.clamp_length
        ).astype(c.compute_dtype)
        other = None
        if token_types is not None:
            keys = jnp.pad(token_types, ((0, 0), (earlier, 0)))
            other = token_types[:, :, None] != keys[:, None, :]
        visible = jnp.ones((batch, length, length), bool) if allowed is None else allowed
        if positions is not None:
            visible = visible & (positions >= 0)[:, None, :]
        content_mask = query_mask = None
        if allowed is not None or positions is not None:
            itself = visible | jnp.eye(length, dtype=bool)
            content_mask = _with_memory(itself, earlier)
            if query_at is not None:
                at_places = jnp.take_along_axis(visible, query_at[:, :, None], axis=1)
                query_mask = _with_memory(at_places, earlier)
        return RelativeContext(distances, content_mask, query_mask, other, query_at)


def _with_memory(mask: Bool[Array, "B P T"], earlier: int) -> Bool[Array, "B 1 P S"]:
    """The mask with `earlier` remembered tokens in front, which everything may see."""
    return jnp.pad(mask, ((0, 0), (0, 0), (earlier, 0)), constant_values=True)[:, None]
