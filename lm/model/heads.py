"""What reads hidden states: the language-model head, the pooler and the classification heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from lm.config import POOLED_HEADS, HeadKind, ModelConfig
from lm.model.attention import softcap
from lm.model.layers import ACTIVATIONS, Bias, Embedding, Linear, Norm

POOLER_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "gelu": ACTIVATIONS["gelu"][0],
    "none": lambda x: x,
}


def head_modules() -> frozenset[str]:
    """The names that modules of heads have among a model's parameters: what reads hidden states,
    and what another task has no use for."""
    kinds: tuple[str, ...] = get_args(HeadKind)
    own = (name for kind in kinds for name in (kind, f"{kind}_transform"))
    return frozenset(("lm_transform", "lm_norm", "lm_head", "pooler", *own))


class WithHeads(nn.Module):
    """The base of every architecture: token embeddings, and the heads of its config."""

    config: ModelConfig

    def setup_heads(self) -> None:
        """Declares token embeddings and heads; a subclass calls it in `setup`."""
        c = self.config
        dtype, stddev = jnp.dtype(c.compute_dtype), c.init.stddev
        width = c.width_of_embedding

        def square(inputs: int, outputs: int) -> Linear:
            return Linear((inputs,), (outputs,), ("embed", None), True, stddev, dtype)

        self.token_embedding = Embedding(c.vocab_size, width, ("vocab", "embed"), stddev, dtype)
        if c.lm_head == "transform":
            self.lm_transform = square(c.d_model, width)
            self.lm_norm = Norm(c.norm, width)
        if c.lm_head != "none" and not c.tie_embeddings:
            self.lm_head: nn.Module = Linear(
                (width,),
                (c.vocab_size,),
                ("embed", "vocab"),
                c.lm_head_bias,
                0.0 if "readout" in c.init.zero else stddev,
                dtype,
                jnp.float32,
            )
        elif c.lm_head_bias:
            self.lm_head = Bias(c.vocab_size, "vocab")
        if c.pooler is not None and c.pooler.dense:
            self.pooler = square(c.d_model, c.d_model)
        for head in c.heads:
            if head.transform:
                setattr(self, f"{head.kind}_transform", square(c.d_model, c.d_model))
            layer = Linear(
                (c.d_model,),
                (head.num_labels,),
                ("embed", None),
                head.bias,
                stddev,
                dtype,
                jnp.float32,
            )
            setattr(self, head.kind, layer)
        self.head_dropout = nn.Dropout(c.dropout.head)
        self.pooler_dropout = nn.Dropout(c.dropout.pooler)

    def result(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T width"]:
        """Logits, or the hidden states of a model without a language-model head. While parameters
        are being initialised, every head is used once: a module makes them when it is called."""
        if self.is_initializing():
            for head in self.config.heads:
                self.head(head.kind, hidden)
            if self.config.pooler is not None:
                self.pooled(hidden)
        return hidden if self.config.lm_head == "none" else self.logits(hidden)

    def logits(self, hidden: Float[Array, "*shape D"]) -> Float[Array, "*shape V"]:
        """Float32 logits from `hidden`'s result; any leading axes.

        Raises:
          ValueError: the config has no language-model head.
        """
        c = self.config
        hidden, tied = self.readout(hidden), c.tie_embeddings
        logits = self.token_embedding.attend(hidden) if tied else self.lm_head(hidden)
        if c.logit_scale is not None:
            # Of the float32 products: in bfloat16 the number itself would be rounded.
            logits = logits * c.logit_scale
        if c.lm_head_bias and tied:
            logits = self.lm_head(logits)
        return softcap(logits, c.logit_softcap)

    def factors(
        self, hidden: Float[Array, "*shape D"]
    ) -> tuple[Float[Array, "*shape D"], Float[Array, "V D"]] | None:
        """x and a table, in the dtype of the computation, of which the logits are the products
        x @ table.T, in float32; None where they are something else. Raises as `logits`."""
        c, tokens = self.config, self.token_embedding
        more = c.logit_scale is not None or c.lm_head_bias or c.logit_softcap is not None
        # Without "embedding" it is a form for decoding.
        if more or not c.tie_embeddings or not tokens.has_variable("params", "embedding"):
            return None
        return self.readout(hidden).astype(tokens.dtype), tokens.embedding.astype(tokens.dtype)

    def readout(self, hidden: Float[Array, "*shape D"]) -> Float[Array, "*shape E"]:
        """What the output embeddings are multiplied with; raises as `logits`."""
        c = self.config
        if c.lm_head == "none":
            raise ValueError('this model has no language-model head: model.lm_head is "none"')
        if c.lm_head == "transform":
            return self.lm_norm(ACTIVATIONS[c.activation][0](self.lm_transform(hidden)))
        return hidden

    def pooled(
        self,
        hidden: Float[Array, "B T D"],
        valid: Bool[Array, "B T"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B D"]:
        """One vector a sequence, as `PoolerConfig` says; `valid` marks the tokens that are not
        padding, by default all.

        Raises:
          ValueError: the config has no pooler.
        """
        pooler = self.config.pooler
        if pooler is None:
            raise ValueError("this model pools nothing: model.pooler is not set")
        x = self.pooler_dropout(pool(hidden, pooler.token, valid), deterministic=not train)
        return POOLER_ACTIVATIONS[pooler.activation](self.pooler(x) if pooler.dense else x)

    def head(
        self,
        kind: HeadKind,
        hidden: Float[Array, "B T D"],
        valid: Bool[Array, "B T"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B ... labels"]:
        """A head's float32 outputs: [B, labels] from the pooled vector, else [B, T, labels].

        Raises:
          ValueError: the config has no such head.
        """
        heads = {head.kind: head for head in self.config.heads}
        if kind not in heads:
            raise ValueError(f"no {kind} head; model.heads has: {', '.join(heads) or 'none'}")
        x = self.pooled(hidden, valid, train=train) if kind in POOLED_HEADS else hidden
        x = self.head_dropout(x, deterministic=not train)
        if heads[kind].transform:
            x = ACTIVATIONS[self.config.activation][0](getattr(self, f"{kind}_transform")(x))
        return getattr(self, kind)(x)


def pool(
    hidden: Float[Array, "B T D"], token: str, valid: Bool[Array, "B T"] | None = None
) -> Float[Array, "B D"]:
    """The "first" or "last" valid token's vector, or the "mean" over the valid ones."""
    if valid is None:
        valid = jnp.ones(hidden.shape[:2], bool)
    if token == "mean":
        # In float32: a bfloat16 sum over a long sequence loses its small terms.
        weights = valid[..., None].astype(jnp.float32)
        total = jnp.sum(hidden.astype(jnp.float32) * weights, axis=1)
        return (total / jnp.maximum(jnp.sum(weights, axis=1), 1)).astype(hidden.dtype)
    if token == "first":
        index = jnp.argmax(valid, axis=1)
    else:
        index = valid.shape[1] - 1 - jnp.argmax(valid[:, ::-1], axis=1)
    return jnp.take_along_axis(hidden, index[:, None, None], axis=1)[:, 0]
