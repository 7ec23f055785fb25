"""Position schemes, each a function of positions alone.

Nothing here looks at array indices, so packed rows, left-padded prompts and cached decoding need no
code of their own: they differ in the positions they pass. Everything is computed in float32.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lm.config import LinearScaling, Llama3Scaling, Rotary, Sinusoidal


def sinusoidal(
    positions: Int[Array, "*batch T"], width: int, config: Sinusoidal
) -> Float[Array, "*batch T {width}"]:
    """Sines and cosines of the positions (Vaswani et al. 2017, section 3.5), laid out as the config
    says. An odd width leaves out the last cosine; tensor2tensor's last column is zero then."""
    positions = positions + config.offset
    if config.layout == "interleaved":
        angles = _angles(positions, _powers(config.base, width))
        both = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return both.reshape(*angles.shape[:-1], -1)[..., :width]
    if config.layout == "halves":
        angles = _angles(positions, _powers(config.base, width))
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)[..., :width]
    half = width // 2
    exponents = np.arange(half) / max(half - 1, 1)
    angles = _angles(positions, config.base**-exponents)
    both = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jnp.pad(both, [(0, 0)] * (both.ndim - 1) + [(0, width - 2 * half)])


def _powers(base: float, width: int) -> np.ndarray:
    """base^(-2i / width) for i in 0 .. width/2 - 1."""
    # In float64 on the host: base ** x in float32 is off by several units in the last place.
    return base ** (-np.arange(0, width, 2) / width)


def _angles(positions: Array, frequencies: np.ndarray) -> Array:
    """position * frequency, on a new last axis."""
    return positions[..., None].astype(jnp.float32) * np.asarray(frequencies, np.float32)


def rotary_frequencies(config: Rotary, width: int) -> np.ndarray:
    """Radians a position for each of the width / 2 rotated pairs, float64."""
    frequencies = _powers(config.base, width)
    scaling = config.scaling
    if isinstance(scaling, LinearScaling):
        return frequencies / scaling.factor
    if isinstance(scaling, Llama3Scaling):
        turns = scaling.original_length * frequencies / (2 * np.pi)
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
        return frequencies * (kept + (1 - kept) / scaling.factor)
    return frequencies


def rotary_tables(
    positions: Int[Array, "#B T"], width: int, config: Rotary
) -> tuple[Float[Array, "#B T half"], Float[Array, "#B T half"]]:
    """Cosines and sines of the rotation angles, for the `width` rotated dimensions of a head."""
    angles = _angles(positions, rotary_frequencies(config, width))
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "B T N H"],
    tables: tuple[Float[Array, "#B T half"], Float[Array, "#B T half"]],
    *,
    interleaved: bool,
) -> Float[Array, "B T N H"]:
    """Rotates the first 2 * half dimensions of every head by its position (Su et al. 2021).

    Dimension i is paired with i + half, or with its neighbour when `interleaved`.
    """
    cosines, sines = (table[:, :, None, :] for table in tables)
    width = 2 * cosines.shape[-1]
    turned, rest = x[..., :width].astype(jnp.float32), x[..., width:]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
    else:
        a, b = jnp.split(turned, 2, axis=-1)
    a, b = a * cosines - b * sines, b * cosines + a * sines
    if interleaved:
        turned = jnp.stack([a, b], axis=-1).reshape(turned.shape)
    else:
        turned = jnp.concatenate([a, b], axis=-1)
    turned = turned.astype(x.dtype)
    return turned if width == x.shape[-1] else jnp.concatenate([turned, rest], axis=-1)


def alibi_slopes(num_heads: int) -> np.ndarray:
    """The slope of every head, [N] (Press et al. 2022, section 3).

    2^(-8 i / N) for i = 1 .. N when N is a power of two. Otherwise the slopes of the power of two
    below N, followed by every other slope of the power of two above.
    """
    below = 2 ** int(math.log2(num_heads))
    slopes = 2.0 ** (-8.0 * np.arange(1, below + 1) / below)
    if below < num_heads:
        slopes = np.concatenate([slopes, alibi_slopes(2 * below)[0::2][: num_heads - below]])
    return slopes.astype(np.float32)


def alibi_bias(
    query: Int[Array, "#B T"], key: Int[Array, "#B S"], num_heads: int
) -> Float[Array, "#B N T S"]:
    """-slope * distance, to be added to the attention scores."""
    distance = (query[:, None, :, None] - key[:, None, None, :]).astype(jnp.float32)
    return jnp.abs(distance) * -alibi_slopes(num_heads)[:, None, None]


