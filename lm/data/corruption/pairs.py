"""Two segments of text in a row: of one document, and whether the second one follows the first; or
a text and its translation.

The token store knows documents and no sentences, so segments are cut after punctuation that ends a
sentence where there is some (an abbreviation's full stop too), and between words elsewhere. As in
BERT's code, the cut is at an even choice of these places, not one near a length.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int

from lm.data.corruption.vocabulary import Vocabulary
from lm.errors import ConfigError, UserError
from lm.types import Features

Tokens = Int[np.ndarray, "n"]
# Another document's tokens, drawn at random.
Other = Callable[[np.random.Generator], np.ndarray]
# An end of a sentence further off than this ends none: text without punctuation, tables, code.
LONGEST_SENTENCE = 128


def next_sentence(
    tokens: Tokens,
    other: Other,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    *,
    length: int,
    next_share: float = 0.5,
    short_share: float = 0.1,
) -> Features:
    """BERT's pairs (Devlin et al. 2019, A.2): [CLS] A [SEP] B [SEP], where B is what follows A in
    the document with probability `next_share`, and otherwise part of another document.

    A and B are as long as fits together, but with probability `short_share` about a random length
    from 2 on. They end with a sentence, or are cut at their fronts and backs at random until they
    fit, the longer one first. A document of one token is followed by another one's always.

    Args:
      tokens: one document, or a part of one.
      other: draws the tokens of a different document.
      length: the row's; every array is that long.

    Returns:
      "tokens" int32 [length], "token_types" int32 [length] (1 for B and its [SEP]), "positions"
      int32 [length] (-1 at padding), "is_next" int32 [] and "pair_weights" float32 [], 1.

    Raises:
      ConfigError: no bos or eos token to be [CLS] and [SEP], or a length or share out of range.
      UserError: a document without tokens.
    """
    room = _room(vocabulary, length, next_share, short_share)
    wanted = _wanted(room, short_share, rng)
    both = _stretch(tokens, wanted, vocabulary, rng)
    follows = bool(rng.random() < next_share) and len(both) > 1
    cut = _cut(both, vocabulary, rng)
    first, second = both[:cut], both[cut:]
    if not follows:
        second = _stretch(other(rng), max(1, wanted - cut), vocabulary, rng)
    return _row(first, second, follows, 1.0, vocabulary, rng, length)


def sentence_order(
    tokens: Tokens,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    *,
    length: int,
    swap_share: float = 0.5,
    short_share: float = 0.1,
) -> Features:
    """ALBERT's pairs (Lan et al. 2020): two segments that follow each other in a document, in the
    other order with probability `swap_share`; then "is_next" is 0.

    Everything else as `next_sentence` says. A document of one token, which has no order, gives an
    empty second segment, and "pair_weights" is 0.

    Raises: as `next_sentence`.
    """
    room = _room(vocabulary, length, swap_share, short_share)
    both = _stretch(tokens, _wanted(room, short_share, rng), vocabulary, rng)
    swapped = bool(rng.random() < swap_share) and len(both) > 1
    cut = _cut(both, vocabulary, rng)
    first, second = both[:cut], both[cut:]
    if swapped:
        first, second = second, first
    weight = float(len(both) > 1)
    return _row(first, second, not swapped, weight, vocabulary, rng, length)


def translation(text: Tokens, target: Tokens, vocabulary: Vocabulary, *, length: int) -> Features:
    """XLM's pairs (Conneau & Lample 2019, section 3.3): a text, then its translation, each with
    whatever already is around it.

    Returns:
      "tokens" int32 [length], "token_types" int32 [length] (1 for the translation), "positions"
      int32 [length], which begin again with the translation (-1 at padding).

    Raises:
      UserError: more tokens than that.
    """
    border, end = len(text), len(text) + len(target)
    if end > length:
        raise UserError(
            f"a pair of {border} and {len(target)} tokens does not fit a row's {length}: raise the "
            "length, or leave such examples out"
        )
    row = np.full(length, _padding(vocabulary), np.int32)
    row[:border], row[border:end] = text, target
    types = np.zeros(length, np.int32)
    types[border:end] = 1
    positions = np.full(length, -1, np.int32)
    positions[:border], positions[border:end] = np.arange(border), np.arange(end - border)
    return {"tokens": row, "token_types": types, "positions": positions}


def _padding(vocabulary: Vocabulary) -> int:
    """The pad token or, without one, a token that is never masked."""
    if vocabulary.pad_id is not None:
        return vocabulary.pad_id
    return vocabulary.eos_id or 0


def _room(vocabulary: Vocabulary, length: int, share: float, short_share: float) -> int:
    """How many tokens of text a row holds."""
    for role in ("bos", "eos"):
        vocabulary.require(role, "a pair of segments")
    if length < 5:
        raise ConfigError(f"a pair of segments needs a length of at least 5, not {length}")
    for name, value in (("the share of pairs", share), ("short_share", short_share)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} must be from 0 to 1, not {value}")
    return length - 3


def _wanted(room: int, short_share: float, rng: np.random.Generator) -> int:
    """How many tokens the two segments should have together."""
    return int(rng.integers(2, room + 1)) if rng.random() < short_share else room


def _stretch(
    tokens: Tokens, wanted: int, vocabulary: Vocabulary, rng: np.random.Generator
) -> Tokens:
    """At least `wanted` of the tokens, up to the next end of a sentence (if there is one near),
    from a random sentence with as many left on; all where there are fewer."""
    if not len(tokens):
        raise UserError("a document has no tokens, and so no segments: leave empty documents out")
    ends = np.flatnonzero(vocabulary.ends_sentence[tokens]) + 1
    latest = max(0, len(tokens) - wanted)
    begins = ends[: np.searchsorted(ends, latest, side="right")]
    draw = int(rng.integers(len(begins) + 1))
    begin = int(begins[draw - 1]) if draw else 0
    end = begin + wanted
    later = ends[np.searchsorted(ends, end) :]
    if len(later) and later[0] - end < LONGEST_SENTENCE:
        end = int(later[0])
    return tokens[begin:end]


def _cut(tokens: Tokens, vocabulary: Vocabulary, rng: np.random.Generator) -> int:
    """Where the second segment begins: from 1 to all but one; 1 for a single token."""
    inside = tokens[1:]
    places = _places(vocabulary.ends_sentence[tokens[:-1]])
    if not len(places):
        places = _places(vocabulary.starts_word[inside] | vocabulary.ends_word[tokens[:-1]])
    if not len(places):
        return int(rng.integers(1, max(2, len(tokens))))
    return int(places[rng.integers(len(places))])


def _places(before: Bool[np.ndarray, "m"]) -> Int[np.ndarray, "p"]:
    return np.flatnonzero(before) + 1


def _row(
    first: Tokens,
    second: Tokens,
    follows: bool,
    weight: float,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    length: int,
) -> Features:
    first, second = _fit(first, second, length - 3, rng)
    cls, sep = vocabulary.bos_id, vocabulary.eos_id
    assert cls is not None and sep is not None
    border, end = len(first) + 2, len(first) + len(second) + 3
    row = np.full(length, _padding(vocabulary), np.int32)
    row[0], row[border - 1], row[end - 1] = cls, sep, sep
    row[1 : border - 1], row[border : end - 1] = first, second
    types = np.zeros(length, np.int32)
    types[border:end] = 1
    positions = np.full(length, -1, np.int32)
    positions[:end] = np.arange(end)
    return {
        "tokens": row,
        "token_types": types,
        "positions": positions,
        "is_next": np.array(follows, np.int32),
        "pair_weights": np.array(weight, np.float32),
    }


def _fit(
    first: Tokens, second: Tokens, room: int, rng: np.random.Generator
) -> tuple[Tokens, Tokens]:
    """BERT's truncation, in one step: token by token, the longer segment (the second one, where
    they are equal) loses its first or its last, with equal chances."""
    excess = max(0, len(first) + len(second) - room)
    difference = len(first) - len(second)
    # One is cut down to the other; what is left goes from both in turn, the second one first.
    from_longer = min(excess, abs(difference))
    shared = excess - from_longer
    from_first = shared // 2 + (from_longer if difference > 0 else 0)
    return _shorten(first, from_first, rng), _shorten(second, excess - from_first, rng)


def _shorten(tokens: Tokens, count: int, rng: np.random.Generator) -> Tokens:
    front = int(rng.binomial(count, 0.5)) if count else 0
    return tokens[front : len(tokens) - (count - front)]
