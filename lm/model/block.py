"""One layer of the Transformer: attention and feed-forward, each with its norm and residual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from lm.config import ModelConfig
from lm.model.attention import Attention, Context
from lm.model.cache import LayerCache
from lm.model.layers import FeedForward, Norm


class Block(nn.Module):
    """pre: x + f(norm(x)). post: norm(x + f(x)). f is attention, then with `cross` attention to the
    encoder's output, then the feed-forward (none where d_ff is 0)."""

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
        dropout = nn.Dropout(c.dropout.residual, deterministic=not train)

        def residual(
            x: jax.Array, norm: Norm, function: Callable[[jax.Array], tuple[jax.Array, Any]]
        ) -> tuple[jax.Array, Any]:
            if c.norm.placement == "pre":
                y, rest = function(norm(x))
                return x + dropout(y), rest
            y, rest = function(x)
            return norm(x + dropout(y)), rest

        def attend(module: Attention) -> Callable[[jax.Array], tuple[jax.Array, Any]]:
            return lambda h: module(h, context, cache, train=train)

        def norm(name: str) -> Norm:
            return Norm(c.norm, c.d_model, name=name)

        feed_forward = FeedForward(c, name="mlp")
        x, cache = residual(x, norm("attention_norm"), attend(Attention(c, name="attention")))
        if self.cross:
            cross = Attention(c, cross=True, name="cross_attention")
            x, cache = residual(x, norm("cross_attention_norm"), attend(cross))
        if c.d_ff:
            x, _ = residual(x, norm("mlp_norm"), lambda h: (feed_forward(h, train=train), None))
        return x, cache
