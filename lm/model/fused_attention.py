"""cuDNN's fused attention: which calls it takes, and how a `Mask` is put to it.

It keeps no T x S scores, forward or backward, and skips what a causal mask hides. What it cannot do
exactly stays with `lm.model.attention.attend`.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lm.config.model import CUDNN_HEAD_WIDTHS
from lm.errors import ConfigError
from lm.model.masks import Mask


def obstacle(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: Mask,
    *,
    cached: bool = False,
    biased: bool = False,
    cap: float | None = None,
    dropout: float = 0.0,
) -> str | None:
    """Why cuDNN does not take this call; None where it does. Looks at shapes and dtypes alone.

    Args:
      cached: keys and values are a cache's.
      biased: something is added to the scores.
      cap, dropout: on scores and probabilities, in this call.
    """
    others = sorted({x.dtype.name for x in (query, key, value)} - {"bfloat16"})
    sizes = (*query.shape, *key.shape)
    if others:
        return f"it computes in bfloat16, not {others[0]}"
    if cached:
        return "a cache has slots that are empty"
    if biased or cap is not None or dropout:
        return "it takes no bias, softcap or dropout"
    if not all(isinstance(size, int) for size in sizes):
        return "a size is open, in a program that is exported"
    length, num_keys, width = query.shape[1], key.shape[1], query.shape[-1]
    if width not in CUDNN_HEAD_WIDTHS:
        return f"a head's width is a multiple of 8 up to {CUDNN_HEAD_WIDTHS[-1]}, not {width}"
    if min(length, num_keys) < 2:
        return "there is one query or key"
    if _form(mask, length, num_keys) == "array":
        if length % 2 or num_keys % 2:
            return f"a mask needs even lengths, not {length} and {num_keys}"
        # On Hopper cuDNN 9.20 pads the last 128 keys of a mask with zeros, and where all scores of
        # a query are below -88 its gradient becomes NaN (pytorch/pytorch#196678).
        if num_keys % 128 == 64:
            return f"gradients through a mask of {num_keys} keys may be NaN"
    return None


def lacking() -> str | None:
    """What this machine lacks for cuDNN's attention; None where it has it."""
    if jax.default_backend() != "gpu":
        return "there is no GPU"
    capability = compute_capability()
    # An AMD GPU says gfx and a number.
    if not capability.replace(".", "").isdigit() or float(capability) < 8.0:
        return (
            f"the GPU's compute capability is {capability or 'unknown'}, not 8.0 (Ampere) or more"
        )
    return None


def compute_capability() -> str:
    """Of the first GPU, as "9.0"; "" where it says none."""
    return str(getattr(jax.local_devices()[0], "compute_capability", ""))


def use_cudnn(kernel: Literal["auto", "blocks", "cudnn"], reason: str | None) -> bool:
    """Whether a call goes to cuDNN, by `ModelConfig.attention_kernel` and the call's `obstacle`.

    Raises:
      ConfigError: cuDNN is asked for by name and takes the call, but this machine lacks it.
    """
    if kernel == "blocks" or reason is not None:
        return False
    missing = lacking()
    if missing is not None and kernel == "cudnn":
        raise ConfigError(
            f'model.attention_kernel="cudnn", but {missing}: set it to "auto", which computes the '
            "same in blocks where there is no cuDNN"
        )
    return missing is None


def attend_fused(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: Mask,
    *,
    scale: float,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "B T N H"]:
    """What `lm.model.attention.attend` computes from the same mask, of a call without `obstacle`.

    A query that may attend to nothing gets the values of keys it should not see: meaningless, but
    finite, as its gradient is. `implementation` of "xla" is JAX's own, for any dtype and machine.
    """
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        scale=scale,
        implementation=implementation,
        **_arguments(mask, query.shape[1], key.shape[1]),
    )


def _arguments(mask: Mask, num_queries: int, num_keys: int) -> dict[str, Any]:
    """The mask as `jax.nn.dot_product_attention` takes it."""
    form = _form(mask, num_queries, num_keys)
    if form == "none":
        return {}
    by_index = _by_index(mask, num_queries, num_keys)
    if form == "flags":
        # A window alone says how far back: without the flag cuDNN would show all later keys.
        window = None if mask.window is None else (min(mask.window, num_keys) - 1, 0)
        return {"is_causal": by_index, "local_window_size": window}
    allowed = mask.materialise(num_queries, num_keys)
    assert allowed is not None
    # What is hidden is -2e12 to cuDNN, not left out: a query with nothing else would have that for
    # the logarithm of its sum, from which the gradient's exponentials overflow.
    allowed = allowed | ~allowed.any(axis=-1, keepdims=True)
    shape = (allowed.shape[0], 1, num_queries, num_keys)
    # The flag says again what the array says, so that blocks of later keys can be skipped. A window
    # stays in the array: not every version of cuDNN takes one beside it.
    return {"is_causal": by_index, "mask": jnp.broadcast_to(allowed, shape)}


def _form(mask: Mask, num_queries: int, num_keys: int) -> Literal["none", "flags", "array"]:
    """How a mask is put to cuDNN: not at all, by what is known before running, or as an array, of
    which it has a copy in bfloat16 and makes a gradient that nobody asked for."""
    segments = mask.query_segments is not None and mask.key_segments is not None
    if segments or mask.allowed is not None or not _plain(mask):
        return "array"
    if not mask.causal and mask.window is None:
        return "none"
    return "flags" if _by_index(mask, num_queries, num_keys) else "array"


def _by_index(mask: Mask, num_queries: int, num_keys: int) -> bool:
    """Whether the mask allows no key whose index is after the query's. cuDNN aligns the first query
    with the first key, so there have to be as many."""
    return mask.causal and (_plain(mask) or mask.in_order) and num_queries == num_keys


def _plain(mask: Mask) -> bool:
    """Positions are indices."""
    return mask.query_positions is None and mask.key_positions is None
