"""What a model says of the devices that its activations lie on."""

from __future__ import annotations

import math

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Float

from lm.types import BATCH_AXES


def split_rows(x: Float[jax.Array, "B ..."]) -> Float[jax.Array, "B ..."]:
    """x, its rows over the devices as those of the batch; as it is where no mesh with such axes is
    set, or where they do not divide the rows.

    Left alone, XLA follows the table of embeddings, whose width is split over "fsdp": of the rows
    every device along that axis would then compute all.
    """
    mesh = jax.sharding.get_abstract_mesh()
    sizes = dict(zip(mesh.axis_names, mesh.axis_sizes))
    kinds = dict(zip(mesh.axis_names, mesh.axis_types))
    axes = tuple(name for name in BATCH_AXES if kinds.get(name) == AxisType.Auto)
    devices = math.prod(sizes[name] for name in axes)
    if devices == 1 or x.shape[0] % devices:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes))


def device_count() -> int:
    """Over how many devices the batch seen here is spread: those of the mesh that tracing is under
    (`jax.set_mesh`), without the axes that are mapped by hand (`jax.pmap`); 1 where there is none.
    """
    mesh = jax.sharding.get_abstract_mesh()
    sizes = zip(mesh.axis_sizes, mesh.axis_types)
    return math.prod(size for size, kind in sizes if kind != AxisType.Manual)
