"""The parameters of a checkpoint one at a time, as those of a model without adapters."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from lm.config import LoRA
from lm.model.layers import LORA_A, LORA_B
from lm.model.lora import is_adapter, merged_kernel
from lm.train.restoring import Restoring, named_shapes


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
        return self._checkpoints.read_leaf(self._step, (*self._path, *path.split("/")))
