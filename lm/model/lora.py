"""Low-rank adapters among a model's parameters (Hu et al. 2021).

An adapter of a projection stands beside its kernel W, as `lora_a/kernel` [inputs, rank] and
`lora_b/kernel` [rank, outputs], and `lm.model.layers.Linear` adds (x A) B wherever it finds one: a
model is the same module and the same config with adapters and without. (Adding A B to W before the
model is applied would leave that one line out, too, but then the backward pass makes the gradient
of every W, as large and as slow as in full training, and x cannot have dropout.)

Everything here is a function of nested dicts of parameters; B holds no scale but in `active`.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.config import LoRA
from lm.errors import ConfigError
from lm.model.layers import LORA_A, LORA_B, LORA_DROPOUT, input_axes
from lm.types import Key, Params

_LISTED = 5
_LAYER = re.compile(r"((?:.*/)?)layer_(\d+)/(.*)")


def is_adapter(path: str) -> bool:
    """Whether a parameter (`layer_0/mlp/up/lora_a/kernel`) is one of an adapter."""
    return not {LORA_A, LORA_B}.isdisjoint(path.split("/"))


def freezes(lora: LoRA, path: str) -> bool:
    """Whether a parameter is neither of an adapter nor trained beside them."""
    return not is_adapter(path) and re.fullmatch(lora.trained, path) is None


def with_adapters(params: Params, lora: LoRA, key: Key) -> Params:
    """Adds adapters to the projections that `lora.targets` matches: A uniform within
    1 / sqrt(inputs), as in the authors' code, and B zero, so that the model is what it was.

    Args:
      params: perhaps with logical axis names (flax's boxes), which the adapters then have too.

    Raises:
      ConfigError: no projection matches.
    """
    projections: list[str] = []
    found: list[str] = []

    def add(path: str, node: Mapping[str, Any]) -> dict[str, Any]:
        projections.append(path)
        if re.fullmatch(lora.targets, path) is None:
            return {}
        found.append(path)
        return _adapter(path, node["kernel"], lora, jax.random.fold_in(key, _number(path)))

    result = _walk(params, lambda path, node: {**node, **add(path, node)})
    if not found:
        shown = ", ".join(projections[:_LISTED])
        raise ConfigError(
            f"train.lora.targets={lora.targets!r} matches no projection; there are {shown} ..."
        )
    return result


def _number(path: str) -> int:
    return zlib.crc32(path.encode())


def _adapter(path: str, kernel: Any, lora: LoRA, key: Key) -> dict[str, Any]:
    shape = nn.meta.unbox(kernel).shape
    count = input_axes(path.split("/")[-1], len(shape))
    bound = 1 / math.sqrt(math.prod(shape[:count]))
    a: Any = jax.random.uniform(key, (*shape[:count], lora.rank), jnp.float32, -bound, bound)
    b: Any = jnp.zeros((lora.rank, *shape[count:]), jnp.float32)
    if isinstance(kernel, nn.Partitioned):
        a = kernel.replace(value=a, names=(*kernel.names[:count], None))
        b = kernel.replace(value=b, names=(None, *kernel.names[count:]))
    return {LORA_A: {"kernel": a}, LORA_B: {"kernel": b}}


def alike(params: Params) -> bool:
    """Whether all layers of a stack have adapters in the same places, as those that are scanned
    must."""
    stacks: dict[str, dict[str, set[str]]] = {}
    for path, _ in jax.tree_util.tree_leaves_with_path(nn.meta.unbox(params)):
        found = _LAYER.fullmatch(jax.tree_util.keystr(path, simple=True, separator="/"))
        if found is not None:
            stacks.setdefault(found[1], {}).setdefault(found[2], set()).add(found[3])
    return all(len(set(map(frozenset, layers.values()))) == 1 for layers in stacks.values())


def active(params: Params, lora: LoRA) -> Params:
    """The parameters as a model is applied with them while its adapters are trained."""

    def scaled(path: str, node: Mapping[str, Any]) -> dict[str, Any]:
        if LORA_B not in node:
            return dict(node)
        more = {LORA_DROPOUT: jnp.float32(lora.dropout)} if lora.dropout else {}
        return {**node, LORA_B: {"kernel": node[LORA_B]["kernel"] * lora.scale}, **more}

    return _walk(params, scaled)


def merged(params: Params, lora: LoRA) -> Params:
    """The parameters of a model without adapters that computes the same."""

    def merge(path: str, node: Mapping[str, Any]) -> dict[str, Any]:
        if LORA_A not in node:
            return dict(node)
        factors = node[LORA_A]["kernel"], node[LORA_B]["kernel"]
        kernel = merged_kernel(node["kernel"], *factors, lora.scale)
        return {**_without(node), "kernel": kernel}

    return _walk(params, merge)


def merged_kernel(kernel: Any, a: Any, b: Any, scale: float) -> Any:
    """W + scale * A B, float32: of numpy arrays in numpy."""
    if isinstance(kernel, np.ndarray):
        return kernel + np.float32(scale) * np.tensordot(a, b, axes=1)
    return kernel + scale * jnp.tensordot(a, b, axes=1, precision=jax.lax.Precision.HIGHEST)


def without_adapters(params: Params) -> Params:
    """The base model's own parameters."""
    return _walk(params, lambda path, node: _without(node))


def rebased(params: Params, base: Params) -> Params:
    """`params` with those of `base` in the place of all that is not an adapter's."""
    return {
        name: value
        if name in (LORA_A, LORA_B)
        else rebased(value, base[name])
        if isinstance(value, Mapping)
        else base[name]
        for name, value in params.items()
    }


def _without(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in node.items() if name not in (LORA_A, LORA_B)}


def _walk(
    node: Mapping[str, Any],
    change: Callable[[str, Mapping[str, Any]], dict[str, Any]],
    path: str = "",
) -> dict[str, Any]:
    """A copy in which every projection, a dict with a kernel, is what `change` makes of it."""
    if "kernel" in node:
        return change(path, node)
    below = f"{path}/" if path else ""
    return {
        name: _walk(value, change, f"{below}{name}") if isinstance(value, Mapping) else value
        for name, value in node.items()
    }
