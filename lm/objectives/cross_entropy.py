"""Cross-entropy of logits that are never all there at once where they are many."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from lm.objectives.base import Term

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

    def terms(
        self,
        logits_of: Callable[[jax.Array], jax.Array],
        hidden: Float[Array, "B T D"],
        targets: Int[Array, "B T"],
        weights: Float[Array, "B T"],
        *,
        train: bool,
    ) -> dict[str, Term]:
        """The terms that every language model has:

        loss            cross-entropy; its mean is nats a token
        smoothed_loss   with label smoothing, while training, in the place of "loss" (which
                        stays as a metric): (1 - e) * cross-entropy + e * mean over V of -log p
        z_loss          log(Z)^2 (PaLM, Chowdhery et al. 2022, section 5), where its
                        coefficient is above 0
        accuracy        metric: the target's logit is above all others; a tie is not right
        """
        sums = self.sums(logits_of, hidden, targets, weights)
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
    ) -> dict[str, jax.Array]:
        """Weighted sums over the batch; never all the logits at once where they are many."""

        def part(hidden: jax.Array, targets: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
            values = self._token_values(logits_of(hidden), targets)
            return {name: jnp.sum(value * weights) for name, value in values.items()}

        batch, length = targets.shape
        size = positions_per_chunk(self.chunk_tokens, batch, length, self.vocab_size, _devices())
        if size >= length:
            return part(hidden, targets, weights)
        chunks = [_chunks(x, size) for x in (hidden, targets, weights)]
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(part, *(x[0] for x in chunks)),
        )

        def body(total: dict[str, jax.Array], inputs: list[jax.Array]) -> tuple[Any, None]:
            # Without the checkpoint the scan would keep every part's logits for the gradient.
            return jax.tree.map(jnp.add, total, jax.checkpoint(part)(*inputs)), None

        return jax.lax.scan(body, zeros, chunks)[0]

    def _token_values(
        self, logits: Float[Array, "B T V"], targets: Int[Array, "B T"]
    ) -> dict[str, Float[Array, "B T"]]:
        log_z = jax.nn.logsumexp(logits, axis=-1)
        # A masked sum, because the gradient of a gather is a scatter into a second array of logits.
        hit = jnp.arange(logits.shape[-1]) == targets[..., None]
        of_target = jnp.sum(jnp.where(hit, logits, 0), axis=-1)
        right = jnp.sum(logits >= of_target[..., None], axis=-1) == 1
        values = {"loss": log_z - of_target, "accuracy": right.astype(jnp.float32)}
        if self.label_smoothing > 0:
            values["uniform_loss"] = log_z - jnp.mean(logits, axis=-1)
        if self.z_loss > 0:
            values["z_loss"] = jnp.square(log_z)
        return values


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


def _devices() -> int:
    """Over how many devices the batch seen here is spread: those of the mesh that tracing is under
    (`jax.set_mesh`), without the axes that are mapped by hand (`jax.pmap`); 1 where there is none.
    """
    mesh = jax.sharding.get_abstract_mesh()
    sizes = zip(mesh.axis_sizes, mesh.axis_types)
    return math.prod(size for size, kind in sizes if kind != jax.sharding.AxisType.Manual)


def _chunks(x: Shaped[Array, "B T ..."], size: int) -> Shaped[Array, "chunks B {size} ..."]:
    """Consecutive positions together; the last chunk is filled up with zeros (weight 0)."""
    missing = -x.shape[1] % size
    x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)
