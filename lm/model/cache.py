"""The key/value cache of incremental decoding: an explicit pytree, passed in and returned."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from lm.config import Learned, ModelConfig
from lm.errors import ConfigError


class Cache(struct.PyTreeNode):
    """Keys and values of the tokens seen so far.

    Slots are filled in the order tokens arrive; which of them a query may attend to follows from
    the tokens' positions, so rows of one batch may hold different numbers of real tokens.
    """

    keys: tuple[Float[Array, "B S K H"], ...]
    values: tuple[Float[Array, "B S K H"], ...]
    positions: Int[Array, "B S"]
    index: Int[Array, ""]

    @property
    def length(self) -> int:
        return self.positions.shape[1]


def init_cache(config: ModelConfig, batch_size: int, length: int) -> Cache:
    """An empty cache of `length` slots.

    Raises:
      ConfigError: learned positions end before `length`.
    """
    check_length(config, length)
    shape = (batch_size, length, config.kv_heads, config.width_of_head)
    zeros = [jnp.zeros(shape, config.compute_dtype) for _ in range(2 * config.num_layers)]
    return Cache(
        keys=tuple(zeros[: config.num_layers]),
        values=tuple(zeros[config.num_layers :]),
        positions=jnp.full((batch_size, length), -1, jnp.int32),
        index=jnp.zeros((), jnp.int32),
    )


def position_limit(config: ModelConfig) -> int | None:
    """How many positions the model knows: learned ones end, every other kind goes on."""
    return config.position.max_length if isinstance(config.position, Learned) else None


def check_length(config: ModelConfig, length: int) -> None:
    """Raises ConfigError where a sequence of `length` tokens has no learned position for each."""
    limit = position_limit(config)
    if limit is not None and length > limit:
        raise ConfigError(
            f"sequence of {length} tokens, but learned positions end at max_length={limit}: "
            "shorten the sequence, or train with a larger model.position.max_length"
        )


def cache_bytes(config: ModelConfig, batch_size: int, length: int) -> int:
    """Bytes that `init_cache` would take."""
    heads = 2 * config.num_layers * config.kv_heads * config.width_of_head
    slot = heads * jnp.dtype(config.compute_dtype).itemsize + 4
    return batch_size * length * slot


def append(slots: jax.Array, new: jax.Array, index: jax.Array) -> jax.Array:
    """`slots` [B, S, ...] with `new` [B, T, ...] written from slot `index` on."""
    start = (jnp.zeros_like(index), index) + (jnp.zeros_like(index),) * (slots.ndim - 2)
    return jax.lax.dynamic_update_slice(slots, new.astype(slots.dtype), start)
