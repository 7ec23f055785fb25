"""A cell of a sweep on the machine it runs on: `lm train` in a process, begun again where that
may help, and the record of it that everybody reads, cell.json."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm.errors import EXIT_PREEMPTED, EXIT_USAGE, ConfigError, UserError
from lm.reproduce.cell import Cell, same_run
from lm.train.workdir import CONFIG, locked, read_config, read_json, write_json

RECORD, LOG = "cell.json", "log.txt"
# What a finished or lost cell's record says; "waiting" and "running" are those before.
ENDS = ("finished", "failed", "stopped")
# How long a run that was asked to stop may take to save before the next one begins in its folder.
_SAVING_SECONDS = 120.0
# The seconds that a killed machine takes from a record's wall-clock at most.
_NOTE_SECONDS = 5.0
_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Job:
    """A cell to run, with all that another machine has to know: plain values.

    Attributes:
      directory: what the paths in the cell's config are relative to.
      environment: variables that decide what a run computes, as they are where the sweep is.
      retries: how often a cell that failed is begun again.
    """

    cell: Cell
    workdir: Path
    directory: Path
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    retries: int = 1

    @property
    def command(self) -> str:
        """What a person types, in `directory`, for the same run."""
        return shlex.join(["lm", *self.arguments])


def read_record(workdir: Path) -> dict[str, Any]:
    """The cell's record: "state", "why", "attempts", "seconds", and what the cell is."""
    path = workdir / RECORD
    return read_json(path) if path.exists() else {"state": "waiting", "attempts": 0, "seconds": 0.0}


def note(workdir: Path, **changes: Any) -> None:
    """Changes values in the cell's record."""
    write_json(workdir / RECORD, {**read_record(workdir), **changes})


def prepare(job: Job) -> None:
    """Makes the cell's folder, with its record.

    Raises:
      ConfigError: the folder holds another cell, or a run that is not a cell.
    """
    cell, workdir = job.cell, job.workdir
    workdir.mkdir(parents=True, exist_ok=True)
    old = read_record(workdir).get("digest")
    if old is None and (workdir / "config.json").exists():
        raise ConfigError(f"{workdir} holds a run that no sweep made: name another --workdir")
    if old not in (None, cell.digest) and not _is_the_run(workdir, cell):
        raise ConfigError(
            f"the cell {cell.name} in {workdir} was another one ({old}, now {cell.digest}): its "
            f"config changed since. {workdir / RECORD} says what it was; give the new one another "
            "name or --workdir, or remove the folder"
        )
    note(
        workdir,
        name=cell.name,
        digest=cell.digest,
        config=cell.config,
        overrides=dict(cell.overrides),
        seed=cell.seed,
        command=job.command,
        directory=str(job.directory),
    )


def _is_the_run(workdir: Path, cell: Cell) -> bool:
    """Whether the folder's run is the cell's as its config is read today: a field that came since
    the record was made, with a default, makes no other run."""
    if not (workdir / CONFIG).exists():
        return False
    try:
        return same_run(read_config(workdir), cell.resolve())
    except ConfigError:
        return False


class Running:
    """A cell being run on this machine. To be polled; from one thread, which has to outlive it.

    A process that was asked to stop by somebody else (exit status 75: it has saved) is begun again
    without further ado; one that failed, `retries` times; one that was called wrongly, never.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._stopping = False
        self._failures = 0
        self._ended: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        _await_free(job.workdir)
        self._start()

    def poll(self) -> str | None:
        """None while it runs; else how it ended: one of ENDS, as its record then says."""
        if self._ended is not None:
            return self._ended
        assert self._process is not None
        status = self._process.poll()
        if status is None:
            if time.monotonic() - self._noted > _NOTE_SECONDS:
                self._note()
            return None
        if status == 0:
            return self._end("finished")
        if self._stopping:
            return self._end("stopped", "asked to stop")
        if status != EXIT_PREEMPTED:
            self._failures += 1
            if status == EXIT_USAGE or self._failures > self.job.retries:
                return self._end("failed", _words(status))
        self._note(why=_words(status))
        self._start()
        return None

    def stop(self) -> None:
        """Asks the run to save and stop; `poll` says when it has."""
        self._stopping = True
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the run at once."""
        self._stopping = True
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _start(self) -> None:
        job, record = self.job, read_record(self.job.workdir)
        self._seconds, self._began = record["seconds"], time.monotonic()
        attempt = record["attempts"] + 1
        self._note(state="running", attempts=attempt)
        command = [sys.executable, "-m", "lm.cli.main", *job.arguments]
        with (job.workdir / LOG).open("ab") as log:
            log.write(f"--- attempt {attempt}: {job.command}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lm.reproduce.bound", str(os.getpid()), *command],
                cwd=job.directory,
                env={**os.environ, **job.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C on the terminal is the sweep's: it asks its runs to stop, each once.
                start_new_session=True,
            )

    def _note(self, **changes: Any) -> None:
        self._noted = time.monotonic()
        seconds = self._seconds + self._noted - self._began
        note(self.job.workdir, seconds=round(seconds, 1), **changes)

    def _end(self, state: str, why: str = "") -> str:
        self._note(state=state, why=why)
        self._ended = state
        return state


def _await_free(workdir: Path) -> None:
    """Waits while a run that lost its sweep saves what it has, in the same folder."""
    deadline = time.monotonic() + _SAVING_SECONDS
    while time.monotonic() < deadline:
        try:
            with locked(workdir):
                return
        except UserError:
            time.sleep(0.2)


def _words(status: int) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"


def end_of(path: Path) -> list[str]:
    """The last lines of a file that may be long, or not be there."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return lines[1:] if size > _TAIL_BYTES else lines


def log_tail(workdir: Path, lines: int = 12) -> str:
    """The end of what the cell's runs printed."""
    return "\n".join(end_of(workdir / LOG)[-lines:]) or "(nothing)"
