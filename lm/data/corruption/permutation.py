"""XLNet's permutation language modelling (Yang et al. 2019, sections 2.2 to 2.3 and appendix A).

Some tokens of a row are predicted one after another, in an order that is drawn for the row; each
from those predicted before it and from all the tokens that never are. What may see what follows
from two small arrays; the device makes the [T, T] mask of them:

    allowed[b, i, j] = rank[b, j] < rank[b, i] + ~predicted[b, i]

    allowed = rank[:, None, :] < (rank + ~predicted)[:, :, None]

So a token that is predicted sees what ranks below it, and any other also what ranks as it does: the
tokens that are never predicted share one rank and see each other. `allowed` is for the query
stream; a content stream lets each token see itself besides.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from lm.data.corruption.seq2seq import Tokens, padded
from lm.data.corruption.vocabulary import Vocabulary
from lm.data.corruption.words import word_ids
from lm.errors import ConfigError, UserError
from lm.types import Features


def permute(
    tokens: Tokens,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    *,
    num_predict: int = 85,
    alpha: int = 6,
    beta: int = 1,
    max_gram: int = 5,
    reuse_length: int = 0,
    perm_size: int | None = None,
    length: int | None = None,
) -> Features:
    """A row for the two-stream model, T = `length` (default n, the number of tokens).

    Args:
      num_predict: P, how many tokens are predicted. Fewer where a row has not as many: special
        tokens never are, and one ordinary token of each part always stays, for the first one
        predicted to see something.
      alpha, beta, max_gram: how they are chosen, see `choose_spans`.
      reuse_length: the row's first tokens, the part that becomes memory for the next row, are a
        part by themselves: they see nothing of the rest, which sees all of them (the tokens that
        were predicted there too), and half of P are in each. 0: the row is one part.
      perm_size: the order is drawn within every so many tokens of a part, which come one after
        another; at most a part's length, the default. Each has an order of its own (the released
        code draws one for all).

    Returns:
      tokens int32 [T];
      positions int32 [T], -1 for padding;
      rank int32 [T] and predicted bool [T], see this module; padding ranks above all;
      query_at int32 [P], the places predicted, in the row's order;
      targets int32 [P], the tokens there;
      weights float32 [P], 1, or 0 for predictions there are not enough tokens for; those are of
      place 0.

    Raises:
      ConfigError: a number out of range.
      UserError: more tokens than `length`.
    """
    most = len(tokens) if length is None else length
    _check(most, num_predict, alpha, beta, max_gram, reuse_length, perm_size)
    if len(tokens) > most:
        raise UserError(
            f"{len(tokens)} tokens do not fit a row of {most}: raise the length, or leave such "
            "examples out"
        )
    parts = [slice(0, reuse_length), slice(reuse_length, most)] if reuse_length else [slice(most)]
    rank = np.full(most, np.iinfo(np.int32).max - 1, np.int32)
    predicted = np.zeros(most, bool)
    base = 0
    for part, goal in zip(parts, _shares(num_predict, len(parts))):
        own = tokens[part]
        chosen = choose_spans(own, vocabulary, rng, goal, alpha, beta, max_gram)
        begin, end = part.start or 0, (part.start or 0) + len(own)
        predicted[begin:end] = chosen
        rank[begin:end] = base + _ranks(own, chosen, vocabulary, rng, perm_size)
        base += len(own) + 1
    positions = np.arange(most, dtype=np.int32)
    positions[len(tokens) :] = -1
    row = padded(tokens, most, vocabulary)
    places = np.flatnonzero(predicted)
    query_at = np.zeros(num_predict, np.int32)
    query_at[: len(places)] = places
    weights = np.zeros(num_predict, np.float32)
    weights[: len(places)] = 1
    return {
        "tokens": row,
        "positions": positions,
        "rank": rank,
        "predicted": predicted,
        "query_at": query_at,
        "targets": np.where(weights > 0, row[query_at], vocabulary.pad_id or 0).astype(np.int32),
        "weights": weights,
    }


def choose_spans(
    tokens: Tokens,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    goal: int,
    alpha: int = 6,
    beta: int = 1,
    max_gram: int = 5,
) -> Bool[np.ndarray, "n"]:
    """Chooses exactly `goal` ordinary tokens, or all but one where there are not more.

    From the beginning of the row on, spans of 1 to `max_gram` tokens (a length L with a probability
    proportional to 1 / L), each somewhere in its own context of L * alpha / beta tokens and moved
    on to the next beginning of a word; then single tokens anywhere, until there are enough. As the
    released code, but that a span may end with the row, and special tokens end one.
    """
    chosen = np.zeros(len(tokens), bool)
    ordinary = ~vocabulary.special[tokens]
    goal = min(goal, max(int(np.count_nonzero(ordinary)) - 1, 0))
    if not goal:
        return chosen
    words = word_ids(tokens, vocabulary)
    starts = np.flatnonzero(np.diff(words, prepend=-1) * ordinary)
    # The next beginning of a word at or after each place, and how far a span there may go.
    next_start = np.append(starts, len(tokens))[
        np.searchsorted(starts, np.arange(len(tokens)))
    ].tolist()
    barriers = np.append(np.flatnonzero(~ordinary), len(tokens))
    barrier = barriers[np.searchsorted(barriers, np.arange(len(tokens)))].tolist()
    share = 1 / np.arange(1, max_gram + 1)
    grams = (rng.choice(max_gram, goal, p=share / share.sum()) + 1).tolist()
    where = rng.random(goal).tolist()
    found = place = 0
    for gram, fraction in zip(grams, where):
        gram = min(gram, goal - found)
        context = max(gram * alpha // beta, 1)
        before = int(fraction * context)
        if place + before >= len(tokens):
            break
        begin = next_start[place + before]
        if begin >= len(tokens):
            break
        end = min(begin + gram, barrier[begin])
        chosen[begin:end] = True
        found += end - begin
        place = end + context - before
        if found == goal:
            return chosen
    rest = np.flatnonzero(ordinary & ~chosen)
    chosen[rng.choice(rest, goal - found, replace=False)] = True
    return chosen


def _ranks(
    tokens: Tokens,
    chosen: Bool[np.ndarray, "n"],
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    perm_size: int | None,
) -> Int[np.ndarray, "n"]:
    """0 for the ordinary tokens that are not predicted, for the others 1 + their place in an order
    of all n. Special tokens have such a place too: nothing else tells when they may be seen."""
    count = len(tokens)
    group = np.arange(count) // (perm_size or max(count, 1))
    order = np.lexsort((rng.random(count), group))
    rank = np.empty(count, np.int32)
    rank[order] = np.arange(1, count + 1)
    rank[~chosen & ~vocabulary.special[tokens]] = 0
    return rank


def _shares(num_predict: int, parts: int) -> list[int]:
    """The number to predict in each part: the first has the odd one."""
    return [num_predict] if parts == 1 else [num_predict - num_predict // 2, num_predict // 2]


def _check(
    length: int,
    num_predict: int,
    alpha: int,
    beta: int,
    max_gram: int,
    reuse_length: int,
    perm_size: int | None,
) -> None:
    for name, value in (
        ("num_predict", num_predict),
        ("alpha", alpha),
        ("beta", beta),
        ("max_gram", max_gram),
        ("perm_size", perm_size),
    ):
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    if num_predict > length > 0:
        raise ConfigError(f"num_predict={num_predict} of a row of {length} tokens: lower it")
    if reuse_length and not 0 < reuse_length < length:
        raise ConfigError(
            f"reuse_length={reuse_length} must leave something of a row of {length} tokens"
        )
    shortest = min(reuse_length, length - reuse_length) if reuse_length else length
    if perm_size is not None and perm_size > shortest:
        raise ConfigError(
            f"perm_size={perm_size} is more than the {shortest} tokens of a part of the row: lower "
            "it, or leave it None for whole parts"
        )
