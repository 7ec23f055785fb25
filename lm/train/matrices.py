"""Optimisers that see the matrices of the layers as matrices, whatever axes their kernels have."""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers

from lm.model.layers import LORA_A, input_axes
from lm.train.paths import map_with_path
from lm.types import PyTree


def of_matrices(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, which sees every kernel of a layer as the matrix [inputs, outputs] that it is: of
    [D, N, H] Adafactor would factor D and H, or nothing where a head is narrow."""

    def matrix(path: str, x: jax.Array) -> jax.Array:
        if not is_layer_matrix(path):
            return x
        inputs, _ = _matrix_axes(path, x)
        return x.reshape(math.prod(x.shape[axis] for axis in inputs), -1)

    def init(params: PyTree) -> Any:
        return inner.init(map_with_path(matrix, params))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> Any:
        seen = None if params is None else map_with_path(matrix, params)
        new, state = inner.update(map_with_path(matrix, updates), state, seen)
        return jax.tree.map(lambda u, old: u.reshape(old.shape), new, updates), state

    return optax.GradientTransformation(init, update)


def is_layer_matrix(path: str) -> bool:
    """The matrices inside the layers: not embeddings, output head, norms or biases."""
    return re.fullmatch(r"(.*/)?layer_\d+/.*/kernel", path) is not None


def _matrix_axes(path: str, kernel: jax.Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which axes of a kernel are its input and its output: query, key, value are [D, N, H] and
    read D; the attention's output is [N, H, D] and reads N and H together."""
    axes = tuple(range(kernel.ndim))
    # An adapter's A ends in its rank, its B begins with it.
    count = kernel.ndim - 1 if f"/{LORA_A}/" in path else input_axes(path.split("/")[-2], len(axes))
    return axes[:count], axes[count:]


def muon_dimensions(params: PyTree) -> PyTree:
    return map_with_path(
        lambda path, kernel: MuonDimensionNumbers(*_matrix_axes(path, kernel)), params
    )


def muon_factor(path: str, kernel: jax.Array) -> float:
    """sqrt(max(1, outputs / inputs)): equal changes of activations at any shape (Jordan 2024)."""
    inputs, outputs = _matrix_axes(path, kernel)
    fan_in = math.prod(kernel.shape[axis] for axis in inputs)
    fan_out = math.prod(kernel.shape[axis] for axis in outputs)
    return math.sqrt(max(1.0, fan_out / fan_in))
