"""The parameters of a checkpoint one at a time, as those of a model without adapters.

A read of a checkpoint costs a tenth of a second whatever it reads, so parameters are read together
with those after them, a few MB at a time: mostly they are asked for in order."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lm.config import LoRA
from lm.model.layers import LORA_A, LORA_B
from lm.model.lora import is_adapter, merged_kernel
from lm.train.restoring import Restoring, named_shapes

# Bytes that are read, and kept, at once; a larger parameter is read alone and not kept.
_AHEAD = 1 << 24


class Parameters:
    """Of the checkpoint of `step` those below `path`, such as ("params",), by their own paths.

    `shapes` are the model's, `adapters` those of the adapters, which are part of what `read` gives.
    """

    def __init__(
        self, checkpoints: Restoring, step: int, path: Sequence[str], lora: LoRA | None
    ) -> None:
        self._checkpoints, self._step, self._lora = checkpoints, step, lora
        self._path = tuple(path)
        state = checkpoints.find(step).state
        shapes = named_shapes(functools.reduce(operator.getitem, self._path, state))
        self.shapes = {name: shape for name, shape in shapes.items() if not is_adapter(name)}
        self.adapters = {name: shape for name, shape in shapes.items() if is_adapter(name)}
        self._groups = groups(shapes)
        self._ahead: dict[str, np.ndarray] = {}

    def read(self, path: str) -> np.ndarray:
        """One parameter, merged with its adapter where it has one."""
        own = self.read_raw(path)
        place = path.removesuffix("/kernel")
        if f"{place}/{LORA_A}/kernel" not in self.adapters:
            return own
        assert self._lora is not None
        a, b = (self.read_raw(f"{place}/{name}/kernel") for name in (LORA_A, LORA_B))
        return merged_kernel(own, a, b, self._lora.scale)

    def data(self) -> dict[str, Any]:
        """Where the data stood, and the fingerprints of what was read."""
        return self._checkpoints.restore_parts((), self._step).data

    def read_raw(self, path: str) -> np.ndarray:
        """One parameter or adapter, as it was trained."""
        if path not in self._ahead:
            self._ahead = {}
            names = {"/".join((*self._path, name)): name for name in self._groups[path]}
            found = self._checkpoints.read_leaves(self._step, names)
            self._ahead = {names[name]: array for name, array in found.items()}
        if len(self._groups[path]) == 1:
            return self._ahead.pop(path)
        return self._ahead[path]


def groups(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[str]]:
    """For each parameter those that are read with it: its neighbours in a tree's order."""
    found: dict[str, list[str]] = {}
    group: list[str] = []
    size = 0
    for name in sorted(shapes, key=lambda name: name.split("/")):
        more = 4 * math.prod(shapes[name])
        if group and size + more > _AHEAD:
            group, size = [], 0
        group.append(name)
        size += more
        found[name] = group
    return found
