"""Replaced-token detection (ELECTRA, Clark et al. 2020)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm.config import ModelConfig, ReplacedTokens
from lm.data.rows import RowMaker
from lm.data.tokenizer import Tokenizer
from lm.model import build_model
from lm.objectives.base import Term
from lm.objectives.common import encoder_hidden, heaviest, valid_tokens
from lm.objectives.cross_entropy import CrossEntropy
from lm.objectives.masking import MaskedRows, most_predictions
from lm.types import Batch, Key, Params

# Tables that the generator takes from the model.
SHARED = ("token_embedding", "position_embedding", "token_type_embedding")
# Tell apart the random streams of one step.
_GENERATOR, _SAMPLES, _DISCRIMINATOR = 0, 1, 2


class ReplacedTokensObjective:
    """A generator fills masked places with samples, and the model tells which tokens were replaced.

    Parameters are {"generator", "discriminator"}. A sample that happens to be the original counts
    as original. Samples carry no gradient: the generator learns from its own loss alone. Terms:

        loss               binary cross-entropy of every real token, by `coefficient` (the paper's
                           lambda); for the other tasks, cross-entropy of the original tokens
        generator_loss     cross-entropy of the masked tokens
        generator_accuracy, accuracy   metrics, of either
        replaced, found, detected      metrics, shares of the real tokens: those replaced, those
                           said to be, and those rightly so (precision is detected / found, recall
                           detected / replaced)
    """

    def __init__(self, config: ReplacedTokens, model: ModelConfig) -> None:
        assert config.generator is not None
        self.config = config
        self.model = build_model(model)
        self.generator = build_model(config.generator)
        self._cross_entropy = CrossEntropy(model.vocab_size)

    def row_maker(self, tokenizer: Tokenizer, sequence_length: int) -> RowMaker:
        """See `MaskedRows`."""
        return MaskedRows(self.config, tokenizer, sequence_length, self.model.config.vocab_size)

    def init(self, rng: Key, batch: Batch) -> Params:
        """Initial parameters of both, with their logical axis names."""
        tokens = jnp.asarray(batch["tokens"][:1])
        keys = jax.random.split(rng)
        generator = dict(self.generator.init({"params": keys[0]}, tokens)["params"])
        if self.config.share_embeddings:
            for name in SHARED:
                generator.pop(name, None)
        model = self.model.init({"params": keys[1]}, tokens)["params"]
        return {"generator": generator, "discriminator": model}

    def generator_params(self, params: Params) -> Params:
        """The generator's parameters, with the tables it shares."""
        model = params["discriminator"]
        shared = SHARED if self.config.share_embeddings else ()
        tables = {name: model[name] for name in shared if name in model}
        return {**params["generator"], **tables}

    def loss(
        self, params: Params, batch: Batch, rng: Key | None, *, train: bool
    ) -> dict[str, Term]:
        """The terms of one batch. Device, pure; `rng` feeds dropout and samples: without one (in
        evaluation) samples are drawn with a key of their own, always the same."""
        key = jax.random.key(0) if rng is None else rng
        terms, samples = self._generate(params, batch, key, train)
        corrupted = jnp.where(batch["weights"] > 0, samples, batch["targets"])
        model = params["discriminator"]
        own = jax.random.fold_in(key, _DISCRIMINATOR)
        hidden = encoder_hidden(self.model, model, corrupted, batch, own, train)
        if self.config.task == "replaced":
            return terms | self._detection(model, hidden, corrupted, batch, own, train)
        return terms | self._originals(model, hidden, batch)

    def _generate(
        self, params: Params, batch: Batch, key: Key, train: bool
    ) -> tuple[dict[str, Term], Int[Array, "B T"]]:
        """The generator's terms, and the batch's tokens with a sample at every masked place."""
        generator = self.generator_params(params)
        own = jax.random.fold_in(key, _GENERATOR)
        hidden = encoder_hidden(self.generator, generator, batch["tokens"], batch, own, train)
        count = most_predictions(self.config, hidden.shape[1], "segment_ids" in batch)
        weights, places, (chosen, targets) = heaviest(
            batch["weights"], count, hidden, batch["targets"]
        )
        logits: Any = self.generator.apply({"params": generator}, chosen, method="logits")
        found = self._cross_entropy.terms(lambda x: x, logits, targets, weights, train=train)
        noise = jax.random.gumbel(jax.random.fold_in(key, _SAMPLES), logits.shape)
        drawn = jnp.argmax(jax.lax.stop_gradient(logits) / self.config.temperature + noise, axis=-1)
        # Places without weight are written to as they were.
        drawn = jnp.where(weights > 0, drawn.astype(jnp.int32), targets)
        rows = jnp.arange(len(places))[:, None]
        samples = jnp.asarray(batch["targets"]).at[rows, places].set(drawn)
        return {
            "generator_loss": found["loss"],
            "generator_accuracy": found["accuracy"],
        }, samples

    def _detection(
        self,
        model: Params,
        hidden: Float[Array, "B T D"],
        corrupted: Int[Array, "B T"],
        batch: Batch,
        key: Key,
        train: bool,
    ) -> dict[str, Term]:
        logits: Any = self.model.apply(
            {"params": model},
            "replaced_token",
            hidden,
            train=train,
            rngs={"dropout": jax.random.fold_in(key, 1)} if train else None,
            method="head",
        )
        logits = logits[..., 0]
        replaced = corrupted != batch["targets"]
        valid = valid_tokens(batch).astype(jnp.float32)
        # log(1 + exp(x)) - x where replaced: the logit is that of "replaced".
        losses = jax.nn.softplus(logits) - jnp.where(replaced, logits, 0)
        found = logits > 0
        weight = jnp.sum(valid)

        def metric(values: jax.Array) -> Term:
            return Term(jnp.sum(values * valid), weight, 0.0)

        return {
            "loss": Term(jnp.sum(losses * valid), weight, self.config.coefficient),
            "accuracy": metric(found == replaced),
            "replaced": metric(replaced),
            "found": metric(found),
            "detected": metric(found & replaced),
        }

    def _originals(
        self, model: Params, hidden: Float[Array, "B T D"], batch: Batch
    ) -> dict[str, Term]:
        """The paper's ablations: predict what stood there, at the masked places or everywhere."""
        everywhere = self.config.task == "all_originals"
        weights = valid_tokens(batch).astype(jnp.float32) if everywhere else batch["weights"]

        def logits_of(hidden: jax.Array) -> Any:
            return self.model.apply({"params": model}, hidden, method="logits")

        found = self._cross_entropy.terms(logits_of, hidden, batch["targets"], weights, train=False)
        loss = found["loss"]._replace(coefficient=self.config.coefficient)
        return {"loss": loss, "accuracy": found["accuracy"]}
