"""Masking some of a row's tokens, to be predicted from the others.

BERT (Devlin et al. 2019) masks 15 % of the tokens: 80 % of them become [MASK], 10 % a random token,
10 % stay. RoBERTa (Liu et al. 2019) draws anew each time a row is read, which the generator does
here. ELECTRA (Clark et al. 2020) masks 15 or 25 %, and none at random: its released code makes
85 % of them [MASK] and leaves the others (mask_share=0.85, random_share=0). That code draws
positions with replacement, so that some count twice; here all are different.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from lm.data.corruption.vocabulary import Vocabulary
from lm.data.corruption.words import word_ids
from lm.errors import ConfigError, did_you_mean
from lm.types import Features

SELECTIONS = ("tokens", "whole_words", "spans")
# SpanBERT (Joshi et al. 2020): lengths in words, geometric, none longer than 10. The paper's mean
# of 3.8 is that of the ten probabilities made to sum to 1, as in the released code (taking longer
# ones for 10 would give 4.5).
_P, _LONGEST = 0.2, 10
_LENGTHS = np.cumsum((1 - _P) ** np.arange(_LONGEST))
_LENGTHS /= _LENGTHS[-1]


def mask_tokens(
    tokens: Int[np.ndarray, "n"],
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    *,
    rate: float = 0.15,
    mask_share: float = 0.8,
    random_share: float = 0.1,
    max_predictions: int | None = None,
    selection: str = "tokens",
    exact: bool = True,
    words: Int[np.ndarray, "n"] | None = None,
    valid: Bool[np.ndarray, "n"] | None = None,
) -> Features:
    """{"tokens" int32 [n] with some masked, "targets" int32 [n] as they were, "weights" float32
    [n], 1 at the chosen ones}. Special tokens and padding are never chosen.

    Args:
      rate: of all tokens but padding (special ones too, as BERT's code counts), the share chosen.
      mask_share, random_share: of the chosen ones, those that become the mask token, and a token
        drawn evenly from the ordinary ones (perhaps itself). The others stay.
      max_predictions: the most that are chosen.
      selection: "tokens"; "whole_words", all tokens of a word or none, leaving out words that no
        longer fit (as BERT's code does; so there may be fewer, even none); or "spans", SpanBERT's:
        up to ten words on end, the last span cut where the number is reached, the choice between
        mask, random and kept made once for each stretch of chosen tokens.
      exact: choose round(rate * n) tokens, but at least one; otherwise a binomial number of them,
        as if each were chosen by itself with probability `rate`.
      words: which word each token belongs to, as `word_ids` says when this is None.
      valid: the real tokens; None for all but the pad token.

    Raises:
      ConfigError: an argument out of range, or a mask share without a mask token.
    """
    _check(rate, mask_share, random_share, max_predictions, selection)
    targets = np.array(tokens, np.int32)
    if valid is None:
        valid = np.ones(len(targets), bool)
        if vocabulary.pad_id is not None:
            valid = targets != vocabulary.pad_id
    candidates = valid & ~vocabulary.special[targets]
    budget = _budget(candidates, valid, rng, rate, max_predictions, exact)
    if selection == "tokens":
        places = rng.choice(np.flatnonzero(candidates), budget, replace=False, shuffle=False)
        chosen = np.zeros(len(targets), bool)
        chosen[places] = True
    else:
        words = word_ids(targets, vocabulary) if words is None else words
        words = np.where(candidates, words, -1)
        choose = _whole_words if selection == "whole_words" else _spans
        chosen = choose(words, budget, rng)
    corrupted = _replaced(
        targets, chosen, vocabulary, rng, mask_share, random_share, joint=selection == "spans"
    )
    return {"tokens": corrupted, "targets": targets, "weights": chosen.astype(np.float32)}


def _budget(
    candidates: Bool[np.ndarray, "n"],
    valid: Bool[np.ndarray, "n"],
    rng: np.random.Generator,
    rate: float,
    most: int | None,
    exact: bool,
) -> int:
    """How many tokens to choose."""
    possible = int(np.count_nonzero(candidates))
    if exact:
        budget = min(max(1, round(int(np.count_nonzero(valid)) * rate)), possible)
    else:
        budget = int(rng.binomial(possible, rate))
    return budget if most is None else min(budget, most)


def _runs(words: Int[np.ndarray, "n"]) -> tuple[np.ndarray, np.ndarray]:
    """Where each word begins and ends: [W], [W]. -1 is no word."""
    changes = np.flatnonzero(words[1:] != words[:-1]) + 1
    begins = np.concatenate(([0], changes))
    ends = np.concatenate((changes, [len(words)]))
    real = words[begins] >= 0
    return begins[real], ends[real]


def _whole_words(
    words: Int[np.ndarray, "n"], budget: int, rng: np.random.Generator
) -> Bool[np.ndarray, "n"]:
    """Words in a random order, each taken where it still fits."""
    chosen = np.zeros(len(words), bool)
    if not budget:
        return chosen
    begins, ends = _runs(words)
    order = rng.permutation(len(begins))
    lengths = (ends - begins)[order]
    taken = np.zeros(len(begins), bool)
    begin = 0
    while begin < len(order):
        # As many as fit on end, then on to the next one that is short enough.
        total = np.cumsum(lengths[begin:])
        count = int(np.searchsorted(total, budget, side="right"))
        taken[order[begin : begin + count]] = True
        budget -= int(total[count - 1]) if count else 0
        begin += count
        short = np.flatnonzero(lengths[begin:] <= budget)
        if not len(short):
            break
        begin += int(short[0])
    edges = np.zeros(len(words) + 1, np.int8)
    edges[begins[taken]] += 1
    edges[ends[taken]] -= 1
    return np.cumsum(edges[:-1], dtype=np.int8).astype(bool)


def _spans(
    words: Int[np.ndarray, "n"], budget: int, rng: np.random.Generator
) -> Bool[np.ndarray, "n"]:
    """Spans from the beginning of a random token's word on, until the number is reached."""
    chosen = np.zeros(len(words), bool)
    if not budget:
        return chosen
    begins, ends = _runs(words)
    # The words of the longest span from each word: none goes over a special token.
    breaks = np.flatnonzero(np.append(begins[1:] != ends[:-1], True))
    limits = breaks[np.searchsorted(breaks, np.arange(len(begins)))] + 1
    places = np.flatnonzero(words >= 0)
    word_of = np.searchsorted(begins, places, side="right") - 1
    lengths = np.searchsorted(_LENGTHS, rng.random(budget), side="right") + 1
    used = 0
    # The next free place in a random order is a random free place.
    for index in rng.permutation(len(places)).tolist():
        if chosen[places[index]]:
            continue
        word = word_of[index]
        last = min(word + lengths[used], limits[word]) - 1
        used += 1
        begin, end = begins[word], ends[last]
        free = begin + np.flatnonzero(~chosen[begin:end])[:budget]
        chosen[free] = True
        budget -= len(free)
        if not budget:
            break
    return chosen


def _replaced(
    tokens: Int[np.ndarray, "n"],
    chosen: Bool[np.ndarray, "n"],
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    mask_share: float,
    random_share: float,
    *,
    joint: bool,
) -> Int[np.ndarray, "n"]:
    """The tokens after the choice between mask, random and kept, `joint` for chosen neighbours."""
    places = np.flatnonzero(chosen)
    if joint:
        stretch = np.cumsum(np.diff(places, prepend=-2) > 1) - 1
        draw = rng.random(stretch[-1] + 1 if len(stretch) else 0)[stretch]
    else:
        draw = rng.random(len(places))
    corrupted = tokens.copy()
    if mask_share:
        mask_id = vocabulary.require("mask", "masking")
        corrupted[places[draw < mask_share]] = mask_id
    drawn = places[(draw >= mask_share) & (draw < mask_share + random_share)]
    if len(drawn):
        ordinary = vocabulary.ordinary
        corrupted[drawn] = ordinary[rng.integers(len(ordinary), size=len(drawn))]
    return corrupted


def _check(
    rate: float,
    mask_share: float,
    random_share: float,
    max_predictions: int | None,
    selection: str,
) -> None:
    if not 0 < rate <= 1:
        raise ConfigError(f"rate must be above 0 and at most 1, not {rate}")
    for name, value in (("mask_share", mask_share), ("random_share", random_share)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} must be from 0 to 1, not {value}")
    if mask_share + random_share > 1 + 1e-9:
        raise ConfigError(
            f"mask_share={mask_share} and random_share={random_share} are more than 1 together: "
            "they are shares of the chosen tokens; lower one"
        )
    if max_predictions is not None and max_predictions < 1:
        raise ConfigError(f"max_predictions must be at least 1, or None, not {max_predictions}")
    if selection not in SELECTIONS:
        raise ConfigError(
            f"no such selection of tokens to mask: {selection!r}"
            + did_you_mean(selection, SELECTIONS)
        )
