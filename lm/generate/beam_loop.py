"""Beam search on the device: one loop for a batch of prompts, each with `num_beams` rows of the
KV cache, which move after the hypotheses that run on (`lm.generate.beam_select`).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from lm.generate.beam_select import Finished, Given, Settings, State, beside, select
from lm.model.cache import Cache, init_cache
from lm.types import Params


@functools.partial(jax.jit, static_argnames=("settings", "length", "new_tokens"))
def begin(
    settings: Settings,
    params: Params,
    tokens: Int[Array, "B W"],
    positions: Int[Array, "B W"],
    source: dict[str, Any],
    given: Given,
    *,
    length: int,
    new_tokens: int,
) -> State:
    """Reads the prompts once into caches of `length` slots, and makes the first token of every
    hypothesis; there is room for `new_tokens`."""
    model, beams = settings.model, settings.beams
    cache = init_cache(model.config, tokens.shape[0], length)
    read: Any = model.apply(
        {"params": params}, tokens, positions=positions, cache=cache, **source, method="hidden"
    )
    hidden, cache = read
    logits: Any = model.apply({"params": params}, hidden[:, -1], method="logits")
    cache = jax.tree.map(lambda x: jnp.repeat(x, beams.num_beams, axis=0) if x.ndim else x, cache)
    shape = (tokens.shape[0], beams.num_groups, beams.num_beams // beams.num_groups)
    blank = jnp.zeros((*shape, new_tokens), jnp.int32)
    state = State(
        cache=cache,
        tokens=blank,
        logprobs=blank.astype(jnp.float32),
        # All are the same so far: one of a group goes on, or they would all be the same forever.
        scores=jnp.full(shape, -jnp.inf).at[..., 0].set(0.0),
        node=None if given.trie is None else jnp.broadcast_to(beside(given.trie.root), shape),
        finished=Finished(
            blank,
            blank.astype(jnp.float32),
            jnp.zeros(shape, jnp.int32),
            jnp.full(shape, -jnp.inf),
        ),
        open=jnp.broadcast_to(given.real[:, None], shape[:2]),
        step=jnp.int32(0),
    )
    logits = jnp.broadcast_to(beside(logits), (*shape, logits.shape[-1]))
    state, _ = select(settings, given, state, logits)
    return state


@functools.partial(jax.jit, static_argnames=("settings",), donate_argnames=("state",))
def advance(
    settings: Settings, params: Params, given: Given, state: State, limit: Int[Array, ""]
) -> State:
    """Steps until `limit` tokens are made, or no prompt has anything to find any more."""
    last = state.tokens.shape[:3]
    width = given.prompt.shape[1]

    def unfinished(state: State) -> Array:
        return (state.step < limit) & jnp.any(state.open)

    def step(state: State) -> State:
        made = jax.lax.dynamic_index_in_dim(state.tokens, state.step - 1, axis=3, keepdims=False)
        rows = made.reshape(-1, 1)
        # The k-th new token stands k places after the prompt's last.
        position = jnp.broadcast_to(beside(given.position) + state.step, last)
        logits, cache = settings.model.apply(
            {"params": params}, rows, positions=position.reshape(-1, 1), cache=state.cache
        )
        logits = logits[:, 0].reshape(*last, -1)
        state, parents = select(settings, given, state._replace(cache=cache), logits)
        return state._replace(cache=reordered(state.cache, parents, width))

    return jax.lax.while_loop(unfinished, step, state)


@functools.partial(jax.jit, static_argnames=("length",))
def grown(cache: Cache, *, length: int) -> Cache:
    """The cache with `length` slots."""
    more = length - cache.length

    def pad(slots: jax.Array) -> jax.Array:
        return jnp.pad(slots, ((0, 0), (0, 0), (0, more), (0, 0)))

    keys, values = jax.tree.map(pad, (cache.keys, cache.values))
    positions = jnp.pad(cache.positions, ((0, 0), (0, more)), constant_values=-1)
    return cache.replace(keys=keys, values=values, positions=positions)


def reordered(cache: Cache, parents: Int[Array, "B G M"], width: int) -> Cache:
    """The cache with the rows of the hypotheses that went on. Those of one prompt differ in what
    came after it only: positions, the `width` slots of the prompt and the source stay."""
    batch, groups, beams = parents.shape
    if beams == 1:
        return cache
    first = jnp.arange(batch * groups)[:, None] * beams
    rows = (parents.reshape(batch * groups, beams) + first).reshape(-1)

    def move(slots: jax.Array) -> jax.Array:
        return slots.at[:, :, width:].set(slots[:, :, width:][rows])

    keys, values = jax.tree.map(move, (cache.keys, cache.values))
    return cache.replace(keys=keys, values=values)
