"""One step of beam search: which hypotheses run on, and which are finished.

Of the best 2 * num_beams continuations of the running hypotheses, those that end and are among the
first num_beams go to a list of the best finished ones, to which no token is ever added; the best
num_beams of the others run on. Candidates, scores and stopping are defined as in transformers 5.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lm.generate import constraints
from lm.generate.beam_config import BeamConfig
from lm.generate.constraints import Trie

# Axes beside the glossary's: G groups of beams, M beams of a group, N new tokens at most.


class Given(NamedTuple):
    """What a search is given besides parameters, the same at every step.

    prompt: what stands before the completion, padded on the left with -1.
    position: of the last token of each prompt.
    real: False for rows that only fill the batch.
    """

    prompt: Int[Array, "B W"]
    position: Int[Array, " B"]
    real: Bool[Array, " B"]
    max_new_tokens: Int[Array, ""]
    length_penalty: Float[Array, ""]
    suppress: Int[Array, "phrases L"] | None
    trie: Trie | None


class Finished(NamedTuple):
    """The best finished hypotheses of each group, best first; -inf scores where there is none."""

    tokens: Int[Array, "B G M N"]
    logprobs: Float[Array, "B G M N"]
    lengths: Int[Array, "B G M"]
    scores: Float[Array, "B G M"]


class State(NamedTuple):
    """Between two steps. `scores` are sums, best first, -inf where nothing runs; `open` says where
    a better hypothesis may still come; `step` tokens have been made, all but the last are in the
    cache, whose rows are in the order B, G, M."""

    cache: Any
    tokens: Int[Array, "B G M N"]
    logprobs: Float[Array, "B G M N"]
    scores: Float[Array, "B G M"]
    node: Int[Array, "B G M"] | None
    finished: Finished
    open: Bool[Array, "B G"]
    step: Int[Array, ""]


class Settings(NamedTuple):
    """The static part of a search, on which compiled programs depend; the length penalty, which one
    tries out, is none (`Given`)."""

    model: nn.Module
    beams: BeamConfig
    eos_id: int | None
    vocab_size: int


class _Candidates(NamedTuple):
    """The best continuations of each group, best first: sums, and which beam goes on how."""

    scores: Float[Array, "B G C"]
    beam: Int[Array, "B G C"]
    token: Int[Array, "B G C"]


def select(
    settings: Settings, given: Given, state: State, logits: Float[Array, "B G M V"]
) -> tuple[State, Int[Array, "B G M"]]:
    """One step's choice: the state with everything but the cache moved on, and which hypothesis
    each running one came from."""
    beams = settings.beams
    raw = jax.nn.log_softmax(logits, axis=-1)[..., : settings.vocab_size]
    totals = state.scores[..., None] + _adjusted(settings, given, state, raw)
    last = state.step + 1 == given.max_new_tokens

    def ends(token: Array) -> Array:
        ended = jnp.broadcast_to(last, token.shape)
        return ended if settings.eos_id is None else ended | (token == settings.eos_id)

    candidates, places, scores = _by_group(beams, totals, ends, state.open)

    def history(beam: Array, token: Array) -> tuple[Array, Array]:
        """Tokens and log-probabilities of hypotheses with one more."""
        flat = raw.reshape(*raw.shape[:2], -1)
        logprob = jnp.take_along_axis(flat, beam * settings.vocab_size + token, axis=-1)
        return tuple(
            jax.lax.dynamic_update_index_in_dim(
                jnp.take_along_axis(array, beam[..., None], axis=2), new, state.step, axis=3
            )
            for array, new in ((state.tokens, token), (state.logprobs, logprob))
        )

    made = state.step + 1
    divisor = _divisor(beams, given, made)
    finished = _finished(state, candidates, ends(candidates.token), history, divisor)
    beam, token = (
        jnp.take_along_axis(x, places, axis=-1) for x in (candidates.beam, candidates.token)
    )
    tokens, logprobs = history(beam, token)
    node = state.node
    if node is not None and given.trie is not None:
        node = constraints.follow(given.trie, jnp.take_along_axis(node, beam, axis=-1), token)
    state = state._replace(
        tokens=tokens, logprobs=logprobs, scores=scores, node=node, finished=finished, step=made,
        open=state.open & _may_improve(beams, given, scores[..., 0], finished, made),
    )  # fmt: skip
    return state, beam


def _adjusted(
    settings: Settings, given: Given, state: State, raw: Float[Array, "B G M V"]
) -> Float[Array, "B G M V"]:
    """Log-probabilities after penalties, -inf for what may not be said."""
    beams, vocab_size = settings.beams, settings.vocab_size
    shape, scored = raw.shape, raw.reshape(-1, vocab_size)
    prompt = jnp.broadcast_to(beside(given.prompt), (*shape[:3], given.prompt.shape[1]))
    history = jnp.concatenate([prompt, state.tokens], axis=-1).reshape(scored.shape[0], -1)
    end = given.prompt.shape[1] + state.step
    if beams.repetition_penalty != 1.0:
        said = constraints.seen(history, end, vocab_size)
        # A log-probability is never positive: made larger, it is less likely.
        scored = jnp.where(said, scored * beams.repetition_penalty, scored)
    out = jnp.zeros((), bool)
    if beams.no_repeat_ngram_size:
        size = beams.no_repeat_ngram_size
        out |= constraints.repeated_ngrams(history, end, size, vocab_size)
    if given.suppress is not None:
        out |= constraints.completed(given.suppress, history, end, vocab_size)
    if given.trie is not None and state.node is not None:
        out |= constraints.off_trie(given.trie, state.node.reshape(-1), vocab_size)
    if beams.min_new_tokens and settings.eos_id is not None:
        early = state.step < beams.min_new_tokens
        out |= early & (jnp.arange(vocab_size) == settings.eos_id)
    return jnp.where(out, -jnp.inf, scored).reshape(shape)


def _by_group(
    beams: BeamConfig, totals: Float[Array, "B G M V"], ends: Any, open_: Bool[Array, "B G"]
) -> tuple[_Candidates, Int[Array, "B G M"], Float[Array, "B G M"]]:
    """The candidates of every group; which of them run on, and their sums. A group pays for
    tokens that the running hypotheses of those before it say at this step."""
    size = totals.shape[2]
    said = jnp.zeros((totals.shape[0], totals.shape[-1]))
    found = []
    for group in range(beams.num_groups):
        own = totals[:, group] - beams.diversity_penalty * said[:, None]
        candidates = _best(own, 2 * size)
        running = jnp.where(ends(candidates.token), -jnp.inf, candidates.scores)
        scores, places = jax.lax.top_k(running, size)
        if beams.diversity_penalty:
            token = jnp.take_along_axis(candidates.token, places, axis=-1)
            counted = open_[:, group, None] & (scores > -jnp.inf)
            said = said.at[jnp.arange(said.shape[0])[:, None], token].add(counted)
        found.append((candidates, places, scores))
    return jax.tree.map(lambda *x: jnp.stack(x, axis=1), *found)


def _best(totals: Float[Array, "B M V"], count: int) -> _Candidates:
    """The `count` best continuations of a group (all, if there are fewer); of equals the one of the
    first beam, then of the first token."""
    batch, size, vocab_size = totals.shape
    # First of every beam, then of all: XLA's top_k takes rows side by side, and few long ones slow.
    each = min(count, vocab_size)
    scores, token = jax.lax.top_k(totals, each)
    scores, place = jax.lax.top_k(scores.reshape(batch, -1), min(count, size * each))
    token = jnp.take_along_axis(token.reshape(batch, -1), place, axis=-1)
    return _Candidates(scores, place // each, token)


def _finished(
    state: State, candidates: _Candidates, ended: Array, history: Any, divisor: Array
) -> Finished:
    """The best of the finished hypotheses and of those that end now, among the first candidates,
    as many as there are beams."""
    size = state.scores.shape[-1]
    scores, beam, token = (x[..., :size] for x in candidates)
    counts = ended[..., :size] & state.open[..., None]
    scores = jnp.where(counts, scores / divisor, -jnp.inf)
    tokens, logprobs = history(beam, token)
    new = Finished(tokens, logprobs, jnp.full(scores.shape, state.step + 1), scores)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=2), state.finished, new)
    best, place = jax.lax.top_k(both.scores, size)

    def take(x: Array) -> Array:
        return jnp.take_along_axis(x, place.reshape(*place.shape, *(1,) * (x.ndim - 3)), axis=2)

    return Finished(take(both.tokens), take(both.logprobs), take(both.lengths), best)


def _divisor(beams: BeamConfig, given: Given, length: Int[Array, ""]) -> Float[Array, ""]:
    """What the sum of a hypothesis of this length is divided by."""
    base = (5.0 + length) / 6.0 if beams.normalization == "gnmt" else length.astype(jnp.float32)
    return base**given.length_penalty


def _may_improve(
    beams: BeamConfig,
    given: Given,
    best: Float[Array, "B G"],
    finished: Finished,
    made: Int[Array, ""],
) -> Bool[Array, "B G"]:
    """Whether to go on with a group whose best running hypothesis has this sum."""
    worst = finished.scores[..., -1]
    if beams.early_stopping is True:
        # Until the list is full, or nothing runs.
        return (worst == -jnp.inf) & (best > -jnp.inf)
    longest = made
    if beams.early_stopping == "never":
        # A sum only falls, and is divided by no more than this.
        longest = jnp.where(given.length_penalty > 0, given.max_new_tokens, made)
    return best / _divisor(beams, given, longest) > worst


def beside(x: Array) -> Array:
    """[B, ...] as [B, 1, 1, ...]."""
    return x[:, None, None]
