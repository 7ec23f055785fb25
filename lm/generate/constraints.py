"""What may not be said next, given what stands before: repeated n-grams, phrases, all but a choice.

On the device, a row's `history` [R, H] holds what stands before the next token up to column `end`,
with -1 before its beginning, so that padding is never taken for a token; from `end` on it means
nothing. Masks [R, V] are True for tokens that are ruled out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from lm.errors import ConfigError


@dataclass(frozen=True)
class Constraints:
    """What may be said, whatever the model finds likely.

    suppress: token sequences that are never completed; one of a single token is never said. The
      prompt's end counts as the beginning of one.
    choices: the completions each prompt may have, as token ids without the end-of-sequence token,
      which follows every one of them; None allows anything.
    """

    suppress: Sequence[Sequence[int]] = ()
    choices: Sequence[Sequence[Sequence[int]]] | None = None


class Trie(NamedTuple):
    """Completions as a tree: each of a node's `tokens` (-1: none) leads to the node `children`.

    root: where each prompt begins.
    """

    tokens: Int[Array, "nodes C"]
    children: Int[Array, "nodes C"]
    root: Int[Array, " B"]


def make_trie(choices: Sequence[Sequence[Sequence[int]]], eos_id: int) -> Trie:
    """The tree of each prompt's completions, with `eos_id` after each; prompts with the same
    completions share theirs."""
    nodes: list[dict[int, int]] = []
    roots: dict[tuple[tuple[int, ...], ...], int] = {}

    def new() -> int:
        nodes.append({})
        return len(nodes) - 1

    keys = [tuple(map(tuple, completions)) for completions in choices]
    for key in keys:
        if key in roots:
            continue
        roots[key] = new()
        for completion in key:
            at = roots[key]
            for token in completion:
                if token not in nodes[at]:
                    nodes[at][token] = new()
                at = nodes[at][token]
            # Nothing follows the end, so where it leads does not matter.
            nodes[at][eos_id] = at
    width = max(map(len, nodes))
    tokens = np.full((len(nodes), width), -1, np.int32)
    children = np.zeros((len(nodes), width), np.int32)
    for number, edges in enumerate(nodes):
        tokens[number, : len(edges)] = list(edges)
        children[number, : len(edges)] = list(edges.values())
    root = np.asarray([roots[key] for key in keys], np.int32)
    return Trie(*map(jnp.asarray, (tokens, children, root)))


def phrase_table(phrases: Sequence[Sequence[int]]) -> np.ndarray:
    """Token sequences [M, L], aligned to the right, -1 before a shorter one."""
    table = np.full((len(phrases), max(map(len, phrases))), -1, np.int32)
    for row, phrase in enumerate(phrases):
        table[row, table.shape[1] - len(phrase) :] = phrase
    return table


def off_trie(trie: Trie, node: Int[Array, " R"], vocab_size: int) -> Bool[Array, "R {vocab_size}"]:
    """All that does not go on with one of the completions."""
    return ~_marked(trie.tokens[node], trie.tokens[node] >= 0, vocab_size)


def follow(trie: Trie, node: Int[Array, "..."], token: Int[Array, "..."]) -> Int[Array, "..."]:
    """The node that `token` leads to, of tokens that are allowed."""
    edge = jnp.argmax(trie.tokens[node] == token[..., None], axis=-1)
    return trie.children[node, edge]


def seen(
    history: Int[Array, "R H"], end: Int[Array, ""], vocab_size: int
) -> Bool[Array, "R {vocab_size}"]:
    """The tokens of the history."""
    return _marked(history, (jnp.arange(history.shape[1]) < end) & (history >= 0), vocab_size)


def repeated_ngrams(
    history: Int[Array, "R H"], end: Int[Array, ""], size: int, vocab_size: int
) -> Bool[Array, "R {vocab_size}"]:
    """What would say an n-gram of `size` tokens for the second time."""
    length = history.shape[1] - size + 1
    last = _last(history, end, size - 1)
    repeats = jnp.broadcast_to(jnp.arange(length) + size - 1 < end, (history.shape[0], length))
    for offset in range(size - 1):
        repeats &= history[:, offset : offset + length] == last[:, offset, None]
    followers = history[:, size - 1 :]
    return _marked(followers, repeats & (followers >= 0), vocab_size)


def completed(
    phrases: Int[Array, "M L"], history: Int[Array, "R H"], end: Int[Array, ""], vocab_size: int
) -> Bool[Array, "R {vocab_size}"]:
    """What would complete one of the `phrases` (see `phrase_table`)."""
    before = phrases[None, :, :-1]
    last = _last(history, end, phrases.shape[1] - 1)
    matches = jnp.all((before < 0) | (before == last[:, None]), axis=-1)
    final = jnp.broadcast_to(phrases[:, -1], matches.shape)
    return _marked(final, matches, vocab_size)


def _last(history: Int[Array, "R H"], end: Int[Array, ""], count: int) -> Int[Array, "R count"]:
    """The `count` tokens before `end`, with -1 where the history begins later."""
    padded = jnp.pad(history, ((0, 0), (count, 0)), constant_values=-1)
    return jax.lax.dynamic_slice_in_dim(padded, end, count, axis=1)


def _marked(
    tokens: Int[Array, "R C"], where: Bool[Array, "R C"], vocab_size: int
) -> Bool[Array, "R {vocab_size}"]:
    """True for the `tokens` of each row that `where` names."""
    rows = jnp.arange(tokens.shape[0])[:, None]
    # An index past the end is dropped.
    index = jnp.where(where, tokens, vocab_size)
    mask = jnp.zeros((tokens.shape[0], vocab_size), bool)
    return mask.at[rows, index].set(True, mode="drop")


def check_constraints(
    constraints: Constraints,
    *,
    prompts: int,
    eos_id: int | None,
    vocab_size: int,
    max_new_tokens: int,
) -> None:
    """Raises ConfigError for phrases or choices that nothing could be said under."""
    phrases = [("suppress", phrase) for phrase in constraints.suppress]
    choices = constraints.choices
    if choices is not None:
        if eos_id is None:
            raise ConfigError(
                "choices need an end-of-sequence token, which this tokenizer has not: without one "
                "a choice that begins another is never finished"
            )
        if len(choices) != prompts:
            raise ConfigError(
                f"choices are given for {len(choices)} prompts, and there are {prompts}"
            )
        if not all(choices):
            raise ConfigError(f"prompt {list(map(bool, choices)).index(False)} has no choices")
        phrases += [("choices", choice) for own in choices for choice in own]
        longest = max(len(choice) for own in choices for choice in own)
        if longest >= max_new_tokens:
            raise ConfigError(
                f"the longest choice has {longest} tokens and an end of sequence follows: "
                f"max_new_tokens must be at least {longest + 1}, not {max_new_tokens}"
            )
    for what, phrase in phrases:
        if not len(phrase):
            raise ConfigError(f"{what} has an empty sequence: give each at least one token")
        if not 0 <= min(phrase) <= max(phrase) < vocab_size:
            raise ConfigError(
                f"{what} has tokens from {min(phrase)} to {max(phrase)}, but the vocabulary is 0 "
                f"to {vocab_size - 1}"
            )
