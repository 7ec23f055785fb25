"""Rows with masked tokens, for masked language models and ELECTRA."""

from __future__ import annotations

import numpy as np

from lm.config import MaskedLM, Masking
from lm.data.corruption.masking import mask_tokens
from lm.data.corruption.pairs import next_sentence, sentence_order, translation
from lm.data.corruption.seq2seq import cut_pair, shared_room
from lm.data.corruption.vocabulary import vocabulary_of, with_mask
from lm.data.corruption.words import chinese_segmenter, word_ids
from lm.data.rows import Aligned, Other
from lm.data.tokenizer import Tokenizer
from lm.errors import ConfigError
from lm.objectives.common import text_of, without_ends
from lm.types import Features


class MaskedRows:
    """A `lm.data.rows.RowMaker`: tokens with some masked, targets, weights (1 at the chosen ones),
    and positions (-1 at padding) or, where a row holds several texts, segment_ids too. With pairs
    also token_types, is_next and pair_weights."""

    lookahead = 0

    def __init__(self, config: Masking, tokenizer: Tokenizer, length: int, vocab_size: int) -> None:
        vocabulary = vocabulary_of(tokenizer)
        if config.mask_share > 0 and vocabulary.mask_id is None:
            vocabulary = with_mask(vocabulary, vocab_size)
        self._config, self._vocabulary, self._length = config, vocabulary, length
        self._pairs = "none"
        if isinstance(config, MaskedLM) and config.classifies_pairs:
            self._pairs = config.pairs
        self._segment = chinese_segmenter() if config.chinese_words else None
        if config.wrap or self._pairs != "none":
            for role in ("bos", "eos"):
                vocabulary.require(role, "objective.wrap or objective.pairs")
        self.positions = length - 2 if config.wrap else length
        if self.positions < 1 or length < 2:
            raise ConfigError(f"data.sequence_length={length} leaves no room for text")

    def __call__(
        self, pieces: list[np.ndarray], rng: np.random.Generator, *, joined: bool, other: Other
    ) -> Features:
        if self._pairs != "none":
            return self._pair(text_of(pieces, joined), rng, other)
        if not joined and not self._config.wrap:
            return Aligned(lambda x, rng: self._mask(x["tokens"], rng), self._length)(
                pieces, rng, joined=False, other=other
            )
        tokens = text_of(pieces, joined)
        if self._config.wrap:
            ends = self._vocabulary
            tokens = without_ends(tokens, ends)
            tokens = np.concatenate([[ends.bos_id], tokens, [ends.eos_id]]).astype(np.int32)
        return self._padded(self._mask(tokens, rng))

    def _mask(
        self, tokens: np.ndarray, rng: np.random.Generator, valid: np.ndarray | None = None
    ) -> Features:
        c = self._config
        words = None
        if self._segment is not None:
            words = word_ids(tokens, self._vocabulary, self._segment)
        return mask_tokens(
            tokens,
            self._vocabulary,
            rng,
            rate=c.rate,
            mask_share=c.mask_share,
            random_share=c.random_share,
            max_predictions=c.max_predictions,
            selection=c.selection,
            exact=c.exact,
            words=words,
            valid=np.ones(len(tokens), bool) if valid is None else valid,
        )

    def _padded(self, features: Features) -> Features:
        count = len(features["tokens"])
        padded = {
            name: np.pad(values, (0, self._length - count)) for name, values in features.items()
        }
        positions = np.arange(self._length, dtype=np.int32)
        positions[count:] = -1
        return {**padded, "positions": positions}

    def _pair(self, document: np.ndarray, rng: np.random.Generator, other: Other) -> Features:
        v = self._vocabulary

        def text(tokens: np.ndarray) -> np.ndarray:
            # A document of nothing but its bos and eos still has a row.
            return without_ends(tokens, v) if len(tokens) > 2 else tokens

        tokens = text(document)
        if self._pairs == "next_sentence":
            row = next_sentence(tokens, lambda rng: text(other(rng)), v, rng, length=self._length)
        else:
            row = sentence_order(tokens, v, rng, length=self._length)
        return {**row, **self._mask(row["tokens"], rng, valid=row["positions"] >= 0)}


class TranslationRows(MaskedRows):
    """A `lm.data.rows.PairMaker`: a text and its target in one row, masked both, with token_types,
    and positions that begin again with the target."""

    packed = capacity = None

    @property
    def room(self) -> str:
        return f"{self._length} tokens of both"

    def fit(self, texts: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return shared_room(texts, targets, self._length)

    def __call__(
        self, pieces: list[np.ndarray], rng: np.random.Generator, *, joined: bool, other: Other
    ) -> Features:
        text, target = cut_pair(pieces, self.fit, self._vocabulary)
        row = translation(text, target, self._vocabulary, length=self._length)
        return {**row, **self._mask(row["tokens"], rng, valid=row["positions"] >= 0)}


def most_predictions(config: Masking, length: int, several_texts: bool) -> int:
    """The most tokens that are chosen of a row of `length`; all of them where that is not known."""
    if several_texts or not config.exact:
        return length
    most = max(1, round(length * config.rate))
    return most if config.max_predictions is None else min(most, config.max_predictions)
