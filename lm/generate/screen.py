"""The likeliest token of one row, read from a quarter of the output embeddings' bytes, exactly.

Decoding one row reads every weight once a token, and of a small model the output embeddings are
half of them. In int8 they tell each logit to within a bound that is known for every token (Cauchy
and Schwarz: the vector's length times what rounding took from the token's). Only tokens whose upper
bound reaches the highest lower one can be the likeliest; their logits are computed from the float32
embeddings. There are one or two of a trained model and of a random one; where there are too many,
all logits are computed.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm.config import ModelConfig
from lm.generate.sampling import likeliest
from lm.model.quantized import quantized, quantized_product
from lm.types import Params

# Where arranged parameters have what follows.
SCREEN = "screen"
# Bytes of a table from which on this is faster: it takes some twenty operations of its own.
LEAST_BYTES = 2**24
# Tokens are told apart by blocks, of which so many are looked at.
BLOCK, BLOCKS = 64, 16


def screen_of(config: ModelConfig, params: Params) -> Params:
    """{SCREEN: ...} for parameters that `lm.generate.arrange` prepares for one row; empty where the
    head has a bias or a soft cap, is not float32, or is small."""
    plain = not config.lm_head_bias and config.logit_softcap is None
    if config.lm_head == "none" or not plain or config.compute_dtype != "float32":
        return {}
    table = _table(params)
    if table is None or table.dtype != jnp.float32 or table.nbytes < LEAST_BYTES:
        return {}
    return {SCREEN: _screen(table)}


def _table(params: Params) -> Float[Array, "V D"] | None:
    """The output embeddings, a token a row: tied ones, or the head's own where it is arranged."""
    if "lm_head" in params:
        return params["lm_head"].get("transposed")
    return params["token_embedding"].get("embedding")


@jax.jit
def _screen(table: Float[Array, "V D"]) -> dict[str, jax.Array]:
    """Int8 rows with their scales, the lengths of what they kept and of what they lost."""
    table = jnp.pad(table, ((0, -len(table) % BLOCK), (0, 0)))
    screen = quantized(table)
    kept = screen["quantized"] * screen["scale"][:, None]
    return screen | {
        "kept": jnp.linalg.norm(kept, axis=1),
        "lost": jnp.linalg.norm(table - kept, axis=1),
    }


def likeliest_of_few(
    params: Params, x: Float[Array, "one D"], vocab_size: int
) -> Int[Array, " one"]:
    """The id below `vocab_size` with the highest logit, where `x` is what the output embeddings are
    multiplied with (`WithHeads.readout`). Of ids whose logits differ by no more than float32
    products round, either."""
    screen: dict[str, jax.Array] = params[SCREEN]
    table: Any = _table(params)
    approximate = quantized_product(x, screen["quantized"], screen["scale"])[0]
    length = jnp.linalg.norm(x)
    # Sums of D products round too: in the int8 product, and in the one that is not made.
    rounding = 2 * x.shape[1] * jnp.finfo(jnp.float32).eps
    off = length * (screen["lost"] + rounding * screen["kept"])
    known = jnp.arange(len(off)) < vocab_size
    lowest = jnp.max(jnp.where(known, approximate - off, -jnp.inf))
    upper = jnp.where(known, approximate + off, -jnp.inf).reshape(-1, BLOCK)
    count = min(BLOCKS, len(upper) - 1)
    highest, blocks = jax.lax.top_k(jnp.max(upper, axis=1), count + 1)

    def of_few() -> Int[Array, " one"]:
        # In ascending order: of equals the first.
        ids = jnp.sort(blocks[:count])[:, None] * BLOCK + jnp.arange(BLOCK)
        ids = ids.reshape(-1)
        rows = jnp.take(table, jnp.minimum(ids, vocab_size - 1), axis=0)
        logits = jnp.where(ids < vocab_size, rows @ x[0], -jnp.inf)
        return ids[likeliest(logits[None])]

    def of_all() -> Int[Array, " one"]:
        return likeliest(x @ table[:vocab_size].T)

    # Also false where x is not finite.
    return jax.lax.cond(highest[count] < lowest, of_few, of_all)
