"""The decoding loop (`lm.generate.decode`) on the device: prompts in one pass, then tokens."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lm.generate.sampling import SamplingConfig, sample
from lm.generate.screen import SCREEN, likeliest_of_few
from lm.model.cache import empty_slots
from lm.types import Key, Params


class State(NamedTuple):
    """What one step hands to the next: the cache holds everything before `token`."""

    cache: Any
    token: Int[Array, " B"]
    position: Int[Array, " B"]
    seen: Bool[Array, "B V"] | None
    active: Bool[Array, " B"]
    step: Int[Array, ""]


class Settings(NamedTuple):
    """The static part of a decoding, on which compiled programs depend."""

    model: nn.Module
    sampling: SamplingConfig
    eos_id: int | None
    vocab_size: int
    logprobs: bool = True


def _choose(
    settings: Settings, logits: Float[Array, "B V"], keys: Key, seen: Array | None, step: Array
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """The next token of each row and its log-probability under the model (0, if not asked for)."""
    step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)
    token = sample(step_keys, logits[:, : settings.vocab_size], settings.sampling, seen)
    if not settings.logprobs:
        return token, jnp.zeros(token.shape, jnp.float32)
    chosen = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
    return token, chosen - jax.nn.logsumexp(logits, axis=-1)


def _following(
    settings: Settings, params: Params, hidden: Float[Array, "B D"], keys: Key, state: State
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """As `_choose`, from the last layer's output; without all logits where that will do."""
    sampling = settings.sampling
    alone = len(hidden) == 1 and sampling.greedy and sampling.repetition_penalty == 1.0
    if SCREEN in params and alone and not settings.logprobs:
        x: Any = settings.model.apply({"params": params}, hidden, method="readout")
        token = likeliest_of_few(params, x, settings.vocab_size)
        return token, jnp.zeros(token.shape, jnp.float32)
    logits: Any = settings.model.apply({"params": params}, hidden, method="logits")
    return _choose(settings, logits, keys, state.seen, state.step)


def _after(settings: Settings, state: State, token: Array) -> State:
    """`state` once `token` is chosen: ended rows stay ended, and the token counts as seen."""
    active = state.active
    if settings.eos_id is not None:
        active = active & (token != settings.eos_id)
    seen = state.seen
    if seen is not None:
        seen = seen.at[jnp.arange(token.shape[0]), token].set(True)
    return state._replace(
        token=token, position=state.position + 1, seen=seen, active=active, step=state.step + 1
    )


@functools.partial(jax.jit, static_argnames=("settings", "sequences", "length"))
def prefill(
    settings: Settings,
    params: Params,
    tokens: Int[Array, "P T"],
    positions: Int[Array, "P T"],
    keys: Key,
    source: dict[str, Any],
    *,
    sequences: int,
    length: int,
) -> tuple[State, Array, Array]:
    """Reads the prompts into a cache of `length` slots, gives each prompt `sequences` rows, and
    chooses the first token: (state, tokens [B], logprobs [B]) with B = P * sequences. `source` is
    what an encoder reads: once, the cache keeps what the decoder needs of it; or the mask of a
    decoder's prompts that see themselves both ways."""
    model, variables = settings.model, {"params": params}
    cache = empty_slots(model.config, tokens.shape[0], length)
    read: Any = model.apply(
        variables, tokens, positions=positions, cache=cache, **source, method="hidden"
    )
    hidden, cache = read
    # Padding is on the left, so every prompt's last token stands in the last column.
    logits = model.apply(variables, hidden[:, -1], method="logits")

    def repeat(x: Array) -> Array:
        return jnp.repeat(x, sequences, axis=0) if x.ndim else x

    cache, logits, last = jax.tree.map(repeat, (cache, logits, positions[:, -1]))
    seen = None
    if settings.sampling.repetition_penalty != 1.0:
        seen = jnp.zeros((tokens.shape[0], settings.vocab_size), bool)
        seen = seen.at[jnp.arange(tokens.shape[0])[:, None], tokens].max(positions >= 0)
        seen = repeat(seen)
    step = jnp.int32(0)
    token, logprob = _choose(settings, logits, keys, seen, step)
    active = jnp.ones(token.shape, bool)
    state = State(cache, token, last, seen, active, step)
    return _after(settings, state, token), token, logprob


@functools.partial(jax.jit, static_argnames=("settings", "chunk"), donate_argnames=("state",))
def decode(
    settings: Settings, params: Params, state: State, keys: Key, limit: Array, *, chunk: int
) -> tuple[State, Array, Array, Array, Array]:
    """At most `limit` (<= `chunk`) steps, fewer if every row ends: (state, tokens, logprobs, valid,
    steps made), the three arrays [B, chunk] with only the first steps filled."""
    rows = state.token.shape[0]
    outputs = (
        jnp.zeros((rows, chunk), jnp.int32),
        jnp.zeros((rows, chunk), jnp.float32),
        jnp.zeros((rows, chunk), bool),
    )

    def unfinished(carry: Any) -> Array:
        made, state, _ = carry
        return (made < limit) & jnp.any(state.active)

    def step(carry: Any) -> Any:
        made, state, outputs = carry
        state = _unpacked(state)
        read: Any = settings.model.apply(
            {"params": params},
            state.token[:, None],
            positions=state.position[:, None],
            cache=state.cache,
            method="hidden",
        )
        hidden, cache = read
        token, logprob = _following(settings, params, hidden[:, 0], keys, state)
        outputs = tuple(
            jax.lax.dynamic_update_index_in_dim(array, column, made, axis=1)
            for array, column in zip(outputs, (token, logprob, state.active))
        )
        state = _after(settings, state._replace(cache=cache), token)
        return made + 1, _packed(state), outputs

    carry = jnp.int32(0), _packed(state), outputs
    made, state, outputs = jax.lax.while_loop(unfinished, step, carry)
    return _unpacked(state), *outputs, made


def _packed(state: State) -> State:
    """`state` as the loop carries it: with a cache that has no axis of rows where there is a single
    one. XLA takes an axis of one out of the products, and would then copy the cache at every step,
    to have it with and without."""
    cache = state.cache
    slots: Any = cache.keys, cache.values
    if state.token.shape[0] == 1:
        slots = jax.tree.map(lambda x: x[0], slots)
    return state._replace(cache=(slots, cache.replace(keys=(), values=())))


def _unpacked(state: State) -> State:
    """What `_packed` was given."""
    slots, cache = state.cache
    if state.token.shape[0] == 1:
        slots = jax.tree.map(lambda x: x[None], slots)
    return state._replace(cache=cache.replace(keys=slots[0], values=slots[1]))
