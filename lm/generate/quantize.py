"""Weights in eight bits, to take a quarter of the memory (and of the time to read it)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lm.generate.arrange import is_linear, transposed
from lm.model.quantized import LARGEST
from lm.types import Params


def quantize(params: Params) -> Params:
    """Parameters with int8 kernels and token embeddings, for whatever applies the model but does
    not train it.

    Symmetric and by output channel: a row of the int8 matrix [outputs, inputs] times its float32
    scale is what the channel's weights are rounded to, each by at most half the scale, which is
    1/127 of the channel's largest weight (Dettmers et al. 2022, section 2.1). Biases, norms and the
    embeddings of positions and types, which are small, stay. `params` may have been arranged.
    """
    return _walk(params, "")


def _walk(node: Any, name: str) -> Any:
    if name == "token_embedding":
        return _quantized(node["embedding"])
    if not isinstance(node, Mapping):
        return node
    node = dict(node)
    if is_linear(node):
        return _quantized(transposed(node.pop("kernel"), name)) | node
    if "transposed" in node:
        return _quantized(node.pop("transposed")) | node
    return {key: _walk(value, key) for key, value in node.items()}


@jax.jit
def _quantized(weights: jax.Array) -> dict[str, jax.Array]:
    """[outputs, inputs] in int8, and a scale for each output."""
    wide = weights.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axis=1)
    scale = jnp.where(largest > 0, largest / LARGEST, 1.0)
    return {"quantized": jnp.round(wide / scale[:, None]).astype(jnp.int8), "scale": scale}
