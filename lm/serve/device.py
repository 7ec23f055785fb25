"""The programs of `lm.serve.slots`: what the device does with rows that come and go.

All rows write into the same column of the cache. A prompt is read alone and copied into the columns
before it, so a row's tokens are always the last ones in its row; what it attends to follows from
their positions (lm/model/cache.py). When the columns run out, rows are moved to the left.

Temperature, top-p and top-k are arguments, not part of a program: one for all requests.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lm.generate.row_sampling import sample_rows
from lm.model import Mask
from lm.model.cache import Cache, init_cache
from lm.types import Key, Params

# How many of the likeliest tokens are known of each step where a row asks for them.
ALTERNATIVES = 5


class Settings(NamedTuple):
    """The static part, on which compiled programs depend. With `both_ways` prompts see themselves
    so, as the model learned from prefixes."""

    model: nn.Module
    vocab_size: int
    eos_id: int | None
    both_ways: bool = False


class Chosen(NamedTuple):
    """Tokens with their log-probabilities under the model itself, and the likeliest in their place
    with theirs (zeros where no row asks)."""

    token: Int[Array, " B"]
    logprob: Float[Array, " B"]
    ids: Int[Array, "B alternatives"]
    logprobs: Float[Array, "B alternatives"]


class Rows(NamedTuple):
    """One entry a row. `position` is `token`'s, which the cache does not hold yet; `step` tokens
    were made of `limit`."""

    token: Int[Array, " B"]
    position: Int[Array, " B"]
    active: Bool[Array, " B"]
    step: Int[Array, " B"]
    limit: Int[Array, " B"]
    key: Key
    temperature: Float[Array, " B"]
    top_p: Float[Array, " B"]
    top_k: Int[Array, " B"]
    alternatives: Bool[Array, " B"]


class State(NamedTuple):
    """The cache holds everything before each row's `token`."""

    cache: Cache
    rows: Rows


def _choose(settings: Settings, logits: Float[Array, "B V"], rows: Rows) -> Chosen:
    keys = jax.vmap(jax.random.fold_in)(rows.key, rows.step)
    known = logits[:, : settings.vocab_size]
    # Rows that have ended ask for nothing.
    temperature = jnp.where(rows.active, rows.temperature, 0.0)
    top_p = jnp.where(rows.active, rows.top_p, 1.0)
    token = sample_rows(keys, known, temperature, top_p, rows.top_k)
    total = jax.nn.logsumexp(logits, axis=-1)
    logprob = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0] - total
    count = min(ALTERNATIVES, settings.vocab_size)

    def likeliest() -> tuple[Array, Array]:
        values, ids = jax.lax.top_k(known, count)
        return ids.astype(jnp.int32), values - total[:, None]

    def none() -> tuple[Array, Array]:
        shape = (token.shape[0], count)
        return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, logits.dtype)

    wanted = jnp.any(rows.alternatives & rows.active)
    return Chosen(token, logprob, *jax.lax.cond(wanted, likeliest, none))


def _after(settings: Settings, rows: Rows, token: Array) -> Rows:
    active = rows.active & (rows.step + 1 < rows.limit)
    if settings.eos_id is not None:
        active = active & (token != settings.eos_id)
    return rows._replace(token=token, position=rows.position + 1, active=active, step=rows.step + 1)


@functools.partial(jax.jit, static_argnames=("settings", "rows", "columns"))
def begin(settings: Settings, index: Array, *, rows: int, columns: int) -> State:
    """Empty rows, and an empty cache whose next column to be written is `index`."""
    cache = init_cache(settings.model.config, rows, columns)
    whole, number = jnp.zeros(rows, jnp.int32), jnp.ones(rows, jnp.float32)
    no = jnp.zeros(rows, bool)
    keys = jnp.broadcast_to(jax.random.key(0), (rows,))
    beginning = Rows(whole, whole, no, whole, whole, keys, number, number, whole, no)
    return State(cache.replace(index=index), beginning)


@functools.partial(jax.jit, static_argnames=("settings",))
def prefill(
    settings: Settings, params: Params, tokens: Int[Array, "1 W"], positions: Int[Array, "1 W"]
) -> tuple[Cache, Float[Array, "1 V"]]:
    """A prompt's cache, of as many columns as it is padded to, and the logits of what follows."""
    model, variables = settings.model, {"params": params}
    config = model.config
    cache = init_cache(config, 1, tokens.shape[1])
    read: Any = model.apply(
        variables, tokens, positions=positions, cache=cache,
        mask=Mask() if settings.both_ways else None, method="hidden",
    )  # fmt: skip
    hidden, cache = read
    # Padding is on the left, so the prompt's last token stands in the last column.
    logits: Any = model.apply(variables, hidden[:, -1], method="logits")
    return cache, logits


