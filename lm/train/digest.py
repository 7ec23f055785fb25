"""SHA-256 of states: equal digests mean equal runs, bit for bit."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jax
import numpy as np

from lm.types import PyTree


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
