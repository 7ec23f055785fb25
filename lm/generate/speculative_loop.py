"""The rounds of speculative decoding (`lm.generate.speculative`), on the device.

The rows of a batch keep different numbers of proposals, so each has a cache of its own that is as
full as it is. What was refused stands there at later positions than anything that looks at it
before it is written over, so nothing attends to it.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lm.generate.sampling import SamplingConfig, likeliest, process_logits
from lm.model.cache import Cache, position_limit
from lm.types import Key, Params

# Of a cache: keys and values of each layer, and positions.
Slots = tuple[tuple[Array, ...], tuple[Array, ...], Array]


class Settings(NamedTuple):
    """The static part, on which compiled programs depend."""

    model: nn.Module
    draft: nn.Module
    tokens: int
    sampling: SamplingConfig
    eos_id: int | None
    vocab_size: int
    max_new_tokens: int


class State(NamedTuple):
    """What one round hands to the next: the slots before a row's `slot` hold everything before
    `token`, which is the last of `made`."""

    slots: Slots
    draft_slots: Slots
    slot: Int[Array, " B"]
    token: Int[Array, " B"]
    position: Int[Array, " B"]
    seen: Bool[Array, "B V"] | None
    active: Bool[Array, " B"]
    made: Int[Array, " B"]
    round: Int[Array, ""]
    accepted: Int[Array, ""]
    proposed: Int[Array, ""]


class _Proposals(NamedTuple):
    """What the draft says after `token`, with the distributions it took it from; `seen` before each
    and after all."""

    tokens: Int[Array, "B n"]
    logits: Float[Array, "B n V"]
    seen: Bool[Array, "B n+1 V"] | None


def _apply(
    model: nn.Module, params: Params, tokens: Int[Array, "B T"], state: State, slots: Slots
) -> tuple[Float[Array, "B T V"], Slots]:
    """Logits of `tokens`, the first at `state.position` and in slot `state.slot` of its row."""
    positions = state.position[:, None] + jnp.arange(tokens.shape[1])
    limit = position_limit(model.config)
    if limit is not None:
        # Beyond what was asked for, and so never kept.
        positions = jnp.where(positions < limit, positions, -1)

    def one(tokens: Array, positions: Array, index: Array, slots: Slots) -> Any:
        keys, values, known = jax.tree.map(lambda x: x[None], slots)
        applied: Any = model.apply(
            {"params": params},
            tokens[None],
            positions=positions[None],
            cache=Cache(keys, values, known, index),
        )
        logits, cache = applied
        slots = cache.keys, cache.values, cache.positions
        return logits[0], jax.tree.map(lambda x: x[0], slots)

    given = tokens, positions, state.slot, slots
    if len(tokens) > 1:
        return jax.vmap(one)(*given)
    # Without the axis of a single row the caches are not copied (see `lm.generate.decode`).
    return jax.tree.map(lambda x: x[None], one(*jax.tree.map(lambda x: x[0], given)))


def _choose(settings: Settings, keys: Key, logits: Float[Array, "B V"]) -> Int[Array, " B"]:
    """A token a row from processed logits."""
    if settings.sampling.greedy:
        return likeliest(logits)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def _propose(
    settings: Settings, params: Params, state: State, keys: Key
) -> tuple[_Proposals, Slots]:
    """The draft's tokens, and its slots with all of them (one more pass than there are tokens: all
    may be kept)."""
    rows = jnp.arange(state.token.shape[0])

    def step(carry: Any, number: Array) -> Any:
        slots, token, seen = carry
        here = state._replace(position=state.position + number, slot=state.slot + number)
        logits, slots = _apply(settings.draft, params, token[:, None], here, slots)
        logits = process_logits(logits[:, 0, : settings.vocab_size], settings.sampling, seen)
        step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
        token = _choose(settings, step_keys, logits)
        after = None if seen is None else seen.at[rows, token].set(True)
        return (slots, token, after), (token, logits, seen)

    carry = state.draft_slots, state.token, state.seen
    (slots, _, _), outputs = jax.lax.scan(step, carry, jnp.arange(settings.tokens + 1))
    tokens, logits, seen = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), outputs)
    return _Proposals(tokens[:, :-1], logits[:, :-1], seen), slots


def verify(
    keys: Key,
    proposed: Int[Array, "B n"],
    draft: Float[Array, "B n V"],
    target: Float[Array, "B n+1 V"],
    *,
    greedy: bool,
) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
    """How many of the proposals are kept, and the token after them.

    A proposal x is kept with probability min(1, p(x) / q(x)), p being softmax(target) and q
    softmax(draft), from which it was drawn; in place of the first that is not, a token is drawn
    from max(p - q, 0), normalised, and after all of them one from p (Leviathan et al., algorithm
    1). Greedy: kept where it is the likeliest.
    """
    count = proposed.shape[1]
    if greedy:
        best = likeliest(target.reshape(-1, target.shape[-1])).reshape(target.shape[:2])
        kept = _leading(proposed == best[:, :-1])
        return kept, jnp.take_along_axis(best, kept[:, None], axis=1)[:, 0]
    p, q = jax.nn.softmax(target, axis=-1), jax.nn.softmax(draft, axis=-1)
    chances, replace = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (count,)))(chances)
    of_p, of_q = (
        jnp.take_along_axis(x[:, :count], proposed[..., None], axis=-1)[..., 0] for x in (p, q)
    )
    kept = _leading(uniform * of_q < of_p)
    # After the last proposal there is nothing to subtract.
    q = jnp.pad(q, ((0, 0), (0, 1), (0, 0)))
    here_p, here_q = (jnp.take_along_axis(x, kept[:, None, None], axis=1)[:, 0] for x in (p, q))
    rest = jnp.maximum(here_p - here_q, 0)
    # Where rounding leaves nothing, p and q are the same.
    rest = jnp.where(jnp.any(rest > 0, axis=-1, keepdims=True), rest, here_p)
    token = jax.vmap(jax.random.categorical)(replace, jnp.log(rest))
    return kept, token.astype(jnp.int32)


def _leading(kept: Bool[Array, "B n"]) -> Int[Array, " B"]:
    """How many come before the first that is False."""
    return jnp.sum(jnp.cumprod(kept.astype(jnp.int32), axis=1), axis=1)


def _round(
    settings: Settings, params: Params, draft_params: Params, state: State, row_keys: Key
) -> tuple[State, tuple[Array, Array, Array]]:
    """Proposals, and what comes of them: the state, and tokens, logprobs and which of them are
    valid, [B, n + 1]."""
    count, rows = settings.tokens, jnp.arange(state.token.shape[0])
    # 0 chose the first token, after the prompt.
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(row_keys, state.round + 1)
    propose_keys, verify_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    proposals, draft_slots = _propose(settings, draft_params, state, propose_keys)
    tokens = jnp.concatenate([state.token[:, None], proposals.tokens], axis=1)
    logits, slots = _apply(settings.model, params, tokens, state, state.slots)
    target = _processed(settings, logits, proposals.seen)
    kept, token = verify(
        verify_keys, proposals.tokens, proposals.logits, target, greedy=settings.sampling.greedy
    )
    said = jnp.pad(proposals.tokens, ((0, 0), (0, 1))).at[rows, kept].set(token)
    column = jnp.arange(count + 1)
    valid = (column <= kept[:, None]) & state.active[:, None]
    valid &= state.made[:, None] + column < settings.max_new_tokens
    if settings.eos_id is not None:
        ends = jnp.cumsum(said == settings.eos_id, axis=1)
        valid &= ends - (said == settings.eos_id) == 0
    number = jnp.sum(valid, axis=1)
    state = _moved(settings, state, said, valid, number)
    # Of proposals that there was room for.
    asked = jnp.minimum(count, settings.max_new_tokens - (state.made - number)) * (number > 0)
    state = state._replace(
        slots=slots,
        draft_slots=draft_slots,
        accepted=state.accepted + jnp.sum(jnp.minimum(kept, asked)),
        proposed=state.proposed + jnp.sum(asked),
        round=state.round + 1,
    )
    chosen = jnp.take_along_axis(logits, said[..., None], axis=-1)[..., 0]
    return state, (said, chosen - jax.nn.logsumexp(logits, axis=-1), valid)


def _processed(
    settings: Settings, logits: Float[Array, "B T V"], seen: Bool[Array, "B T V"] | None
) -> Float[Array, "B T vocab"]:
    """The logits that tokens are chosen from, at every position."""
    logits = logits[..., : settings.vocab_size]
    flat = logits.reshape(-1, settings.vocab_size)
    marks = None if seen is None else seen.reshape(flat.shape)
    return process_logits(flat, settings.sampling, marks).reshape(logits.shape)


def _moved(settings: Settings, state: State, said: Array, valid: Array, number: Array) -> State:
    """`state` with what was said: `number` tokens a row, the valid ones."""
    rows = jnp.arange(len(number))
    last = jnp.take_along_axis(said, jnp.maximum(number - 1, 0)[:, None], axis=1)[:, 0]
    token = jnp.where(number > 0, last, state.token)
    made = state.made + number
    active = state.active & (made < settings.max_new_tokens)
    if settings.eos_id is not None:
        active &= token != settings.eos_id
    seen = state.seen
    if seen is not None:
        seen = seen.at[rows[:, None], said].max(valid)
    position, slot = state.position + number, state.slot + number
    return state._replace(
        slot=slot, token=token, position=position, made=made, active=active, seen=seen
    )


@functools.partial(jax.jit, static_argnames=("settings", "chunk"), donate_argnames=("state",))
def speculate(
    settings: Settings,
    params: Params,
    draft_params: Params,
    state: State,
    keys: Key,
    *,
    chunk: int,
) -> tuple[State, tuple[Array, Array, Array], Array]:
    """At most `chunk` rounds, fewer if every row ends: the state, tokens, logprobs and valid
    [B, chunk, n + 1], and the rounds made."""
    shape = (state.token.shape[0], chunk, settings.tokens + 1)
    outputs = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32), jnp.zeros(shape, bool)

    def unfinished(carry: Any) -> Array:
        made, state, _ = carry
        return (made < chunk) & jnp.any(state.active)

    def step(carry: Any) -> Any:
        made, state, outputs = carry
        state, columns = _round(settings, params, draft_params, state, keys)
        outputs = tuple(
            jax.lax.dynamic_update_index_in_dim(array, column, made, axis=1)
            for array, column in zip(outputs, columns)
        )
        return made + 1, state, outputs

    made, state, outputs = jax.lax.while_loop(unfinished, step, (jnp.int32(0), state, outputs))
    return state, outputs, made