@functools.partial(jax.jit, static_argnames=("settings",))
def score(
    settings: Settings, params: Params, tokens: Int[Array, "1 W"], positions: Int[Array, "1 W"]
) -> Chosen:
    """A prompt's own tokens but the first, and the likeliest in their places: [W - 1], each as it
    follows from those before it."""
    model, variables = settings.model, {"params": params}
    read: Any = model.apply(variables, tokens, positions=positions, method="hidden")
    count = min(ALTERNATIVES, settings.vocab_size)

    def one(arguments: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        hidden, token = arguments
        logits: Any = model.apply(variables, hidden[None], method="logits")
        log_p = jax.nn.log_softmax(logits[0])
        values, ids = jax.lax.top_k(log_p[: settings.vocab_size], count)
        return log_p[token], ids.astype(jnp.int32), values

    after = tokens[0, 1:]
    # The logits of a part of the places at a time.
    return Chosen(after, *jax.lax.map(one, (read[0][0, :-1], after), batch_size=64))


def _columns(index: Array, new_index: Array, old: int, new: int) -> tuple[Array, Array]:
    """For each of `new` columns, which of `old` it takes, and whether there is one: what stood
    before column `index` comes to stand before `new_index`."""
    source = jnp.arange(new) - new_index + index
    return jnp.clip(source, 0, old - 1), (source >= 0) & (source < index)


@functools.partial(jax.jit, static_argnames=("settings",))
def choose_first(
    settings: Settings,
    logits: Float[Array, "1 V"],
    numbers: Int[Array, " 6"],
    sampling: Float[Array, " 3"],
) -> tuple[Rows, Chosen]:
    """A row with its first token. `numbers`: length of the prompt, seed, prompt, sequence,
    max_new_tokens, top_k; `sampling`: temperature, top_p, alternatives wanted (0 or 1)."""
    length, seed, prompt, sequence, limit, top_k = numbers
    fold = jax.random.fold_in
    key = fold(fold(jax.random.key(seed), prompt), sequence)[None]
    zero, yes = jnp.zeros(1, jnp.int32), jnp.ones(1, bool)
    row = Rows(
        zero, zero + length.astype(jnp.int32) - 1, yes, zero, zero + limit.astype(jnp.int32), key,
        sampling[:1], sampling[1:2], zero + top_k.astype(jnp.int32), sampling[2:] > 0,
    )  # fmt: skip
    chosen = _choose(settings, logits, row)
    return _after(settings, row, chosen.token), chosen


@functools.partial(jax.jit, donate_argnames=("state",))
def insert(state: State, read: Cache, new: Rows, row: Int[Array, ""]) -> State:
    """Puts a prompt that was read, and what follows from it, into `row`."""
    cache = state.cache
    columns, present = _columns(read.index, cache.index, read.length, cache.length)

    def put(all_rows: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_index_in_dim(all_rows, new[0][:, columns], row, axis=0)

    position = jnp.where(present, read.positions[0][columns], -1)
    cache = cache.replace(
        keys=tuple(map(put, cache.keys, read.keys)),
        values=tuple(map(put, cache.values, read.values)),
        positions=cache.positions.at[row].set(position),
    )
    rows = Rows(*(old.at[row].set(one[0]) for old, one in zip(state.rows, new)))
    return State(cache, rows)


@functools.partial(jax.jit, static_argnames=("columns",))
def move(state: State, order: Int[Array, " new"], index: Array, *, columns: int) -> State:
    """The rows `order` (-1: an empty one) in a cache of `columns` columns, the next to be written
    being `index`."""
    cache = state.cache
    taken, present = _columns(cache.index, index, cache.length, columns)
    rows = jnp.maximum(order, 0)

    def part(x: Array) -> Array:
        return x[rows][:, :, taken]

    present = present[None] & (order >= 0)[:, None]
    moved = cache.replace(
        keys=tuple(map(part, cache.keys)),
        values=tuple(map(part, cache.values)),
        positions=jnp.where(present, cache.positions[rows][:, taken], -1),
        index=index,
    )
    kept = Rows(*(x[rows] for x in state.rows))
    return State(moved, kept._replace(active=kept.active & (order >= 0)))


@functools.partial(jax.jit, static_argnames=("settings", "chunk"), donate_argnames=("state",))
def decode(
    settings: Settings, params: Params, state: State, keep: Array, limit: Array, *, chunk: int
) -> tuple[State, Chosen, Array, Array]:
    """At most `limit` (<= `chunk`) steps of the rows to `keep`: (state, what was chosen [B, chunk,
    ...], where it is valid, steps made)."""
    rows = state.rows._replace(active=state.rows.active & keep)
    number, count = rows.token.shape[0], min(ALTERNATIVES, settings.vocab_size)
    outputs = (
        jnp.zeros((number, chunk), jnp.int32),
        jnp.zeros((number, chunk), jnp.float32),
        jnp.zeros((number, chunk, count), jnp.int32),
        jnp.zeros((number, chunk, count), jnp.float32),
        jnp.zeros((number, chunk), bool),
    )

    def unfinished(carry: Any) -> Array:
        made, state, _ = carry
        return (made < limit) & jnp.any(state.rows.active)

    def step(carry: Any) -> Any:
        made, (cache, rows), outputs = carry
        # An ended row goes through as padding: it has no place among the positions any more.
        position = jnp.where(rows.active, rows.position, -1)
        said: Any = settings.model.apply(
            {"params": params}, rows.token[:, None], positions=position[:, None], cache=cache
        )
        logits, cache = said
        chosen = _choose(settings, logits[:, 0], rows)
        outputs = tuple(
            jax.lax.dynamic_update_index_in_dim(array, column, made, axis=1)
            for array, column in zip(outputs, (*chosen, rows.active))
        )
        return made + 1, State(cache, _after(settings, rows, chosen.token)), outputs

    beginning = (jnp.int32(0), State(state.cache, rows), outputs)
    made, state, outputs = jax.lax.while_loop(unfinished, step, beginning)
    *chosen, valid = outputs
    return state, Chosen(*chosen), valid, made
