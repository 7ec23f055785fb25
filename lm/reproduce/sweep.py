"""Sweeps: many runs that are pure data, each in a folder of its own, done once and resumed.

A cell is an experiment with some values changed and a seed; its digest is that of the config it
comes to. `run_sweep` runs those that are not finished, on an engine (`lm.reproduce.engines`) that
decides where and when and nothing else: whatever runs a cell, the result is the same bit for bit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lm.errors import UserError
from lm.reproduce.cell import Cell, CellResult, check_cells

if TYPE_CHECKING:
    from lm.reproduce.engines import Engine
    from lm.reproduce.sweep_cell import Job

# What decides what a run computes, beside its config, or where it finds what it reads.
_ENVIRONMENT = ("JAX_", "XLA_", "LIBTPU_", "NVIDIA_TF32", "LM_", "NPROC", "OMP_")


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
      UserError: another process works on this sweep; an engine that is not installed; the data of
        a finished cell changed since.
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
        _check_data(jobs, data_root, quiet=quiet)
        with StopRequest() as stop, Watch(jobs, quiet=quiet):
            stop.defer()
            chosen.run(jobs, stop)
        write_digests(jobs)
        results = [collect(job) for job in jobs]
        write_summary(workdir / "sweep.json", jobs, results)
    return results


def _check_data(jobs: Sequence[Job], data_root: Path | None, *, quiet: bool) -> None:
    """Raises UserError where a finished cell, which is left alone, was trained on other data than
    there is now. (One that goes on checks for itself.)"""
    from lm.data.roots import cache_root
    from lm.data.tokenizer import load_tokenizer
    from lm.reproduce.finished import DataNow, Prints
    from lm.reproduce.sweep_cell import read_record
    from lm.train.workdir import TOKENIZER, read_config, run_data_root, sessions

    def report(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr)

    data = DataNow(cache_root(), report)
    flag = None if data_root is None else str(data_root)
    for job in jobs:
        known = sessions(job.workdir)
        if read_record(job.workdir)["state"] != "finished" or not known:
            continue
        changed = data.changed(
            Prints.of_session(known[-1]),
            read_config(job.workdir),
            run_data_root(job.workdir, flag),
            load_tokenizer(job.workdir / TOKENIZER),
        )
        if changed:
            raise UserError(
                f"{job.workdir} is finished, and since then {changed}: restore the files, remove "
                "that folder, or name another --workdir"
            )


def _arguments(cell: Cell, workdir: Path, data_root: Path | None) -> tuple[str, ...]:
    """Of `lm`, for the run of a cell."""
    flags = [f"--config={cell.config}", f"--workdir={workdir}"]
    flags += [f"--config.{key}={value}" for key, value in cell.changes]
    if data_root is not None:
        flags.append(f"--data_root={data_root.expanduser().absolute()}")
    return ("train", *flags)
