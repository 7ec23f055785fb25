"""Sweeps: many runs that are pure data, each in a folder of its own, done once and resumed.

A cell is an experiment with some values changed and a seed; its digest is that of the config it
comes to. `run_sweep` runs those that are not finished, on an engine (`lm.reproduce.engines`) that
decides where and when and nothing else: whatever runs a cell, the result is the same bit for bit.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lm import config as configs
from lm.config import Config
from lm.errors import ConfigError
from lm.train.experiment import load_config

if TYPE_CHECKING:
    from lm.reproduce.engines import Engine

Status = Literal["finished", "failed", "stopped"]

# What changes no result: only what is kept of the way there, and how fast it is gone.
INDIFFERENT = (
    "train.log_every",
    "checkpoint.every",
    "checkpoint.keep_last",
    "checkpoint.asynchronous",
    "data.read_threads",
    "data.prefetch",
)
# Why a cell was stopped that a scheduler will not have continued.
FELL_BEHIND = "fell behind"
_NAME = re.compile(r"[\w+=@,][\w+=@,.-]*")
_RESERVED = ("sweep.json",)
# What decides what a run computes, beside its config, or where it finds what it reads.
_ENVIRONMENT = ("JAX_", "XLA_", "LIBTPU_", "NVIDIA_TF32", "LM_", "NPROC", "OMP_")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: `lm train` on `config` (FILE.py or FILE.py:VARIANT) with `overrides`
    (dotted keys of the config to plain values) and `seed`, in the folder `name`."""

    name: str
    config: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def changes(self) -> list[tuple[str, str]]:
        """What `--config.KEY=VALUE` says on a command line, as (key, value)."""
        return [*((key, repr(v)) for key, v in self.overrides.items()), ("seed", str(self.seed))]

    def resolve(self) -> Config:
        """The whole config. Raises ConfigError, naming the cell, where it cannot be meant."""
        try:
            return load_config(self.config, self.changes)
        except ConfigError as error:
            raise ConfigError(f"cell {self.name or self.label}: {error}") from None

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 of the resolved config, without what changes no result."""
        values = configs.to_dict(self.resolve())
        for key in INDIFFERENT:
            section, name = key.split(".")
            values[section].pop(name)
        return configs.fingerprint(values)

    @property
    def label(self) -> str:
        """What is special about the cell, in one line."""
        return " ".join(f"{key}={value}" for key, value in self.overrides.items()) or self.config

    @property
    def title(self) -> str:
        """The name; of a cell that has its digest for one, with what is special about it."""
        if self.name != self.digest:
            return self.name
        return f"{self.name[:8]} {self.label} seed={self.seed}"


@dataclass(frozen=True)
class CellResult:
    """What became of a cell.

    Attributes:
      status: "finished"; "failed" as often as it was tried; "stopped" before its end, by a signal
        or by a scheduler that saw it lose.
      digest: SHA-256 of what `lm inspect` calls the run's digests: of its parameters, the
        optimiser's state and the data's position. None where it is not finished.
      metrics: from metrics.jsonl: "step"; "train/loss" and the like, the last; "SPLIT/loss" and the
        like, the last evaluation; "best/step" and "best/SPLIT/loss" and the like, the evaluation at
        which the config's checkpoint.metric was best on the first of data.validation.
      seconds: wall-clock of all attempts.
      why: what is to be said of one that is not finished.
    """

    cell: Cell
    workdir: Path
    status: Status
    digest: str | None
    metrics: Mapping[str, float]
    seconds: float
    attempts: int = 1
    why: str = ""

    @property
    def interrupted(self) -> bool:
        """Whether the same call would continue it."""
        return self.status == "stopped" and self.why != FELL_BEHIND


def check_cells(cells: Sequence[Cell]) -> None:
    """Raises ConfigError where a cell's config cannot be meant, its name is no name of a folder, or
    two of them have the same name or would be the same run."""
    for cell in cells:
        if not _NAME.fullmatch(cell.name) or cell.name in _RESERVED:
            raise ConfigError(
                f"cell {cell.name!r}: the name is that of a folder: letters, digits and _+=@,.- "
                "that begin with none of .-"
            )
    for name, times in Counter(cell.name for cell in cells).items():
        if times > 1:
            raise ConfigError(f"{times} cells have the name {name}: give each its own")
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.digest, cell)
        if other is not cell:
            raise ConfigError(
                f"the cells {other.name} and {cell.name} are the same run ({cell.digest}: "
                f"{other.label}, seed {other.seed}, and {cell.label}, seed {cell.seed}): leave "
                "one out"
            )


def run_sweep(
    cells: Sequence[Cell],
    workdir: Path,
    engine: Engine | str = "local",
    *,
    data_root: Path | None = None,
    retries: int = 1,
    quiet: bool = False,
) -> list[CellResult]:
    """Runs what is not finished of `cells`, each in `workdir`/<its name>, and writes sweep.json.

    A finished cell is left alone, one that was killed, stopped or failed goes on from its last
    checkpoint. SIGTERM and SIGINT stop the runs, which save; they are "stopped" then, and the same
    call continues them.

    Args:
      engine: one of `lm.reproduce.engines.ENGINES`, or an engine with settings.
      data_root: of `lm train`.
      retries: how often a cell that failed is begun again.
      quiet: no table on stderr.

    Returns one result a cell, in the order of `cells`.

    Raises:
      ConfigError: as `check_cells`; or the folder of a cell has another cell's run.
      UserError: another process works on this sweep; an engine that is not installed.
    """
    # Not before they are needed: listing the cells of a sweep takes no JAX.
    from lm.reproduce.engines import build_engine
    from lm.reproduce.sweep_cell import Job, prepare
    from lm.reproduce.sweep_results import collect, write_digests, write_summary
    from lm.reproduce.sweep_table import Watch
    from lm.train.preemption import StopRequest
    from lm.train.workdir import locked

    check_cells(cells)
    workdir = workdir.expanduser().absolute()
    chosen = build_engine(engine) if isinstance(engine, str) else engine
    environment = {k: v for k, v in os.environ.items() if k.startswith(_ENVIRONMENT)}
    jobs = [
        Job(
            cell=cell,
            workdir=workdir / cell.name,
            directory=Path.cwd(),
            arguments=_arguments(cell, workdir / cell.name, data_root),
            environment=environment,
            retries=retries,
        )
        for cell in cells
    ]
    with locked(workdir):
        for job in jobs:
            prepare(job)
        with StopRequest() as stop, Watch(jobs, quiet=quiet):
            stop.defer()
            chosen.run(jobs, stop)
        write_digests(jobs)
        results = [collect(job) for job in jobs]
        write_summary(workdir / "sweep.json", jobs, results)
    return results


def _arguments(cell: Cell, workdir: Path, data_root: Path | None) -> tuple[str, ...]:
    """Of `lm`, for the run of a cell."""
    flags = [f"--config={cell.config}", f"--workdir={workdir}"]
    flags += [f"--config.{key}={value}" for key, value in cell.changes]
    if data_root is not None:
        flags.append(f"--data_root={data_root.expanduser().absolute()}")
    return ("train", *flags)
