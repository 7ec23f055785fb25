"""Cross-entropy of logits that are never all there at once where they are many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm.model.sharding import device_count
from lm.objectives.base import Term
from lm.objectives.products import chunks, sums_of_products
from lm.objectives.token_values import TokenValues

# x [B, T, E] and table [V, E]: the logits are x @ table.T.
Factors = tuple[jax.Array, jax.Array]

# Logits of one device, float32: above so many they are made in parts ...
SPLIT_ABOVE = 2**26
# ... that are worth their pass over the output embeddings and its gradient: of at least so many
# logits, so many tokens, and this share of the whole.
CHUNK_ELEMENTS = 2**25
CHUNK_TOKENS = 1024
MOST_CHUNKS = 32


class CrossEntropy:
    """Sums over the tokens of a batch.

    `label_smoothing` and `z_loss` say what is needed besides; `chunk_tokens` see
    `positions_per_chunk`.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        chunk_tokens: int | None = None,
    ) -> None:
        self.vocab_size = vocab_size
        self.label_smoothing, self.z_loss = label_smoothing, z_loss
        self.chunk_tokens = chunk_tokens
        self._values = TokenValues(uniform_loss=label_smoothing > 0, z_loss=z_loss > 0)

    def terms(
        self,
        logits_of: Callable[[jax.Array], jax.Array],
        hidden: Float[Array, "B T D"],
        targets: Int[Array, "B T"],
        weights: Float[Array, "B T"],
        *,
        train: bool,
        factors_of: Callable[[jax.Array], Factors | None] = lambda _: None,
    ) -> dict[str, Term]:
        """The terms that every language model has:

        loss            cross-entropy; its mean is nats a token
        smoothed_loss   with label smoothing, while training, in the place of "loss" (which
                        stays as a metric): (1 - e) * cross-entropy + e * mean over V of -log p
        z_loss          log(Z)^2 (PaLM, Chowdhery et al. 2022, section 5), where its
                        coefficient is above 0
        accuracy        metric: the target's logit is above all others; a tie is not right

        `factors_of` see `sums`.
        """
        sums = self.sums(logits_of, hidden, targets, weights, factors_of)
        weight = jnp.sum(weights)
        smooth = train and self.label_smoothing > 0
        terms = {"loss": Term(sums["loss"], weight, 0.0 if smooth else 1.0)}
        if smooth:
            e = self.label_smoothing
            smoothed = (1 - e) * sums["loss"] + e * sums["uniform_loss"]
            terms["smoothed_loss"] = Term(smoothed, weight, 1.0)
        if self.z_loss > 0:
            terms["z_loss"] = Term(sums["z_loss"], weight, self.z_loss)
        terms["accuracy"] = Term(sums["accuracy"], weight, 0.0)
        return terms

    def sums(
        self,
        logits_of: Callable[[jax.Array], jax.Array],
        hidden: Float[Array, "B T D"],
        targets: Int[Array, "B T"],
        weights: Float[Array, "B T"],
        factors_of: Callable[[jax.Array], Factors | None] = lambda _: None,
    ) -> dict[str, jax.Array]:
        """Weighted sums over the batch; never all the logits at once where they are many.

        Args:
          factors_of: the two matrices whose products the logits are, where they are no more than
            that; then a CPU needs less memory for the gradient.
        """

        def part(hidden: jax.Array, targets: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
            _, values = self._values(logits_of(hidden), targets)
            return {name: jnp.sum(value * weights) for name, value in values.items()}

        batch, length = targets.shape
        devices = device_count()
        size = positions_per_chunk(self.chunk_tokens, batch, length, self.vocab_size, devices)
        if size >= length:
            return part(hidden, targets, weights)
        # A table that is split over devices would be sent around for its parts; and where a product
        # can be added to a sum in place, as on GPUs, nothing is won.
        if devices == 1 and jax.default_backend() == "cpu":
            factors = factors_of(hidden)
            if factors is not None:
                return sums_of_products(self._values, size, *factors, targets, weights)
        inputs = [chunks(x, size) for x in (hidden, targets, weights)]
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(part, *(x[0] for x in inputs)),
        )

        def body(total: dict[str, jax.Array], inputs: list[jax.Array]) -> tuple[Any, None]:
            # Without the checkpoint the scan would keep every part's logits for the gradient.
            return jax.tree.map(jnp.add, total, jax.checkpoint(part)(*inputs)), None

        return jax.lax.scan(body, zeros, inputs)[0]


def positions_per_chunk(
    chunk_tokens: int | None, batch: int, length: int, vocab: int, devices: int = 1
) -> int:
    """How many positions of every row get their logits at once; `length` is no split.

    `chunk_tokens` of None splits where a device's share of the B * T * V logits is above 2^26
    (256 MiB of float32). A part is then, on each device, 2^25 logits, or 1024 tokens, or 1/32 of
    its tokens, whichever is the most: so never more than 32 parts, and no more logits in memory
    than max(2^25, 1024 V, B T V / (32 devices)), rounded up to whole positions.

    0 never splits; n makes parts of at most n tokens (of all devices together). Cuts run across the
    positions, so that a batch sharded over devices stays so; a part has at least one position of
    every row.
    """
    if chunk_tokens == 0:
        return length
    if chunk_tokens is not None:
        return min(length, max(1, chunk_tokens // batch))
    tokens = -(-batch * length // devices)
    if tokens * vocab <= SPLIT_ABOVE:
        return length
    part = max(CHUNK_ELEMENTS // vocab, CHUNK_TOKENS, -(-tokens // MOST_CHUNKS))
    return min(length, -(-part * devices // batch))
