"""Snapshots: equal, apart, in the same parts, and honest about numbers that are none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lm.config import ParallelConfig
from lm.errors import UserError
from lm.parallel.mesh import make_mesh
from lm.train import snapshot
from lm.train.snapshot import Snapshots

_overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0, tree), donate_argnums=0)


def make_state() -> dict:
    mesh = make_mesh(ParallelConfig(data=2, fsdp=2))
    parts = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    whole = NamedSharding(mesh, PartitionSpec())
    return {
        "params": {"kernel": jax.device_put(jnp.arange(32.0).reshape(4, 8), parts)},
        "step": jax.device_put(jnp.int32(3), whole),
        "ema": None,
        "host": np.arange(3, dtype=np.float64),
    }


@pytest.mark.parametrize("room", [True, False])
def test_what_was_taken_stays(room: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the devices, part beside part; or on the host, where they have no room."""
    monkeypatch.setattr(snapshot, "_fits", lambda leaves: room)
    state, snapshots = make_state(), Snapshots()
    taken = []
    for _ in range(2):
        taken.append(snapshots.take(state, state["params"]))
        state["params"] = _overwrite(state["params"])
        state["host"] *= 2
    first, second = taken
    first.check(1)
    np.testing.assert_array_equal(first.state["params"]["kernel"], np.arange(32).reshape(4, 8))
    np.testing.assert_array_equal(second.state["params"]["kernel"], np.zeros((4, 8)))
    np.testing.assert_array_equal(first.state["host"], np.arange(3))
    assert first.state["ema"] is None and first.state["host"].dtype == np.float64
    kernel = first.state["params"]["kernel"]
    assert isinstance(kernel, jax.Array if room else np.ndarray)
    if room:
        assert kernel.sharding == make_state()["params"]["kernel"].sharding


def test_a_parameter_that_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    state, snapshots = make_state(), Snapshots()
    for value in (jnp.nan, jnp.inf):
        params = {"kernel": state["params"]["kernel"].at[3, 7].set(value)}
        with pytest.raises(UserError, match="step 7: .* not finite; nothing was saved"):
            snapshots.take(state, params).check(7)
    snapshots.take(state, state["params"]).check(7)


def test_room_is_what_the_most_that_was_held_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        def __init__(self, limit: int) -> None:
            self.stats = {"bytes_limit": limit, "peak_bytes_in_use": 100}

        def memory_stats(self) -> dict[str, int]:
            return self.stats

    class Shard:
        def __init__(self, device: Device) -> None:
            self.device, self.data = device, np.zeros(10, np.float32)

    class Leaf:
        def __init__(self, *devices: Device) -> None:
            self.addressable_shards = [Shard(device) for device in devices]

    enough, little = Device(180), Device(179)
    assert snapshot._fits([Leaf(enough), Leaf(enough)])
    assert not snapshot._fits([Leaf(enough, little), Leaf(enough, little)])
