"""Checkpoints written and read one parameter at a time, whatever their size.

`write_checkpoint` makes an ordinary step of `lm.train.checkpoint.Checkpoints` whose state holds
parameters alone; each is made when its turn comes, written, and forgotten.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from lm.train.integrity import write_checksums
from lm.train.orbax_errors import explained, quieten_orbax

# Bytes of a parameter that are compressed at once.
_CHUNK = 1 << 26


@dataclass(frozen=True)
class LazyArray:
    """A parameter that `read` makes, of this shape and dtype, C-contiguous."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class _OneAtATime(ocp.type_handlers.NumpyHandler):
    """Writes `LazyArray`s as numpy arrays are written, each before the next is made."""

    async def serialize(
        self, values: Sequence[Any], infos: Sequence[Any], args: Sequence[Any] | None = None
    ) -> Sequence[Any]:
        for value, info, arg in zip(values, infos, args or [ocp.SaveArgs()] * len(values)):
            for written in await super().serialize([value.read()], [info], [arg]):
                await asyncio.to_thread(written.result)
        return []


def write_checkpoint(
    directory: Path, params: Mapping[str, Any], *, data: Mapping[str, Any], meta: Mapping[str, Any]
) -> None:
    """Writes step 0 of a new folder of checkpoints: a nested dict of `LazyArray`s.

    Raises:
      UserError: the disk is full, or what a parameter's `read` raises.
    """
    quieten_orbax()
    registry = ocp.type_handlers.create_type_handler_registry(
        (LazyArray, _OneAtATime(deepcopy_host_arrays=False))
    )
    state = {"params": params}
    in_chunks = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK), state)
    with explained(directory):
        manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(create=True, enable_async_checkpointing=False),
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(type_handler_registry=registry),
                "data": ocp.JsonCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
        )
        manager.save(
            0,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(state, save_args=in_chunks),
                data=ocp.args.JsonSave(dict(data)),
                meta=ocp.args.JsonSave(dict(meta)),
            ),
        )
        manager.close()
        write_checksums(directory / "0")
