"""Which tokens make up a word.

Tokenizers that mark where words begin say it themselves. Chinese is written without spaces, and
to tokenizers every ideograph is a word of its own: for words of several a segmenter has to say
which belong together (Cui et al. 2021, "Pre-Training with Whole Word Masking for Chinese BERT").
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import numpy as np
from jaxtyping import Bool, Int

from lm.data.corruption.vocabulary import Vocabulary
from lm.errors import ConfigError

# A text of ideographs to its words, which are the text when joined.
Segment = Callable[[str], Sequence[str]]


def word_ids(
    tokens: Int[np.ndarray, "n"], vocabulary: Vocabulary, segment: Segment | None = None
) -> Int[np.ndarray, "n"]:
    """The word each token belongs to, int32, numbered from 0 in a row; -1 for special tokens,
    which also end words.

    With `segment`, runs of tokens that are nothing but ideographs are put together to words by
    it; a token that has a boundary inside stays whole. Parts of an ideograph (bytes) are no such
    tokens: there, every ideograph is a word.
    """
    special = vocabulary.special[tokens]
    starts = vocabulary.starts_word[tokens]
    starts[1:] |= vocabulary.ends_word[tokens[:-1]] | special[:-1]
    starts[:1] = True
    if segment is not None:
        _segmented(starts, tokens, vocabulary, segment)
    starts &= ~special
    words = np.cumsum(starts, dtype=np.int32) - 1
    words[special] = -1
    return words


def _segmented(
    starts: Bool[np.ndarray, "n"],
    tokens: Int[np.ndarray, "n"],
    vocabulary: Vocabulary,
    segment: Segment,
) -> None:
    """Writes into `starts` where words begin in each run of ideographs."""
    inside = np.pad(vocabulary.ideographic[tokens], 1).astype(np.int8)
    edges = np.diff(inside)
    texts = vocabulary.ideographs
    for begin, end in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)):
        parts = [texts[i] for i in tokens[begin:end].tolist()]
        boundaries, place = set(), 0
        for word in segment("".join(parts)):
            boundaries.add(place)
            place += len(word)
        place = 0
        for position, part in enumerate(parts, int(begin)):
            starts[position] = place in boundaries
            place += len(part)


@cache
def chinese_segmenter() -> Segment:
    """jieba's segmentation (the paper's was LTP's); kept for texts that come again. It has its own
    dictionary: what a program told jieba's global one does not count.

    Raises:
      ConfigError: jieba is not installed.
    """
    try:
        jieba = importlib.import_module("jieba")
    except ImportError:
        raise ConfigError(
            "whole-word masking of Chinese needs jieba to find words, which is not installed: "
            "pip install 'lm[chinese]', or pip install jieba"
        ) from None
    # It tells of every start on stderr.
    jieba.setLogLevel(logging.WARNING)
    tokenizer = jieba.Tokenizer()

    @lru_cache(maxsize=1 << 16)
    def segment(text: str) -> tuple[str, ...]:
        return tuple(tokenizer.cut(text))

    return segment
