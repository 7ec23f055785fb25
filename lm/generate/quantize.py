"""Weights in eight bits, to take a quarter of the memory (and of the time to read it)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm.generate.arrange import is_linear, transposed
from lm.generate.screen import SCREEN
from lm.model.quantized import quantized
from lm.types import Params


def quantize(params: Params) -> Params:
    """Parameters with int8 kernels and token embeddings, for whatever applies the model but does
    not train it.

    Symmetric and by output channel: a row of the int8 matrix [outputs, inputs] times its float32
    scale is what the channel's weights are rounded to, each by at most half the scale, which is
    1/127 of the channel's largest weight (Dettmers et al. 2022, section 2.1). Biases, norms and the
    embeddings of positions and types, which are small, stay. `params` may have been arranged.
    """
    # The screen stands for float32 embeddings, which are not kept.
    return _walk({name: node for name, node in params.items() if name != SCREEN}, "")


def _walk(node: Any, name: str) -> Any:
    if name == "token_embedding":
        return quantized(node["embedding"])
    if not isinstance(node, Mapping):
        return node
    node = dict(node)
    if is_linear(node):
        return quantized(transposed(node.pop("kernel"), name)) | node
    if "transposed" in node:
        return quantized(node.pop("transposed")) | node
    return {key: _walk(value, key) for key, value in node.items()}
