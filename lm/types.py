"""Shared type aliases and the glossary of array axes.

Axes, in einsum letters and jaxtyping strings alike:

    B  batch            T  query/target position    S  key/source position
    D  model width      N  query heads              K  key/value heads
    H  head width       F  feed-forward width       V  vocabulary
    L  layers
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

PyTree = Any
Params = Mapping[str, Any]
Key = jax.Array
# One example's or one batch's named arrays: numpy on the host, jax.Array on the device.
Batch = Mapping[str, Any]
Features = dict[str, np.ndarray]
Metrics = dict[str, Any]

# The axes of a mesh over which the rows of a batch are split, all together.
BATCH_AXES = ("data", "fsdp")
