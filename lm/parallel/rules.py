"""Which part of which array lies on which device.

Models name the logical axes of their parameters and know no mesh; the table here is the only place
that connects the two. Whatever follows a parameter through training, optimiser moments and moving
averages, lies where the parameter lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lm.types import BATCH_AXES, PyTree

# Logical axis of a parameter -> mesh axis that splits it; axes that are not listed stay whole.
RULES: Mapping[str, str] = {"embed": "fsdp"}


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, stacked: bool = False) -> NamedSharding:
    """Rows over all devices: of arrays [B, ...], or [K, B, ...] when `stacked`."""
    return NamedSharding(mesh, PartitionSpec(*((None,) if stacked else ()), BATCH_AXES))


def parameter_shardings(boxed_params: PyTree, mesh: Mesh) -> PyTree:
    """The sharding of every parameter, from its logical axis names.

    Args:
      boxed_params: shapes as `eval_shape` of an initialiser gives them, in flax's boxes where a
        parameter has axis names; one without a box is replicated.
    """

    def sharding(leaf: Any) -> NamedSharding:
        names = leaf.names if isinstance(leaf, nn.Partitioned) else ()
        return NamedSharding(mesh, _partition(names, nn.meta.unbox(leaf).shape, mesh))

    is_box = lambda leaf: isinstance(leaf, nn.meta.AxisMetadata)  # noqa: E731
    return jax.tree.map(sharding, boxed_params, is_leaf=is_box)


def state_shardings(boxed_params: PyTree, abstract_state: PyTree, mesh: Mesh) -> PyTree:
    """The sharding of every leaf of a training state, as a tree like `abstract_state`.

    A leaf whose path ends in the path of a parameter of the same shape (the parameter itself, its
    moments, its average) gets the parameter's sharding; every other leaf is replicated.
    """
    shapes = jax.tree_util.tree_leaves_with_path(nn.meta.unbox(boxed_params))
    shardings = jax.tree.leaves(parameter_shardings(boxed_params, mesh))
    table = {
        (_names(path), leaf.shape): sharding
        for (path, leaf), sharding in zip(shapes, shardings, strict=True)
    }

    def of(path: Sequence[Any], leaf: Any) -> NamedSharding:
        names = _names(path)
        for start in range(len(names)):
            found = table.get((names[start:], leaf.shape))
            if found is not None:
                return found
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(of, abstract_state)


def _names(path: Sequence[Any]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _partition(names: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """A mesh axis for each dimension that has one, at most once, where its size divides evenly."""
    axes: list[str | None] = []
    for name, size in zip(names, shape, strict=True) if names else ():
        axis = RULES.get(name) if name else None
        fits = axis is not None and axis not in axes and size % mesh.shape[axis] == 0
        axes.append(axis if fits else None)
    return PartitionSpec(*axes)
