"""BART's ways to spoil a text that is to be restored whole (Lewis et al. 2020, section 2.2).

Special tokens are never spoilt: bos, eos and padding stay where they are, between documents too,
and no sentence or rotation crosses them. Numbers of tokens are rates of the ordinary tokens (or
words), rounded up, as in the released code (fairseq's denoising_dataset), and exact.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Int

from lm.config import Denoising
from lm.data.corruption.seq2seq import Tokens, encoder_decoder_row, eos_of
from lm.data.corruption.vocabulary import Vocabulary
from lm.data.corruption.words import word_ids
from lm.errors import ConfigError
from lm.types import Features


def _check_rate(name: str, rate: float) -> None:
    if not 0 <= rate < 1:
        raise ConfigError(f"{name} must be in [0, 1), not {rate}")


def _check_mean(mean_length: float) -> None:
    if not mean_length >= 1:
        raise ConfigError(f"the mean length of spans must be at least 1, not {mean_length}")


def denoise(
    tokens: Tokens,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    noise: Denoising = Denoising(),
    *,
    sentences: Int[np.ndarray, "n"] | None = None,
    add_bos: bool = False,
    add_eos: bool = True,
    length: int | None = None,
) -> Features:
    """BART's objective: an encoder-decoder row (see `lm.data.corruption.seq2seq`), the source with
    noise, the targets without.

    S = T = `length` (default n, the number of tokens), and one more for each of `add_bos` and
    `add_eos`, which go around both. The weight of a bos target is 0, as it is known. `sentences`
    as for `permute_sentences`.

    Raises:
      ConfigError: the tokenizer has no mask, bos or eos token where one is needed.
      UserError: more tokens than `length`.
    """
    bos = (vocabulary.require("bos", "add_bos"),) if add_bos else ()
    eos = eos_of(vocabulary, add_eos)
    source = tokens
    if noise.permute_sentences:
        source = permute_sentences(source, vocabulary, rng, sentences)
    if noise.rotate:
        source = rotate(source, vocabulary, rng)
    source = infill(
        source,
        vocabulary,
        rng,
        rate=noise.infill,
        mean_length=noise.mean_length,
        whole_words=noise.whole_words,
    )
    source = delete_tokens(source, vocabulary, rng, rate=noise.delete)
    source = mask_each(source, vocabulary, rng, rate=noise.mask)
    side = (len(tokens) if length is None else length) + len(bos) + len(eos)
    row = encoder_decoder_row(
        np.concatenate([bos, source, eos]).astype(np.int32),
        np.concatenate([bos, tokens, eos]).astype(np.int32),
        vocabulary,
        source_length=side,
        length=side,
    )
    if vocabulary.bos_id is not None and vocabulary.bos_id != vocabulary.eos_id:
        row["weights"][row["targets"] == vocabulary.bos_id] = 0
    return row


def infill(
    tokens: Tokens,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    *,
    rate: float = 0.3,
    mean_length: float = 3.0,
    whole_words: bool = True,
) -> Int[np.ndarray, "m"]:
    """Text infilling: spans of text become one mask token each; m <= n.

    Lengths are Poisson, in words or tokens, up to the exact budget of ceil(rate * their number):
    the last one drawn is cut. One of length 0 inserts a mask token; those that would make the row
    longer than it was are left out (only rows of a few tokens have any). All ways to place the
    spans without an overlap are as likely; a span that meets a special token has a mask token on
    either side of it. The released code draws every span's start by itself: where two overlap they
    share tokens and a mask token, so that less text is lost than `rate`; and it replaces a share of
    the mask tokens by random ones where told to, of which the paper says nothing.

    Raises:
      ConfigError: a rate outside [0, 1), a mean below 1, no mask token.
    """
    _check_rate("rate", rate)
    _check_mean(mean_length)
    units = _units(tokens, vocabulary, whole_words)
    count = int(units.max(initial=-1)) + 1
    budget = _number(rate, count)
    if not budget:
        return tokens.astype(np.int32)
    mask_id = vocabulary.require("mask", "text infilling")
    lengths = _poisson_lengths(budget, mean_length, rng)
    begins = _place(lengths, count, rng)
    # Which span each word or token is in; the last entry is for special tokens.
    of_unit = np.full(count + 1, -1)
    numbers = np.repeat(np.arange(len(lengths)), lengths)
    inside = np.arange(budget) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    of_unit[begins[numbers] + inside] = numbers
    span = of_unit[units]
    first = span >= 0
    first[1:] &= span[1:] != span[:-1]
    kept = first | (span < 0)
    corrupted = np.where(first, mask_id, tokens).astype(np.int32)[kept]
    inserted = begins[lengths == 0]
    room = len(tokens) - len(corrupted)
    if len(inserted) > room:
        inserted = rng.choice(inserted, room, replace=False)
    # Before the unit that begins there, or after the last.
    places = np.searchsorted(np.maximum.accumulate(units), inserted)
    places = np.minimum(places, np.flatnonzero(units >= 0)[-1] + 1)
    return np.insert(corrupted, np.append(0, np.cumsum(kept))[places], mask_id)


def _units(tokens: Tokens, vocabulary: Vocabulary, whole_words: bool) -> Int[np.ndarray, "n"]:
    """The number of each token's word, or its own number; -1 for special tokens."""
    if whole_words:
        return word_ids(tokens, vocabulary)
    ordinary = ~vocabulary.special[tokens]
    return np.where(ordinary, np.cumsum(ordinary) - 1, -1)


