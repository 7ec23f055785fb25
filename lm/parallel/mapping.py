"""Two ways to run one pure step on many devices, chosen by the config, behind one interface."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from lm.config import ParallelConfig
from lm.errors import ConfigError
from lm.parallel.data_parallel import DataParallel
from lm.parallel.kept import Kept
from lm.parallel.mesh import make_mesh
from lm.parallel.program import Mapped, Program
from lm.parallel.sharded import Sharded


def build_mapping(
    config: ParallelConfig,
    program: Program,
    *,
    batch_size: int,
    microbatches: int = 1,
    devices: Sequence[jax.Device] | None = None,
    kept: Kept | None = None,
) -> Mapped:
    """The mapping that a config asks for, over all devices or the ones given. Mapping 'sharded'
    looks for its compiled programs among the `kept`, and leaves them there.

    Raises:
      ConfigError: the mesh does not fit the devices, or the batch does not divide by them.
    """
    if config.mapping == "data_parallel" and config.fsdp != 1:
        raise ConfigError(
            f"parallel.fsdp={config.fsdp}: mapping 'data_parallel' keeps whole parameters on every "
            "device; use mapping 'sharded', or fsdp=1"
        )
    mesh = make_mesh(config, devices)
    _check_rows(batch_size, microbatches, mesh.size)
    if config.mapping == "sharded":
        return Sharded(program, mesh, kept)
    return DataParallel(program, mesh)


def _check_rows(rows: int, microbatches: int, devices: int) -> None:
    if rows % (microbatches * devices) == 0:
        return
    step = microbatches * devices
    near = sorted({max(step, rows // step * step), -(-rows // step) * step})
    parts = f" in microbatches={microbatches}" if microbatches > 1 else ""
    less = ", fewer microbatches" if microbatches > 1 else ""
    raise ConfigError(
        f"batch_size={rows}{parts} is not divisible by {devices} devices; use a batch_size of "
        f"{' or '.join(map(str, near))}{less}, or another number of devices"
    )
