"""Permutation language modelling (XLNet, Yang et al. 2019)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from lm.config import ModelConfig, PermutationLM
from lm.data.corruption.permutation import permute
from lm.data.corruption.vocabulary import vocabulary_of
from lm.data.rows import Other, RowMaker
from lm.data.tokenizer import Tokenizer
from lm.errors import ConfigError
from lm.model import build_model
from lm.objectives.base import Term
from lm.objectives.common import text_of
from lm.objectives.cross_entropy import CrossEntropy
from lm.types import Batch, Features, Key, Params


class PermutationLMObjective:
    """Cross-entropy, in nats, of the tokens that come last in a random order, each given those
    before it in that order. A batch is what `permute` makes, [B, ...]. Terms: `CrossEntropy`'s."""

    def __init__(self, config: PermutationLM, model: ModelConfig) -> None:
        self.config = config
        self.model = build_model(model)
        self._cross_entropy = CrossEntropy(model.vocab_size)

    def row_maker(self, tokenizer: Tokenizer, sequence_length: int) -> RowMaker:
        """See `PermutedRows`."""
        return PermutedRows(self.config, tokenizer, sequence_length)

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
            positions=batch["positions"],
            allowed=allowed(batch),
            query_at=batch["query_at"],
            train=train,
            rngs={"dropout": rng} if train and rng is not None else None,
            method="hidden",
        )

        def logits_of(hidden: jax.Array) -> Any:
            return self.model.apply({"params": params}, hidden, method="logits")

        return self._cross_entropy.terms(
            logits_of, hidden, batch["targets"], batch["weights"], train=train
        )


def allowed(batch: Batch) -> Bool[Array, "B T T"]:
    """Which token may see which: one to be predicted those before it in the order, any other also
    its equals, among them itself."""
    rank = batch["rank"]
    before = rank + ~batch["predicted"]
    return rank[:, None, :] < before[:, :, None]


class PermutedRows:
    """A `lm.data.rows.RowMaker`: a row's text with an order of prediction, see `permute`."""

    lookahead = 0

    def __init__(self, config: PermutationLM, tokenizer: Tokenizer, length: int) -> None:
        if config.num_predict >= length:
            raise ConfigError(
                f"objective.num_predict={config.num_predict} must be below "
                f"data.sequence_length={length}: some tokens are only seen"
            )
        self._config, self._vocabulary = config, vocabulary_of(tokenizer)
        self.positions = length

    def __call__(
        self, pieces: list[np.ndarray], rng: np.random.Generator, *, joined: bool, other: Other
    ) -> Features:
        del other
        c = self._config
        return permute(
            text_of(pieces, joined),
            self._vocabulary,
            rng,
            num_predict=c.num_predict,
            alpha=c.alpha,
            beta=c.beta,
            max_gram=c.max_gram,
            reuse_length=c.reuse_length,
            perm_size=c.perm_size,
            length=self.positions,
        )