def _poisson_lengths(
    budget: int, mean: float, rng: np.random.Generator
) -> Int[np.ndarray, "spans"]:
    """Poisson numbers that sum to `budget`, in a random order."""
    drawn = rng.poisson(mean, 8 + int(1.5 * budget / mean))
    while (total := np.cumsum(drawn))[-1] < budget:
        drawn = np.concatenate([drawn, rng.poisson(mean, len(drawn))])
    last = int(np.searchsorted(total, budget))
    lengths = drawn[: last + 1].copy()
    lengths[-1] -= total[last] - budget
    # The one that was cut is not to be the row's last.
    return rng.permutation(lengths)


def _place(
    lengths: Int[np.ndarray, "spans"], count: int, rng: np.random.Generator
) -> Int[np.ndarray, "spans"]:
    """Where in `count` units spans of these lengths begin, one after another."""
    # Spans and the units that stay, in any order.
    spans = len(lengths)
    slots = np.sort(rng.choice(count - int(lengths.sum()) + spans, spans, replace=False))
    return slots - np.arange(spans) + np.cumsum(lengths) - lengths


def sentence_ids(tokens: Tokens, vocabulary: Vocabulary) -> Int[np.ndarray, "n"]:
    """The sentence each token belongs to, int32, from 0 in a row; -1 for bos, eos and padding,
    which also end sentences.

    A sentence ends with the last of its full stops (any token that is only punctuation that ends
    sentences, Chinese too). The released code ends one after the first of several, and knows only
    the token ".".
    """
    fixed = _fixed(tokens, vocabulary)
    stop = vocabulary.ends_sentence[tokens]
    begins = np.ones(len(tokens), bool)
    begins[1:] = (stop[:-1] & ~stop[1:]) | fixed[:-1]
    begins &= ~fixed
    sentences = np.cumsum(begins, dtype=np.int32) - 1
    sentences[fixed] = -1
    return sentences


def permute_sentences(
    tokens: Tokens,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    sentences: Int[np.ndarray, "n"] | None = None,
) -> Int[np.ndarray, "n"]:
    """The sentences of each document in a random order. `sentences` says which one each token
    belongs to, numbers from 0; default `sentence_ids`."""
    if sentences is None:
        sentences = sentence_ids(tokens, vocabulary)
    fixed = _fixed(tokens, vocabulary)
    places = np.flatnonzero(~fixed)
    number = sentences[places]
    rank = rng.permutation(int(number.max(initial=-1)) + 1)
    order = np.lexsort((rank[number], np.cumsum(fixed)[places]))
    permuted = tokens.astype(np.int32)
    permuted[places] = tokens[places[order]]
    return permuted


def rotate(
    tokens: Tokens, vocabulary: Vocabulary, rng: np.random.Generator
) -> Int[np.ndarray, "n"]:
    """Each document begins with any of its tokens, and what was before that comes last."""
    fixed = _fixed(tokens, vocabulary)
    places = np.flatnonzero(~fixed)
    document = np.cumsum(fixed)[places]
    _, begins, counts = np.unique(document, return_index=True, return_counts=True)
    offsets = np.repeat(rng.integers(counts), counts)
    begin, count = np.repeat(begins, counts), np.repeat(counts, counts)
    rotated = tokens.astype(np.int32)
    rotated[places] = tokens[places[begin + (np.arange(len(places)) - begin + offsets) % count]]
    return rotated


def delete_tokens(
    tokens: Tokens, vocabulary: Vocabulary, rng: np.random.Generator, *, rate: float
) -> Int[np.ndarray, "m"]:
    """Leaves out any ceil(rate * ordinary tokens) of the tokens: where is to be found out, too.

    Raises:
      ConfigError: a rate outside [0, 1).
    """
    return np.delete(tokens, _some(tokens, vocabulary, rng, rate)).astype(np.int32)


def mask_each(
    tokens: Tokens, vocabulary: Vocabulary, rng: np.random.Generator, *, rate: float
) -> Int[np.ndarray, "n"]:
    """Makes any ceil(rate * ordinary tokens) of the tokens a mask token each.

    Raises:
      ConfigError: a rate outside [0, 1), no mask token.
    """
    places = _some(tokens, vocabulary, rng, rate)
    masked = tokens.astype(np.int32)
    if len(places):
        masked[places] = vocabulary.require("mask", "token masking")
    return masked


def _some(
    tokens: Tokens, vocabulary: Vocabulary, rng: np.random.Generator, rate: float
) -> Int[np.ndarray, "k"]:
    """Places of ordinary tokens."""
    _check_rate("rate", rate)
    ordinary = np.flatnonzero(~vocabulary.special[tokens])
    return rng.choice(ordinary, _number(rate, len(ordinary)), replace=False)


def _fixed(tokens: Tokens, vocabulary: Vocabulary) -> Bool[np.ndarray, "n"]:
    """Which tokens stand between documents; an unknown word or a mask is part of its text."""
    fixed = vocabulary.special[tokens]
    between = {vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id}
    for token_id in {vocabulary.unk_id, vocabulary.mask_id} - between:
        fixed &= tokens != token_id
    return fixed


def _number(rate: float, count: int) -> int:
    # 0.1 * 30 is a little more than 3.
    return math.ceil(rate * count - 1e-9)
