"""The key/value cache of incremental decoding: an explicit pytree, passed in and returned."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from lm.config import Learned, ModelConfig
from lm.errors import ConfigError

KeysAndValues = tuple[Float[Array, "B K source H"], Float[Array, "B K source H"]]


class LayerCache(struct.PyTreeNode):
    """One layer's part of a cache; `index` is the slot where the next keys are written."""

    keys: Float[Array, "B K S H"]
    values: Float[Array, "B K S H"]
    index: Int[Array, ""]
    cross: KeysAndValues | None = None


class Cache(struct.PyTreeNode):
    """Keys and values of the tokens seen so far: heads first, as attention multiplies them.

    Slots are filled in the order tokens arrive; which of them a query may attend to follows from
    the tokens' positions, so rows of one batch may hold different numbers of real tokens.
    `cross`: of an encoder-decoder, keys and values of the encoded source, a pair a layer, made when
    the source was given; `source_positions` its positions, -1 where it is padded.
    """

    keys: tuple[Float[Array, "B K S H"], ...]
    values: tuple[Float[Array, "B K S H"], ...]
    positions: Int[Array, "B S"]
    index: Int[Array, ""]
    cross: tuple[KeysAndValues, ...] | None = None
    source_positions: Int[Array, "B source"] | None = None

    @property
    def length(self) -> int:
        return self.positions.shape[1]

    def layer(self, number: int) -> LayerCache:
        cross = None if self.cross is None else self.cross[number]
        return LayerCache(self.keys[number], self.values[number], self.index, cross)

    def updated(self, layers: Sequence[LayerCache], index: Int[Array, ""]) -> Cache:
        """This cache with what the layers made of it."""
        cross = tuple(layer.cross for layer in layers if layer.cross is not None)
        return self.replace(
            keys=tuple(layer.keys for layer in layers),
            values=tuple(layer.values for layer in layers),
            index=index,
            cross=cross or None,
        )


def init_cache(config: ModelConfig, batch_size: int, length: int) -> Cache:
    """An empty cache of `length` slots.

    Raises:
      ConfigError: learned positions end before `length`.
    """
    check_length(config, length)
    return empty_slots(config, batch_size, length)


def empty_slots(config: ModelConfig, batch_size: int, length: int) -> Cache:
    """As `init_cache`, and there may be more slots than positions: not every slot is a token's."""
    shape = (batch_size, config.kv_heads, length, config.width_of_head)
    layers = config.decoder_layers
    zeros = [jnp.zeros(shape, config.compute_dtype) for _ in range(2 * layers)]
    return Cache(
        keys=tuple(zeros[:layers]),
        values=tuple(zeros[layers:]),
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


def cache_bytes(config: ModelConfig, batch_size: int, length: int, source_length: int = 0) -> int:
    """Bytes that `init_cache` would take, and the keys and values of a source."""
    heads = 2 * config.decoder_layers * config.kv_heads * config.width_of_head
    slot = heads * jnp.dtype(config.compute_dtype).itemsize + 4
    return batch_size * (length + source_length) * slot


def append(slots: jax.Array, new: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    """`slots` with `new` written from slot `index` of `axis` on."""
    return jax.lax.dynamic_update_slice_in_dim(slots, new.astype(slots.dtype), index, axis)
