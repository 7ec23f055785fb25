"""SHA-256 of states: equal digests mean equal runs, bit for bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lm.types import PyTree

# The fields of a state that `state_digests` looks at.
DIGESTED = ("params", "opt_state", "ema")


def tree_digest(tree: PyTree) -> str:
    """SHA-256 over every leaf's path, dtype, shape and bytes, in the tree's order."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def json_digest(value: Any) -> str:
    """SHA-256 of JSON values, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def state_digests(state: Mapping[str, PyTree], data: Mapping[str, Any]) -> dict[str, str]:
    """What a run has come to: the digests of its parameters, its optimiser's state and its average,
    where it has them, and of the data's position. `state` has the fields DIGESTED."""
    digests = {"params": tree_digest(state["params"]), "data": json_digest(data)}
    # A converted model has no optimiser's state, and few runs keep an average.
    for name, field in (("optimizer", "opt_state"), ("ema", "ema")):
        if state[field] is not None:
            digests[name] = tree_digest(state[field])
    return digests
