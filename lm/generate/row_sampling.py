"""Choosing tokens where every row has settings of its own, known only when the program runs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm.generate.sampling import keep_top_p
from lm.types import Key


def sample_rows(
    keys: Key,
    logits: Float[Array, "B V"],
    temperature: Float[Array, " B"],
    top_p: Float[Array, " B"],
    top_k: Int[Array, " B"],
) -> Int[Array, " B"]:
    """`lm.generate.sampling.sample` with a temperature (0: the likeliest token), a top-p (1: all)
    and a top-k (0: all) a row. What no row asks for is not computed."""
    warm = temperature > 0

    def draw() -> Array:
        scaled = logits - jnp.max(logits, axis=-1, keepdims=True)
        scaled = scaled / jnp.where(warm, temperature, 1.0)[:, None]
        few = (warm & (top_k > 0))[:, None]

        def likeliest_only() -> Array:
            return jnp.where(few, _keep_top_k(scaled, top_k), scaled)

        scaled = jax.lax.cond(jnp.any(few), likeliest_only, lambda: scaled)
        whole = (top_p[:, None] >= 1.0) | ~warm[:, None]

        def nucleus() -> Array:
            return jnp.where(whole, scaled, keep_top_p(scaled, top_p[:, None]))

        kept = jax.lax.cond(jnp.all(whole), lambda: scaled, nucleus)
        return jax.vmap(jax.random.categorical)(keys, kept).astype(jnp.int32)

    likeliest = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    drawn = jax.lax.cond(jnp.any(warm), draw, lambda: likeliest)
    return jnp.where(warm, drawn, likeliest)


def _keep_top_k(logits: Float[Array, "B V"], k: Int[Array, " B"]) -> Float[Array, "B V"]:
    """As `lm.generate.sampling.keep_top_k`, with a k a row."""
    last = logits.shape[-1] - 1
    kth = jnp.clip(logits.shape[-1] - k, 0, last)[:, None]
    least = jnp.take_along_axis(jnp.sort(logits, axis=-1), kth, axis=-1)
    return jnp.where(logits >= least, logits, -jnp.inf)
