"""A copy of a training state, made between two steps, that the steps after it leave alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.errors import UserError
from lm.types import PyTree


class Snapshot(NamedTuple):
    """The copy, and whether its parameters are finite: a boolean scalar, perhaps to come."""

    state: PyTree
    finite: Any

    def check(self, step: int) -> None:
        """Waits for the flag. Raises UserError where a parameter is not finite."""
        if not bool(self.finite):
            raise UserError(
                f"step {step}: the last update made parameters that are not finite; nothing was "
                "saved. A lower learning rate, more warm-up or clip_norm usually helps"
            )


class Snapshots:
    """Takes snapshots of states of one structure and of the parameters among them.

    The copy lies beside the original, on the same devices and in the same parts, and is only
    dispatched: it runs when the step before it is done, and the step after it, which overwrites the
    original, waits for it on the device. It takes the memory of one more state until it is dropped.
    Where an accelerator has no room for that, the copy is made on the host, and the caller waits
    for the transfer.
    """

    def __init__(self) -> None:
        self._program: Callable[..., Any] | None = None
        self._on_device = True

    def prepare(self, state: PyTree, params: PyTree) -> None:
        """Compiles what copies, and decides where to. A training step should have run: what it
        takes counts."""
        leaves = _arrays(state)
        self._on_device = _fits(leaves)
        copied = leaves if self._on_device else []
        program = jax.jit(
            lambda leaves, params: ([jnp.copy(x) for x in leaves], all_finite(params)),
            # The copy keeps the original's parts; the flag lies wherever it is computed.
            out_shardings=([x.sharding for x in copied], None),
        )
        self._program = program.lower(copied, params).compile()

    def take(self, state: PyTree, params: PyTree) -> Snapshot:
        """A snapshot of `state`, which may be overwritten once this returns. `params` are checked:
        the parameters to evaluate."""
        if self._program is None:
            self.prepare(state, params)
        assert self._program is not None
        leaves, structure = jax.tree.flatten(state)
        arrays = _arrays(state)
        copies, finite = self._program(arrays if self._on_device else [], params)
        if not self._on_device:
            copies = jax.device_get(arrays)
        found = iter(copies)
        copied = [next(found) if isinstance(x, jax.Array) else np.array(x) for x in leaves]
        return Snapshot(jax.tree.unflatten(structure, copied), finite)


def all_finite(params: PyTree) -> jax.Array:
    """Whether every parameter is a finite number; of none, true."""
    flags = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
    return jnp.stack([jnp.asarray(True), *flags]).all()


def _arrays(state: PyTree) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)]


def _fits(leaves: Sequence[jax.Array]) -> bool:
    """Whether every device has room for a second state beside the most that it has held. A CPU,
    whose memory is the process's, does not say."""
    needed: Counter[jax.Device] = Counter()
    for leaf in leaves:
        for shard in leaf.addressable_shards:
            needed[shard.device] += shard.data.nbytes
    for device, size in needed.items():
        known = device.memory_stats() or {}
        if "bytes_limit" in known and known["peak_bytes_in_use"] + size > known["bytes_limit"]:
            return False
    return True
