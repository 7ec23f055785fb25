"""The device mesh. Axes: `data` holds copies of the parameters, `fsdp` holds parts of them; the
batch is split over both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from lm.config import ParallelConfig
from lm.errors import ConfigError

AXES = ("data", "fsdp")


def make_mesh(config: ParallelConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes `AXES` over all devices (of all hosts), or over the ones given.

    A size of -1 is whatever number of devices the other axis leaves.

    Raises:
      ConfigError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"data": config.data, "fsdp": config.fsdp}
    for name, size in sizes.items():
        if size < 1 and size != -1:
            raise ConfigError(f"parallel.{name} must be a positive number or -1, not {size}")
    open_axes = [name for name, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise ConfigError("parallel.data and parallel.fsdp are both -1: only one can be left open")
    count, fixed = len(devices), math.prod(size for size in sizes.values() if size != -1)
    if open_axes:
        if count % fixed:
            (other,) = (name for name in sizes if name not in open_axes)
            raise ConfigError(
                f"parallel.{open_axes[0]}=-1: {count} devices cannot be divided by "
                f"parallel.{other}={fixed}; choose a divisor of {count}"
            )
        sizes[open_axes[0]] = count // fixed
    elif fixed != count:
        raise ConfigError(
            f"mesh data={sizes['data']} x fsdp={sizes['fsdp']} needs {fixed} devices, there are "
            f"{count}; set one of them to -1, or their product to {count}"
        )
    shape = tuple(sizes[name] for name in AXES)
    # Auto axes: under jax.make_mesh's default (Explicit), linen's matmuls are refused.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
