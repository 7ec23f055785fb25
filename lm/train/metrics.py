"""What a run writes down: metrics.jsonl (the truth), samples.jsonl, timing.jsonl and TensorBoard
events.

metrics.jsonl is a pure function of config and seed, so that a resumed run's file equals an
uninterrupted one's byte for byte; what depends on the machine (seconds, tokens/s) is in
timing.jsonl. A line is {"step", "split", <metric>: <value>, ...}; `step` counts finished updates.
samples.jsonl, where a config asks for samples, has {"step", "prompt", "text", "finish_reason"}.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from lm.errors import UserError

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter


SAMPLES = "samples.jsonl"


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics file; a last line cut by a kill is left out.

    Raises:
      UserError: a complete line is not an object with a step.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise UserError(f"{path}:{number} is not a line of metrics: {line[:80]!r}")
        rows.append(row)
    return rows


class MetricsWriter:
    """Appends to a workdir's metrics, from step `start` on: lines of later steps are dropped first.

    Raises:
      UserError: the disk is full.
    """

    def __init__(self, workdir: Path, start: int) -> None:
        self._path = workdir / "metrics.jsonl"
        self._start = start
        with _explained(self._path):
            for name in ("metrics.jsonl", "timing.jsonl", SAMPLES):
                _truncate(workdir / name, start)
        self._file = self._path.open("a", encoding="utf-8")
        self._timing = (workdir / "timing.jsonl").open("a", encoding="utf-8")

    @cached_property
    def _events(self) -> SummaryWriter:
        # With the first line, not before: importing it takes as long as many a step.
        with _without("torch"):
            from tensorboardX import SummaryWriter

        purge_step = self._start + 1 if self._start else None
        return SummaryWriter(str(self._path.parent), purge_step=purge_step)

    @cached_property
    def _samples(self) -> TextIO:
        # Most runs take none, and have no such file.
        return self._path.with_name(SAMPLES).open("a", encoding="utf-8")

    def write(self, step: int, split: str, metrics: Mapping[str, Any]) -> None:
        """One line of metrics; values are float32 numbers, written so that they read back equal."""
        values = {name: _number(value) for name, value in metrics.items()}
        self._append(self._file, {"step": step, "split": split, **values})
        for name, value in values.items():
            self._events.add_scalar(f"{split}/{name}", value, step)

    def write_timing(self, step: int, values: Mapping[str, Any]) -> None:
        """One line of what the machine did: seconds, tokens/s, utilisation."""
        self._append(self._timing, {"step": step, **values})
        for name, value in values.items():
            if value is not None:
                self._events.add_scalar(f"timing/{name}", value, step)

    def write_samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """A line for each of what the model said."""
        for row in rows:
            self._append(self._samples, {"step": step, **row})

    def flush(self) -> None:
        """Makes the lines durable, so that a checkpoint never is ahead of its metrics."""
        with _explained(self._path):
            for file in (self._file, self._timing):
                file.flush()
            os.fsync(self._file.fileno())
            if "_samples" in self.__dict__:
                os.fsync(self._samples.fileno())
            if "_events" in self.__dict__:
                self._events.flush()

    def close(self) -> None:
        """Gives the files back. What cannot be written any more has been an error already."""
        opened = [self.__dict__.get(name) for name in ("_samples", "_events")]
        for closable in (self._file, self._timing, *opened):
            with contextlib.suppress(OSError):
                if closable is not None:
                    closable.close()

    def _append(self, file: TextIO, line: Mapping[str, Any]) -> None:
        with _explained(Path(file.name)):
            file.write(json.dumps(line) + "\n")
            file.flush()


@contextlib.contextmanager
def _without(module: str) -> Iterator[None]:
    """As if `module` were not installed, unless it has been imported: tensorboardX imports torch
    where it finds it, for tensors that nobody gives it here, and keeps 150 MB."""
    hidden = module not in sys.modules
    if hidden:
        sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[module]


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"could not write {path}: {error.strerror}; free some space and run the same command "
            "to continue from the last checkpoint"
        ) from error


def _number(value: Any) -> float | int:
    number = np.asarray(value).item()
    return number if isinstance(number, int) else float(np.float32(number))


def _truncate(path: Path, step: int) -> None:
    """Keeps the lines up to `step`; atomic, so that a kill in the middle loses nothing."""
    if not path.exists():
        return
    kept = [line for line in read_jsonl(path) if line["step"] <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    os.replace(temporary, path)
