"""Masked language modelling, with or without pairs (BERT, RoBERTa, ALBERT's pairs, XLM's)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lm.config import MaskedLM, ModelConfig
from lm.data.rows import RowMaker
from lm.data.tokenizer import Tokenizer
from lm.model import build_model
from lm.objectives.base import Term
from lm.objectives.common import encoder_hidden, heaviest, valid_tokens
from lm.objectives.cross_entropy import CrossEntropy
from lm.objectives.masking import MaskedRows, TranslationRows, most_predictions
from lm.types import Batch, Key, Params


class MaskedLMObjective:
    """Cross-entropy of the masked tokens (Devlin et al. 2019). A batch is what `MaskedRows` or
    `TranslationRows` make, [B, ...]. Terms, besides those of `CrossEntropy`, where pairs are of one
    document:

        pair_loss       cross-entropy of whether B follows A (class 0: it does, as in the reference)
        pair_accuracy   metric: the likelier answer is right
    """

    def __init__(self, config: MaskedLM, model: ModelConfig) -> None:
        self.config = config
        self.model = build_model(model)
        self._cross_entropy = CrossEntropy(model.vocab_size)

    def row_maker(self, tokenizer: Tokenizer, sequence_length: int) -> RowMaker:
        """See `MaskedRows`, and `TranslationRows` for pairs of texts."""
        rows = TranslationRows if self.config.takes_pairs else MaskedRows
        return rows(self.config, tokenizer, sequence_length, self.model.config.vocab_size)

    def init(self, rng: Key, batch: Batch) -> Params:
        """Initial parameters, with their logical axis names."""
        return self.model.init({"params": rng}, jnp.asarray(batch["tokens"][:1]))["params"]

    def loss(
        self, params: Params, batch: Batch, rng: Key | None, *, train: bool
    ) -> dict[str, Term]:
        """The terms of one batch. Device, pure; `rng` feeds dropout while training."""
        hidden = encoder_hidden(self.model, params, batch["tokens"], batch, rng, train)
        count = most_predictions(self.config, hidden.shape[1], "segment_ids" in batch)
        weights, _, (chosen, targets) = heaviest(batch["weights"], count, hidden, batch["targets"])

        def logits_of(hidden: jax.Array) -> Any:
            return self.model.apply({"params": params}, hidden, method="logits")

        terms = self._cross_entropy.terms(logits_of, chosen, targets, weights, train=train)
        if self.config.classifies_pairs:
            terms |= self._pair_terms(params, hidden, batch, rng, train)
        return terms

    def _pair_terms(
        self, params: Params, hidden: jax.Array, batch: Batch, rng: Key | None, train: bool
    ) -> dict[str, Term]:
        key = jax.random.fold_in(rng, 1) if train and rng is not None else None
        logits: Any = self.model.apply(
            {"params": params},
            "next_sentence",
            hidden,
            valid_tokens(batch),
            train=train,
            rngs=None if key is None else {"dropout": key},
            method="head",
        )
        answer = 1 - batch["is_next"]
        weights = batch["pair_weights"]
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), answer[:, None], axis=-1)[:, 0]
        right = (jnp.argmax(logits, axis=-1) == answer).astype(jnp.float32)
        weight = jnp.sum(weights)
        return {
            "pair_loss": Term(-jnp.sum(log_p * weights), weight, 1.0),
            "pair_accuracy": Term(jnp.sum(right * weights), weight, 0.0),
        }