def t5_bucket(
    distance: Int[Array, "*shape"], num_buckets: int, max_distance: int, both_ways: bool = False
) -> Int[Array, "*shape"]:
    """The bucket of a query's distance to an earlier key (T5, Raffel et al. 2020, section 2.1).

    The first half of the buckets are the distances 0, 1, ... themselves; the other half grow
    logarithmically up to `max_distance`, and the last holds everything beyond. Later keys (distance
    below 0) fall into bucket 0, the decoder's mask hides them; with `both_ways` the upper half of
    all buckets is theirs, divided in the same way.
    """
    if both_ways:
        half = num_buckets // 2
        bucket = t5_bucket(jnp.abs(distance), half, max_distance)
        return jnp.where(distance < 0, bucket + half, bucket)
    exact = num_buckets // 2
    distance = jnp.maximum(distance, 0)
    # log(0) would be chosen nowhere, but cast to an integer on the way.
    log_ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact)
    steps = log_ratio / math.log(max_distance / exact) * (num_buckets - exact)
    far = jnp.minimum(exact + steps.astype(jnp.int32), num_buckets - 1)
    return jnp.where(distance < exact, distance, far)


def t5_bias(
    embedding: Float[Array, "buckets N"],
    query: Int[Array, "#B T"],
    key: Int[Array, "#B S"],
    max_distance: int,
    both_ways: bool = False,
) -> Float[Array, "#B N T S"]:
    """The trained bias of every head for the distance of query and key."""
    distance = query[:, :, None] - key[:, None, :]
    bucket = t5_bucket(distance, embedding.shape[0], max_distance, both_ways)
    return jnp.moveaxis(jnp.take(embedding, bucket, axis=0), -1, 1)


def relative_sinusoids(
    num_queries: int, num_keys: int, width: int, clamp_length: int | None
) -> Float[Array, "distances {width}"]:
    """Sines, then cosines, of the distances num_keys, num_keys - 1 ... 1 - num_queries, one a row
    (Dai et al. 2019, appendix B)."""
    distances = np.arange(num_keys, -num_queries, -1)
    if clamp_length is not None:
        distances = np.clip(distances, -clamp_length, clamp_length)
    angles = _angles(jnp.asarray(distances), _powers(10000.0, width))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def by_distance(x: Float[Array, "B N T distances"], num_keys: int) -> Float[Array, "B N T S"]:
    """From columns by distance, as `relative_sinusoids` orders them, to columns by key.

    The distance of query i to key j is (num_keys - T) + i - j: column T - i + j. Read row by row
    that is one place later a row less than there are columns, so dropping the first T numbers and
    re-dividing the rest brings every row into place.
    """
    batch, heads, length, distances = x.shape
    flat = x.reshape(batch, heads, length * distances)[..., length:]
    return flat.reshape(batch, heads, length, distances - 1)[..., :num_keys]


def relative_keys(
    query: Float[Array, "B T N H"],
    vectors: Float[Array, "R N H"],
    distance: Int[Array, "#B T S"] | None,
) -> Float[Array, "B N T S"]:
    """The product of every query with the vector of its distance to each key (Shaw et al. 2018):
    distances below 0 count as 0, those beyond the table as its last. None are queries and keys that
    are the same tokens, in order."""
    length, farthest = query.shape[1], len(vectors) - 1

    def in_order(query: jax.Array, vectors: jax.Array, num_keys: int) -> jax.Array:
        distances = np.arange(num_keys, -length, -1).clip(0, farthest)
        products = jnp.einsum(
            "btnh,rnh->bntr", query, vectors[distances], preferred_element_type=jnp.float32
        )
        return by_distance(products, num_keys)

    if distance is None:
        return in_order(query, vectors, length)

    def anyhow(query: jax.Array, vectors: jax.Array) -> jax.Array:
        products = jnp.einsum("btnh,rnh->bntr", query, vectors, preferred_element_type=jnp.float32)
        rows = jnp.broadcast_to(distance, (len(query), *distance.shape[1:]))
        return jnp.take_along_axis(products, rows.clip(0, farthest)[:, None], axis=-1)

    # Rows that are one text each are in order though their positions are told: looking up every
    # pair by itself takes, with its gradient, several times as long as all else.
    num_keys = distance.shape[-1]
    ordered = np.arange(num_keys - length, num_keys)[:, None] - np.arange(num_keys)
    return jax.lax.cond(
        jnp.all(distance == ordered),
        functools.partial(in_order, num_keys=num_keys),
        anyhow,
        query,
        vectors,
    )
