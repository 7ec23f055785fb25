"""Causal language modelling: predict the next token (Bengio et al. 2003; GPT)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import CausalLM, ModelConfig
from lm.data.rows import Aligned, RowMaker
from lm.data.tokenizer import Tokenizer
from lm.model import build_model
from lm.objectives.base import Term
from lm.objectives.cross_entropy import CrossEntropy
from lm.types import Batch, Features, Key, Params


class CausalLMObjective:
    """Cross-entropy of every next token, in nats.

    A batch has tokens, targets int32 [B, T] and weights float32 [B, T]; packed or padded ones also
    segment_ids and positions, int32 [B, T], as `lm.model.transformer.Transformer` takes them. The
    terms are those of `lm.objectives.cross_entropy.CrossEntropy`.
    """

    def __init__(self, config: CausalLM, model: ModelConfig) -> None:
        self.config = config
        self.model = build_model(model)
        self._cross_entropy = CrossEntropy(
            model.vocab_size,
            label_smoothing=config.label_smoothing,
            z_loss=config.z_loss,
            chunk_tokens=config.chunk_tokens,
        )

    def row_maker(self, tokenizer: Tokenizer, sequence_length: int) -> RowMaker:
        """Rows of `sequence_length` positions, and one token beyond each for its last target."""
        return Aligned(self.prepare, sequence_length, lookahead=1)

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

        def logits_of(hidden: jax.Array) -> Any:
            return self.model.apply({"params": params}, hidden, method="logits")

        def factors_of(hidden: jax.Array) -> Any:
            return self.model.apply({"params": params}, hidden, method="factors")

        return self._cross_entropy.terms(
            logits_of,
            hidden,
            batch["targets"],
            batch["weights"],
            train=train,
            factors_of=factors_of,
        )
