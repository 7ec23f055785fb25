"""Contrastive search (Su et al. 2022): of the likeliest tokens the one least like what was said.

Deterministic. A step tries each of the `top_k` likeliest tokens, and takes the one with the highest

    (1 - penalty_alpha) * probability - penalty_alpha * similarity

where similarity is the largest cosine of the candidate's hidden state, the last layer's as the head
reads it, with that of any earlier token, a decoder's prompt included.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lm.config import ModelConfig
from lm.errors import ConfigError
from lm.generate.arrange import arrange
from lm.generate.batching import Batch, batches, checked_start
from lm.generate.beam_loop import reordered
from lm.generate.decode import Completion, FinishReason
from lm.generate.prompts import bucket
from lm.model.cache import init_cache
from lm.types import Params


@dataclass(frozen=True)
class ContrastiveConfig:
    """How to choose. penalty_alpha: the weight of the similarity, [0, 1]; 0 is greedy. top_k: how
    many of the likeliest tokens are tried; 1 is greedy. The paper takes 0.6 and 4 to 8.

    Raises:
      ConfigError: a value outside its range.
    """

    penalty_alpha: float = 0.6
    top_k: int = 4

    def __post_init__(self) -> None:
        if not 0.0 <= self.penalty_alpha <= 1.0:
            raise ConfigError(f"penalty_alpha must be between 0 and 1, not {self.penalty_alpha}")
        if self.top_k < 1:
            raise ConfigError(f"top_k must be at least 1, not {self.top_k}")


class _Settings(NamedTuple):
    model: nn.Module
    top_k: int
    eos_id: int | None
    vocab_size: int


class _State(NamedTuple):
    """Between two steps. `logits` are of the next token; `said` are the directions of the hidden
    states so far, `known` of them; the cache has top_k equal rows a prompt."""

    cache: Any
    logits: Float[Array, "B V"]
    said: Float[Array, "B S D"]
    known: Bool[Array, "B S"]
    tokens: Int[Array, "B N"]
    logprobs: Float[Array, "B N"]
    lengths: Int[Array, " B"]
    active: Bool[Array, " B"]
    step: Int[Array, ""]


def contrastive_search(
    model: nn.Module,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    contrast: ContrastiveConfig,
    max_new_tokens: int,
    eos_id: int | None = None,
    vocab_size: int | None = None,
    start: Sequence[int] | None = None,
    batch_size: int | None = None,
) -> list[list[Completion]]:
    """One completion a prompt; arguments and errors as for `lm.generate.beam.beam_search`."""
    config: ModelConfig = model.config
    vocab_size = min(vocab_size or config.vocab_size, config.vocab_size)
    begin = checked_start(config, prompts, start, max_new_tokens, vocab_size)
    if contrast.top_k > vocab_size:
        raise ConfigError(f"top_k={contrast.top_k} is more than the {vocab_size} tokens there are")
    params = arrange(model, params)
    settings = _Settings(model, contrast.top_k, eos_id, vocab_size)
    found: list[list[Completion]] = [[] for _ in prompts]
    for numbers in batches(config, prompts, max_new_tokens, contrast.top_k, batch_size):
        batch = Batch(config, [prompts[i] for i in numbers], begin, max_new_tokens, contrast.top_k)
        state = _search(
            settings, params, batch.tokens, batch.positions, batch.source, batch.real,
            jnp.float32(contrast.penalty_alpha), jnp.int32(max_new_tokens),
            length=batch.slots(max_new_tokens), new_tokens=bucket(max_new_tokens),
        )  # fmt: skip
        every = jax.device_get((state.tokens, state.logprobs, state.lengths))
        for number, tokens, logprobs, length in zip(numbers, *every):
            said = tokens[:length].tolist()
            reason: FinishReason = "eos" if said[-1] == eos_id else "length"
            found[number].append(Completion(said, logprobs[:length].tolist(), reason))
    return found


@functools.partial(jax.jit, static_argnames=("settings", "length", "new_tokens"))
def _search(
    settings: _Settings,
    params: Params,
    tokens: Int[Array, "B W"],
    positions: Int[Array, "B W"],
    source: dict[str, Any],
    real: Bool[Array, " B"],
    alpha: Float[Array, ""],
    limit: Int[Array, ""],
    *,
    length: int,
    new_tokens: int,
) -> _State:
    """The state at the end, of prompts read into caches of `length` slots."""
    model, variables = settings.model, {"params": params}
    batch, width = tokens.shape
    cache = init_cache(model.config, batch, length)
    read: Any = model.apply(
        variables, tokens, positions=positions, cache=cache, **source, method="hidden"
    )
    hidden, cache = read
    logits: Any = model.apply(variables, hidden[:, -1], method="logits")
    rest = ((0, 0), (0, new_tokens))
    state = _State(
        cache=jax.tree.map(lambda x: jnp.repeat(x, settings.top_k, axis=0) if x.ndim else x, cache),
        logits=logits,
        said=jnp.pad(_direction(hidden), (*rest, (0, 0))),
        known=jnp.pad(positions >= 0, rest),
        tokens=jnp.zeros((batch, new_tokens), jnp.int32),
        logprobs=jnp.zeros((batch, new_tokens), jnp.float32),
        lengths=jnp.zeros(batch, jnp.int32),
        active=real,
        step=jnp.int32(0),
    )

    def unfinished(state: _State) -> Array:
        return (state.step < limit) & jnp.any(state.active)

    def step(state: _State) -> _State:
        logprobs = jax.nn.log_softmax(state.logits, axis=-1)
        candidates, token = jax.lax.top_k(logprobs[:, : settings.vocab_size], settings.top_k)
        position = jnp.repeat(positions[:, -1] + 1 + state.step, settings.top_k)
        tried: Any = model.apply(
            variables, token.reshape(-1, 1), positions=position[:, None], cache=state.cache,
            method="hidden",
        )  # fmt: skip
        hidden, cache = tried
        direction = _direction(hidden).reshape(batch, settings.top_k, -1)
        similar = jnp.einsum("bkd,bsd->bks", direction, state.said)
        similar = jnp.max(jnp.where(state.known[:, None], similar, -jnp.inf), axis=-1)
        best = jnp.argmax((1 - alpha) * jnp.exp(candidates) - alpha * similar, axis=-1)

        def chosen(x: Array) -> Array:
            return jnp.take_along_axis(x, best.reshape(-1, *(1,) * (x.ndim - 1)), axis=1)[:, 0]

        logits: Any = model.apply(
            variables, chosen(hidden.reshape(direction.shape)), method="logits"
        )
        parents = jnp.broadcast_to(best[:, None, None], (batch, 1, settings.top_k))
        now = chosen(token)
        active = (
            state.active if settings.eos_id is None else state.active & (now != settings.eos_id)
        )

        def put(array: Array, new: Array, at: Array) -> Array:
            return jax.lax.dynamic_update_index_in_dim(array, new, at, axis=1)

        return _State(
            cache=reordered(cache, parents.astype(jnp.int32), width),
            logits=logits,
            said=put(state.said, chosen(direction), width + state.step),
            known=put(state.known, jnp.ones(batch, bool), width + state.step),
            tokens=put(state.tokens, now, state.step),
            logprobs=put(state.logprobs, chosen(candidates), state.step),
            lengths=state.lengths + state.active,
            active=active,
            step=state.step + 1,
        )

    return jax.lax.while_loop(unfinished, step, state)


def _direction(hidden: Float[Array, "..."]) -> Float[Array, "..."]:
    """Of length 1, in float32."""
    hidden = hidden.astype(jnp.float32)
    return hidden / jnp.linalg.norm(hidden, axis=-1, keepdims=True)
