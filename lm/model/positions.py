"""Position schemes, each a function of positions alone.

Nothing here looks at array indices, so packed rows, left-padded prompts and cached decoding need no
code of their own: they differ in the positions they pass. Everything is computed in float32.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def sinusoidal(
    positions: Int[Array, "*batch T"], width: int, base: float = 10000.0
) -> Float[Array, "*batch T {width}"]:
    """sin at even and cos at odd dimensions (Vaswani et al. 2017, section 3.5)."""
    angles = _angles(positions, -(-width // 2) * 2, base)
    pairs = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return pairs.reshape(*angles.shape[:-1], -1)[..., :width]


def _angles(positions: Array, width: int, base: float) -> Array:
    """position / base^(2i / width) for i in 0 .. width/2 - 1, on a new last axis."""
    # In float64 on the host: base ** x in float32 is off by several units in the last place.
    frequencies = np.asarray(base ** (-np.arange(0, width, 2) / width), np.float32)
    return positions[..., None].astype(jnp.float32) * frequencies


def rotary_tables(
    positions: Int[Array, "#B T"], width: int, base: float = 10000.0
) -> tuple[Float[Array, "#B T half"], Float[Array, "#B T half"]]:
    """Cosines and sines of the rotation angles, for the `width` rotated dimensions of a head."""
    angles = _angles(positions, width, base)
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
    distance: Int[Array, "*shape"], num_buckets: int, max_distance: int
) -> Int[Array, "*shape"]:
    """The bucket of a query's distance to an earlier key (T5, Raffel et al. 2020, section 2.1).

    The first half of the buckets are the distances 0, 1, ... themselves; the other half grow
    logarithmically up to `max_distance`, and the last holds everything beyond. Distances below 0
    (later keys) fall into bucket 0: the decoder's mask hides them.
    """
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
) -> Float[Array, "#B N T S"]:
    """The trained bias of every head for the distance of query and key."""
    bucket = t5_bucket(query[:, :, None] - key[:, None, :], embedding.shape[0], max_distance)
    return jnp.moveaxis(jnp.take(embedding, bucket, axis=0), -1, 1)
