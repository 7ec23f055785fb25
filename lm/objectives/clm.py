"""Causal language modelling: predict the next token (Bengio et al. 2003; GPT)."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from lm.config import CausalLM, ModelConfig
from lm.model import build_model
from lm.objectives.base import Term
from lm.types import Batch, Features, Key, Params

# Logits of one device, float32: above so many they are made in parts ...
SPLIT_ABOVE = 2**26
# ... that are worth their pass over the output embeddings and its gradient: of at least so many
# logits, so many tokens, and this share of the whole.
CHUNK_ELEMENTS = 2**25
CHUNK_TOKENS = 1024
MOST_CHUNKS = 32


class CausalLMObjective:
    """Cross-entropy of every next token, in nats.

    A batch has tokens, targets int32 [B, T] and weights float32 [B, T]; packed or padded ones also
    segment_ids and positions, int32 [B, T], as `lm.model.Decoder` takes them. Terms:

        loss            cross-entropy; its mean is nats a token
        smoothed_loss   with label smoothing, while training, in the place of "loss" (which stays
                        as a metric): (1 - e) * cross-entropy + e * mean over V of -log p
        z_loss          log(Z)^2 (PaLM, Chowdhery et al. 2022, section 5), where its coefficient
                        is above 0
        accuracy        metric: the target's logit is above all others; a tie is not right
    """

    lookahead = 1

    def __init__(self, config: CausalLM, model: ModelConfig) -> None:
        self.config = config
        self.model = build_model(model)

    def prepare(self, example: Features, rng: np.random.Generator) -> Features:
        """{"tokens": int32 [n]} to inputs, targets one ahead, and weights of 1, each [n - 1]."""
        tokens = example["tokens"]
        weights = np.ones(max(len(tokens) - 1, 0), np.float32)
        return {"tokens": tokens[:-1], "targets": tokens[1:], "weights": weights}

    def init(self, rng: Key, batch: Batch) -> Params:
        """Initial parameters, with their logical axis names."""
        return self.model.init({"params": rng}, jnp.asarray(batch["tokens"][:1]))["params"]

    def loss(
        self, params: Params, batch: Batch, rng: Key | None, *, train: bool
    ) -> dict[str, Term]:
        """The terms of one batch. Device, pure; `rng` feeds dropout while training."""
        hidden, _ = self.model.apply(
            {"params": params},
            batch["tokens"],
            positions=batch.get("positions"),
            segment_ids=batch.get("segment_ids"),
            train=train,
            rngs={"dropout": rng} if train and rng is not None else None,
            method="hidden",
        )
        sums = self._sums(params, hidden, batch["targets"], batch["weights"])
        weight = jnp.sum(batch["weights"])
        smooth = train and self.config.label_smoothing > 0
        terms = {"loss": Term(sums["loss"], weight, 0.0 if smooth else 1.0)}
        if smooth:
            e = self.config.label_smoothing
            smoothed = (1 - e) * sums["loss"] + e * sums["uniform_loss"]
            terms["smoothed_loss"] = Term(smoothed, weight, 1.0)
        if self.config.z_loss > 0:
            terms["z_loss"] = Term(sums["z_loss"], weight, self.config.z_loss)
        terms["accuracy"] = Term(sums["accuracy"], weight, 0.0)
        return terms

    def _sums(
        self,
        params: Params,
        hidden: Float[Array, "B T D"],
        targets: Int[Array, "B T"],
        weights: Float[Array, "B T"],
    ) -> dict[str, jax.Array]:
        """Weighted sums over the batch; never all the logits at once where they are many."""

        def part(hidden: jax.Array, targets: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
            logits: Any = self.model.apply({"params": params}, hidden, method="logits")
            values = self._token_values(logits, targets)
            return {name: jnp.sum(value * weights) for name, value in values.items()}

        batch, length = targets.shape
        size = positions_per_chunk(
            self.config.chunk_tokens, batch, length, self.model.config.vocab_size, _devices()
        )
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
        if self.config.label_smoothing > 0:
            values["uniform_loss"] = log_z - jnp.mean(logits, axis=-1)
        if self.config.z_loss > 0:
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
