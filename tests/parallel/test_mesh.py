"""Meshes from configs, and the ones that cannot be."""

from __future__ import annotations

import jax
import pytest

from lm.config import ParallelConfig
from lm.errors import ConfigError
from lm.parallel.mesh import make_mesh


@pytest.mark.parametrize(
    ("data", "fsdp", "shape"),
    [(-1, 1, (4, 1)), (-1, 2, (2, 2)), (1, -1, (1, 4)), (2, 2, (2, 2)), (1, 4, (1, 4))],
)
def test_shapes(data: int, fsdp: int, shape: tuple[int, int]) -> None:
    mesh = make_mesh(ParallelConfig(data=data, fsdp=fsdp))
    assert mesh.axis_names == ("data", "fsdp")
    assert mesh.devices.shape == shape
    assert set(mesh.devices.flat) == set(jax.devices())


def test_a_mesh_over_some_devices() -> None:
    mesh = make_mesh(ParallelConfig(), jax.devices()[:3])
    assert mesh.devices.shape == (3, 1)


@pytest.mark.parametrize(
    ("data", "fsdp", "message"),
    [
        (3, 1, "mesh data=3 x fsdp=1 needs 3 devices, there are 4"),
        (4, 2, "mesh data=4 x fsdp=2 needs 8 devices, there are 4"),
        (-1, 3, "parallel.data=-1: 4 devices cannot be divided by parallel.fsdp=3"),
        (-1, -1, "only one can be left open"),
        (0, 1, "parallel.data must be a positive number or -1, not 0"),
        (1, -2, "parallel.fsdp must be a positive number or -1, not -2"),
    ],
)
def test_a_mesh_that_does_not_fit_names_the_numbers(data: int, fsdp: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_mesh(ParallelConfig(data=data, fsdp=fsdp))
