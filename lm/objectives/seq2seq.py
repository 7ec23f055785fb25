"""Objectives with a source and a target: span corruption, UL2's mixture, denoising, prefixes, and
pairs of texts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import (
    Denoising,
    MixtureOfDenoisers,
    ModelConfig,
    PrefixLM,
    SequenceToSequence,
    SourceToTarget,
    SpanCorruption,
)
from lm.data.corruption import denoising, seq2seq, spans
from lm.data.corruption.vocabulary import Vocabulary, vocabulary_of, with_mask, with_sentinels
from lm.data.rows import Other, RowMaker
from lm.data.tokenizer import Tokenizer
from lm.errors import ConfigError
from lm.model import Mask, build_model
from lm.objectives.base import Term
from lm.objectives.common import text_of
from lm.objectives.cross_entropy import CrossEntropy
from lm.types import Batch, Features, Key, Params

MODES = ("R", "S", "X")


class SequenceObjective:
    """Cross-entropy of the target's tokens, in nats, given the source and the target before them.

    A batch for an encoder-decoder has source, source_positions int32 [B, S], targets int32 [B, T]
    and weights float32 [B, T], and with several pairs in a row positions, segment_ids int32 [B, T]
    and source_segment_ids int32 [B, S]; one for a decoder tokens, targets, positions, weights
    [B, T] and prefix_length int32 [B]. Terms: those of `CrossEntropy`.
    """

    def __init__(self, config: SourceToTarget, model: ModelConfig) -> None:
        self.config = config
        self.model = build_model(model)
        self._joined = model.architecture == "encoder_decoder"
        self._cross_entropy = CrossEntropy(
            model.vocab_size,
            label_smoothing=config.label_smoothing,
            chunk_tokens=config.chunk_tokens,
        )

    def row_maker(self, tokenizer: Tokenizer, sequence_length: int) -> RowMaker:
        """See `SequenceRows`, and `PairRows` for pairs of texts."""
        vocabulary = vocabulary_of(tokenizer)
        if isinstance(self.config, SequenceToSequence):
            target_length = self.config.target_length if self._joined else None
            return PairRows(vocabulary, sequence_length, target_length, decoder=not self._joined)
        return SequenceRows(self.config, self.model.config, vocabulary, sequence_length)

    def init(self, rng: Key, batch: Batch) -> Params:
        """Initial parameters, with their logical axis names."""
        if not self._joined:
            return self.model.init({"params": rng}, jnp.asarray(batch["tokens"][:1]))["params"]
        source, targets = (jnp.asarray(batch[name][:1]) for name in ("source", "targets"))
        return self.model.init({"params": rng}, targets, source=source)["params"]

    def loss(
        self, params: Params, batch: Batch, rng: Key | None, *, train: bool
    ) -> dict[str, Term]:
        """The terms of one batch. Device, pure; `rng` feeds dropout while training."""
        given = self._of_pair(batch) if self._joined else self._of_prefix(batch)
        tokens = given.pop("tokens")
        hidden, _ = self.model.apply(
            {"params": params},
            tokens,
            **given,
            train=train,
            rngs={"dropout": rng} if train and rng is not None else None,
            method="hidden",
        )

        def logits_of(hidden: jax.Array) -> Any:
            return self.model.apply({"params": params}, hidden, method="logits")

        return self._cross_entropy.terms(
            logits_of, hidden, batch["targets"], batch["weights"], train=train
        )

    def _of_pair(self, batch: Batch) -> dict[str, Any]:
        """The decoder reads the targets one place later, after its start token."""
        targets = batch["targets"]
        start_id = self.model.config.decoder_start_id
        assert start_id is not None
        start = jnp.full_like(targets[:, :1], start_id)
        tokens = jnp.concatenate([start, targets[:, :-1]], axis=1)
        given = {name: batch[name] for name in ("source", "source_positions")}
        if "segment_ids" not in batch:
            return {"tokens": tokens, **given}
        packed = ("positions", "segment_ids", "source_segment_ids")
        given |= {name: batch[name] for name in packed}
        return {"tokens": jnp.where(batch["positions"] == 0, start_id, tokens), **given}

    def _of_prefix(self, batch: Batch) -> dict[str, Any]:
        """All of the prefix is seen by all; what follows looks back."""
        place = jnp.arange(batch["tokens"].shape[1])
        causal = place[:, None] >= place
        prefix = place < batch["prefix_length"][:, None]
        allowed = (causal | prefix[:, None, :])[:, None]
        return {
            "tokens": batch["tokens"],
            "positions": batch["positions"],
            "mask": Mask(allowed=allowed),
        }


class SequenceRows:
    """A `lm.data.rows.RowMaker`: a row's text becomes a source of at most `length` tokens and
    its target."""

    lookahead = 0

    def __init__(
        self, config: SourceToTarget, model: ModelConfig, vocabulary: Vocabulary, length: int
    ) -> None:
        self._config = config
        self._decoder = model.architecture == "decoder"
        self._add_eos = vocabulary.eos_id is not None
        self._modes: dict[str, int] | None = None
        size = model.vocab_size
        if isinstance(config, SpanCorruption):
            self.positions, _ = spans.raw_length(
                length, config.density, config.mean_length, add_eos=self._add_eos
            )
            _, count = spans.span_counts(self.positions, config.density, config.mean_length)
            vocabulary = with_sentinels(vocabulary, count, size)
        elif isinstance(config, MixtureOfDenoisers):
            if config.mode_tokens:
                size -= len(MODES)
                if size < vocabulary.size:
                    raise ConfigError(
                        f"UL2's mode tokens need {len(MODES)} ids above the tokenizer's: set "
                        f"model.vocab_size to at least {vocabulary.size + len(MODES)}, or "
                        "objective.mode_tokens=False"
                    )
                self._modes = {mode: size + i for i, mode in enumerate(MODES)}
            self.positions = self._longest(length)
            counts = [
                spans.span_counts(self.positions, d.density, d.mean_length)[1]
                for d in spans.UL2
                if d.mode != "S"
            ]
            vocabulary = with_sentinels(vocabulary, max(counts), size)
        elif isinstance(config, Denoising):
            if vocabulary.mask_id is None:
                vocabulary = with_mask(vocabulary, size)
            self.positions = length - self._add_eos
        else:
            # A text of one token more: the last one is a target only.
            self.positions = length + 1 - self._add_eos
        if self.positions < 2:
            raise ConfigError(f"data.sequence_length={length} leaves no room for text")
        self._vocabulary = vocabulary

    def _longest(self, length: int) -> int:
        """The most tokens of which no denoiser makes a source beyond `length`."""
        for n in range(length, 1, -1):
            source, _ = spans.mixture_lengths(n, modes=self._modes, add_eos=self._add_eos)
            if source <= length:
                return n
        raise ConfigError(f"data.sequence_length={length} is too short for UL2's denoisers")

    def __call__(
        self, pieces: list[np.ndarray], rng: np.random.Generator, *, joined: bool, other: Other
    ) -> Features:
        del other
        c, v, text = self._config, self._vocabulary, text_of(pieces, joined)
        given: dict[str, Any] = {"length": self.positions, "add_eos": self._add_eos}
        if isinstance(c, SpanCorruption):
            return spans.span_corruption(
                text, v, rng, density=c.density, mean_length=c.mean_length, **given
            )
        if isinstance(c, MixtureOfDenoisers):
            return spans.mixture_of_denoisers(text, v, rng, modes=self._modes, **given)
        if isinstance(c, Denoising):
            return denoising.denoise(text, v, rng, c, **given)
        assert isinstance(c, PrefixLM)
        return seq2seq.prefix_lm(text, v, rng, decoder=self._decoder, **given)


class PairRows:
    """A `lm.data.rows.PairMaker`: a text is the source and its target the target, each with what
    data.add_bos and add_eos put around it. For a decoder both share a row of `length`; an
    encoder-decoder may get `several` pairs in one."""

    lookahead = 0

    def __init__(
        self,
        vocabulary: Vocabulary,
        length: int,
        target_length: int | None,
        *,
        decoder: bool,
        several: bool = False,
    ) -> None:
        self.positions, self._vocabulary, self._decoder = length, vocabulary, decoder
        self._target_length, self._several = target_length or length, several

    @property
    def packed(self) -> PairRows | None:
        if self._decoder:
            return None
        lengths = self.positions, self._target_length
        return PairRows(self._vocabulary, *lengths, decoder=False, several=True)

    @property
    def capacity(self) -> tuple[int, int] | None:
        return (self.positions, self._target_length) if self._several else None

    @property
    def room(self) -> str:
        if self._decoder:
            # The last token of the target is none that the decoder reads.
            return f"{self.positions + 1} tokens of both"
        return f"{self.positions} tokens and {self._target_length} of the target"

    def fit(self, texts: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._decoder:
            return seq2seq.shared_room(texts, targets, self.positions + 1)
        return np.minimum(texts, self.positions), np.minimum(targets, self._target_length)

    def __call__(
        self, pieces: list[np.ndarray], rng: np.random.Generator, *, joined: bool, other: Other
    ) -> Features:
        v = self._vocabulary
        pairs = [seq2seq.cut_pair(pieces[i : i + 2], self.fit, v) for i in range(0, len(pieces), 2)]
        if self._decoder:
            return seq2seq.decoder_row(*pairs[0], v, length=self.positions)
        lengths: Any = {"source_length": self.positions, "length": self._target_length}
        if self._several:
            return seq2seq.packed_row(pairs, v, **lengths)
        return seq2seq.encoder_decoder_row(*pairs[0], v, **lengths)
