"""Rows of a source and its target, for encoder-decoders and for decoders: pairs, prefixes.

What an encoder-decoder gets, and every function that makes such a row says S and T:

    source            int32 [S]
    source_positions  int32 [S]: 0, 1, 2 ... and -1 for padding, as the model takes them
    targets           int32 [T]: what the decoder writes; its inputs are these, one place later
    weights           float32 [T]: 1, or 0 for padding
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from lm.data.corruption.vocabulary import Vocabulary
from lm.errors import ConfigError, UserError
from lm.types import Features

Tokens = Int[np.ndarray, "n"]


def encoder_decoder_row(
    source: Tokens, targets: Tokens, vocabulary: Vocabulary, *, source_length: int, length: int
) -> Features:
    """A row of S = `source_length` and T = `length`, padded.

    Padding has the id of the pad token, or 0 where there is none: nothing sees it.

    Raises:
      UserError: more tokens than that.
    """
    for what, tokens, room in (("source", source, source_length), ("target", targets, length)):
        if len(tokens) > room:
            raise UserError(
                f"a {what} of {len(tokens)} tokens does not fit a row's {room}: raise the length, "
                "or leave such examples out"
            )
    positions = np.full(source_length, -1, np.int32)
    positions[: len(source)] = np.arange(len(source))
    weights = np.zeros(length, np.float32)
    weights[: len(targets)] = 1
    return {
        "source": padded(source, source_length, vocabulary),
        "source_positions": positions,
        "targets": padded(targets, length, vocabulary),
        "weights": weights,
    }


def decoder_row(
    prefix: Tokens, targets: Tokens, vocabulary: Vocabulary, *, length: int
) -> Features:
    """The prefix and what comes after it as one row of a decoder.

    Returns:
      tokens, targets int32 [length], the targets one place ahead; weights float32 [length], 1 where
      the target is one of `targets`; positions int32 [length], -1 for padding; prefix_length int32
      [], the number of first tokens that may all see each other.

    Raises:
      UserError: more than length + 1 tokens together (the last one is a target only).
    """
    whole = np.concatenate([prefix, targets])
    if len(whole) > length + 1:
        raise UserError(
            f"a prefix of {len(prefix)} tokens and {len(targets)} after it do not fit a row's "
            f"{length}: raise the length, or leave such examples out"
        )
    last = max(len(whole) - 1, 0)
    positions = np.full(length, -1, np.int32)
    positions[:last] = np.arange(last)
    weights = np.zeros(length, np.float32)
    weights[max(len(prefix) - 1, 0) : last] = 1
    return {
        "tokens": padded(whole[:-1], length, vocabulary),
        "targets": padded(whole[1:], length, vocabulary),
        "weights": weights,
        "positions": positions,
        "prefix_length": np.array(min(len(prefix), last), np.int32),
    }


def packed_row(
    pairs: Sequence[tuple[Tokens, Tokens]],
    vocabulary: Vocabulary,
    *,
    source_length: int,
    length: int,
) -> Features:
    """Several sources and their targets in a row of S = `source_length` and T = `length`.

    Besides what `encoder_decoder_row` has, with positions from 0 in each: source_segment_ids
    int32 [S] and segment_ids int32 [T], 1, 2 ... by pair and 0 for padding; positions int32 [T].
    """
    row = encoder_decoder_row(
        np.concatenate([source for source, _ in pairs]),
        np.concatenate([target for _, target in pairs]),
        vocabulary,
        source_length=source_length,
        length=length,
    )
    for prefix, size, texts in (
        ("source_", source_length, [source for source, _ in pairs]),
        ("", length, [target for _, target in pairs]),
    ):
        lengths = [len(text) for text in texts]
        total = sum(lengths)
        positions, segments = np.full(size, -1, np.int32), np.zeros(size, np.int32)
        positions[:total] = np.concatenate([np.arange(n) for n in lengths])
        segments[:total] = np.repeat(np.arange(1, len(pairs) + 1), lengths)
        row |= {f"{prefix}positions": positions, f"{prefix}segment_ids": segments}
    return row


def padded(tokens: Tokens, length: int, vocabulary: Vocabulary) -> Int[np.ndarray, "length"]:
    """The tokens, then padding."""
    row = np.full(length, vocabulary.pad_id or 0, np.int32)
    row[: len(tokens)] = tokens
    return row


def shared_room(
    texts: Int[np.ndarray, "pairs"], targets: Int[np.ndarray, "pairs"], room: int
) -> tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]]:
    """How many tokens of each pair, of so many, a row has that holds `room` of both together: the
    longer one gives way until they are equal, then both in turn."""
    of_targets = np.minimum(targets, np.maximum(room - texts, room // 2))
    return np.minimum(texts, room - of_targets), of_targets


def shortened(tokens: Tokens, count: int, vocabulary: Vocabulary) -> Tokens:
    """The first `count` tokens; the last of them is the eos token where the last of all is."""
    if len(tokens) <= count:
        return tokens
    kept = tokens[:count].copy()
    if tokens[-1] == vocabulary.eos_id:
        kept[-1:] = tokens[-1]
    return kept


def cut_pair(
    pieces: Sequence[Tokens],
    fit: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    vocabulary: Vocabulary,
) -> tuple[Tokens, Tokens]:
    """A text and its target `shortened` to what `fit` (see `lm.data.rows.PairMaker`) says."""
    text, target = pieces
    kept = fit(np.array([len(text)]), np.array([len(target)]))
    return shortened(text, int(kept[0][0]), vocabulary), shortened(
        target, int(kept[1][0]), vocabulary
    )


def eos_of(vocabulary: Vocabulary, add_eos: bool) -> tuple[int, ...]:
    """What ends a sequence: the eos token or, where none is added, nothing. Raises ConfigError
    where the tokenizer has none."""
    return (vocabulary.require("eos", "add_eos"),) if add_eos else ()


def split_point(n: int, rng: np.random.Generator, share: float = 0.5) -> int:
    """Where to split n tokens into a prefix and a rest, both of at least one: the rest is uniform
    and on average `share` of the tokens. At one half every split is as likely (T5's prefix LM)."""
    if not 0 < share < 1:
        raise ConfigError(f"the share of tokens after the prefix must be in (0, 1), not {share}")
    if n < 2:
        return n
    smaller = int(rng.integers(1, most_after_split(n, min(share, 1 - share)) + 1))
    return n - smaller if share <= 0.5 else smaller


def most_after_split(n: int, share: float) -> int:
    """The most tokens that `split_point` leaves after the prefix."""
    if n < 2:
        return 0
    return n - 1 if share > 0.5 else min(max(round(2 * share * n) - 1, 1), n - 1)


def prefix_lm(
    tokens: Tokens,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    *,
    decoder: bool = False,
    length: int | None = None,
    add_eos: bool = True,
) -> Features:
    """A text split in two anywhere: the second part is to be continued from the first (Raffel et
    al. 2020, section 3.2.3). A single token is all prefix.

    For an encoder-decoder, with N = `length` (default n, the most tokens that rows have) and E = 1
    with `add_eos`, else 0: S = T = max(N - 1, 1) + E. With `decoder`, a `decoder_row` of
    N - 1 + E, eos at its end only.
    """
    eos = np.array(eos_of(vocabulary, add_eos), np.int32)
    most = len(tokens) if length is None else length
    at = split_point(len(tokens), rng)
    rest = np.concatenate([tokens[at:], eos])
    if decoder:
        return decoder_row(tokens[:at], rest, vocabulary, length=max(most - 1, 0) + len(eos))
    side = max(most - 1, 1) + len(eos)
    return encoder_decoder_row(
        np.concatenate([tokens[:at], eos]), rest, vocabulary, source_length=side, length=side
    )
