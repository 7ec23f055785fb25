"""Parameters by the names of their places: `layer_0/attention/query/kernel`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from lm.types import PyTree


def name_of(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def map_with_path(function: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """`jax.tree.map` whose function takes the path joined by '/' first."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(name_of(path), *leaves), tree, *rest
    )
