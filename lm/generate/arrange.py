"""Weights in the order that decoding reads them fastest, made once and not for every token."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from lm.config import ModelConfig
from lm.generate.screen import SCREEN, screen_of
from lm.types import Params

# The layer with a kernel of several input axes: attention's output projection, [N, H, D].
_JOINS_HEADS = "output"


def arrange(
    model: nn.Module, params: Params, rows: int | None = None, *, greedy: bool = False
) -> Params:
    """`params` for decoding on a CPU; elsewhere as they are.

    With a copy of a tied output embedding that has a vector a column: a product of few rows with
    the table itself takes 1.2 to 1.6 times as long. And for a single one of `rows`, with kernels
    [outputs, inputs] in place of theirs, which such a product reads 1.2 to 1.4 times as fast, and
    one of several rows more slowly. `greedy` says that the likeliest token is taken each time and
    no log-probabilities are asked for: a single row then reads a quarter of the bytes of a large
    output embedding (`lm.generate.screen`).

    The result is for `generate` and whatever else applies the model, and not to be trained or
    saved. Who generates often does this once; `generate` makes the copy of the embedding itself,
    where there is none.
    """
    if jax.default_backend() != "cpu":
        return params
    if rows == 1:
        params = _walk(params, "")
    config: ModelConfig = model.config
    if rows == 1 and greedy and SCREEN not in params:
        params = {**params, **screen_of(config, params)}
    embedding = params.get("token_embedding", {})
    tied = config.tie_embeddings and config.lm_head != "none"
    if not tied or "embedding" not in embedding or "columns" in embedding:
        return params
    columns = transposed(embedding["embedding"], "token_embedding")
    return {**params, "token_embedding": {**embedding, "columns": columns}}


def _walk(node: Any, name: str) -> Any:
    if is_linear(node):
        rest = {key: value for key, value in node.items() if key != "kernel"}
        return {**rest, "transposed": transposed(node["kernel"], name)}
    if not isinstance(node, Mapping):
        return node
    return {key: _walk(value, key) for key, value in node.items()}


def is_linear(node: Any) -> bool:
    """Whether these are the parameters of a `lm.model.layers.Linear`."""
    return isinstance(node, Mapping) and "kernel" in node


@functools.partial(jax.jit, static_argnames="name")
def transposed(kernel: jax.Array, name: str) -> jax.Array:
    """The kernel of the layer `name` as a matrix [outputs, inputs]."""
    inputs = kernel.shape[:-1] if name == _JOINS_HEADS else kernel.shape[:1]
    return kernel.reshape(math.prod(inputs), -1).T
