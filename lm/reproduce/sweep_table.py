"""The table of a sweep: while it runs, on stderr, and at its end."""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.reproduce.cell import CellResult
from lm.reproduce.sweep_cell import LOG, Job, end_of, log_tail, read_record
from lm.reproduce.sweep_results import TRAIN, Group, groups_of
from lm.train.workdir import METRICS

# What `lm.train.progress` prints now and then.
_PROGRESS = re.compile(r"step (\d+)/(\d+)  loss (\S+) .*ETA (\S+)")
_LOOK_EVERY = 1.0
# How often it is said how far runs are, where nothing can be drawn over.
_SAY_EVERY = 60.0
_ORDER = ("running", "failed", "stopped", "waiting", "finished")


@dataclass(frozen=True)
class Row:
    """A cell at a moment. `step` and `loss` are as printed, "" where there is nothing to say."""

    name: str
    state: str
    attempts: int
    seconds: float
    step: str = ""
    loss: str = ""
    eta: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        took = clock(self.seconds) if self.seconds else ""
        return (self.name, self.state, self.step, self.loss, took, self.eta)


HEADER = ("cell", "state", "step", "loss", "time", "ETA")


def look(job: Job) -> Row:
    """How far the cell is, from its folder."""
    record = read_record(job.workdir)
    state = record["state"]
    row = Row(job.cell.title, state, record["attempts"], record["seconds"])
    if state == "running":
        said = [m for m in map(_PROGRESS.match, end_of(job.workdir / LOG)) if m]
        if said:
            step, total, loss, eta = said[-1].groups()
            row = Row(row.name, state, row.attempts, row.seconds, f"{step}/{total}", loss, eta)
    else:
        line = _last_evaluation(job.workdir)
        if line is not None:
            loss = f"{line['loss']:.4f}" if "loss" in line else ""
            row = Row(row.name, state, row.attempts, row.seconds, str(line["step"]), loss)
    return row


def _last_evaluation(workdir: Path) -> dict[str, Any] | None:
    for text in reversed(end_of(workdir / METRICS)):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line["split"] != TRAIN:
            return line
    return None


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours before them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first two columns to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = []
    for row in (header, *rows):
        columns = enumerate(zip(row, widths))
        lines.append("  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in columns))
    return [line.rstrip() for line in lines]


class Watch:
    """Shows on stderr how the jobs do, as long as it is entered: a table drawn over and over on a
    terminal, in a log a line for what happens to a cell and, each minute, for those that run."""

    def __init__(self, jobs: Sequence[Job], *, quiet: bool = False) -> None:
        self._jobs, self._quiet = jobs, quiet
        self._terminal = sys.stderr.isatty()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweep table", daemon=True)
        self._rows: dict[str, Row] = {}
        self._height = 0
        self._said = time.monotonic()

    def __enter__(self) -> Watch:
        if not self._quiet:
            self._rows = {job.cell.name: look(job) for job in self._jobs}
            self._say_what_there_is()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._quiet:
            self._over.set()
            self._thread.join()
            self._refresh()

    def _run(self) -> None:
        while not self._over.wait(_LOOK_EVERY):
            self._refresh()

    def _refresh(self) -> None:
        before = self._rows
        self._rows = {
            job.cell.name: before[job.cell.name]
            if before[job.cell.name].state == "finished"
            else look(job)
            for job in self._jobs
        }
        news = [
            line
            for job in self._jobs
            for line in _news(job, before[job.cell.name], self._rows[job.cell.name])
        ]
        if self._terminal:
            failed = [line for line in news if "\n" in line]
            self._draw(failed)
            return
        if time.monotonic() - self._said > _SAY_EVERY:
            self._said = time.monotonic()
            news += [" ".join(r.columns) for r in self._rows.values() if r.state == "running"]
        for line in news:
            print(line, file=sys.stderr, flush=True)

    def _say_what_there_is(self) -> None:
        done = sum(row.state == "finished" for row in self._rows.values())
        if done:
            print(f"{done} of {len(self._rows)} cells are finished already", file=sys.stderr)

    def _draw(self, news: Sequence[str]) -> None:
        """The table over the one before, with news above it."""
        size = shutil.get_terminal_size()
        rows = sorted(self._rows.values(), key=lambda row: _ORDER.index(row.state))
        room = max(3, size.lines - 4)
        lines = aligned(HEADER, [row.columns for row in rows[:room]])
        states = Counter(row.state for row in rows)
        lines.append(", ".join(f"{states[state]} {state}" for state in _ORDER if states[state]))
        up = f"\x1b[{self._height}F\x1b[J" if self._height else ""
        text = "\n".join([*news, *(line[: size.columns - 1] for line in lines)])
        print(up + text, file=sys.stderr, flush=True)
        self._height = len(lines)


def _news(job: Job, before: Row, now: Row) -> list[str]:
    """What happened to a cell since, in lines; one that failed with the end of its log."""
    again = now.state == before.state == "running" and now.attempts > before.attempts
    if now.state == before.state and not again:
        return []
    if now.state == "running":
        attempt = f" again (attempt {now.attempts})" if now.attempts > 1 else ""
        why = read_record(job.workdir).get("why")
        return [f"{now.name}: runs{attempt}{f': {why}' if again and why else ''}"]
    if now.state == "finished":
        loss = f", loss {now.loss}" if now.loss else ""
        return [f"{now.name}: finished in {clock(now.seconds)}{loss}"]
    why = read_record(job.workdir).get("why", "")
    if now.state == "failed":
        log = log_tail(job.workdir)
        return [f"{now.name}: failed ({why}); the end of {job.workdir / LOG}:\n{_indented(log)}"]
    return [f"{now.name}: {now.state}, {why}"]


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


# --------------------------------------------------------------------------------------- at the end


def final_table(results: Sequence[CellResult], metric: str = "loss") -> str:
    """What came of every cell, and of those that differ in the seed alone taken together.

    Args:
      metric: of the evaluation on the first of data.validation.
    """
    shown = _evaluated(results, metric)
    header = ("cell", "state", "step", shown, "best", "time", "attempts", "digest")
    rows = [
        (
            result.cell.title,
            result.status + (f" ({result.why})" if result.status == "stopped" else ""),
            _number(result.metrics, "step"),
            _number(result.metrics, shown),
            _number(result.metrics, f"best/{shown}"),
            clock(result.seconds),
            str(result.attempts),
            (result.digest or "")[:12],
        )
        for result in results
    ]
    lines = aligned(header, rows)
    groups = [group for group in groups_of(results) if len(group.names) > 1]
    if groups:
        titles = ("group", "finished", shown, f"best/{shown}")
        lines += ["", *aligned(titles, [_group_row(group, shown) for group in groups])]
    return "\n".join(lines)


def _group_row(group: Group, shown: str) -> tuple[str, ...]:
    return (
        group.name,
        f"{group.finished}/{len(group.names)}",
        *(_spread(group, name) for name in (shown, f"best/{shown}")),
    )


def _spread(group: Group, name: str) -> str:
    if name not in group.mean:
        return ""
    deviation = group.deviation[name]
    return f"{group.mean[name]:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def _number(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    return str(metrics[name]) if name.endswith("step") else f"{metrics[name]:.4f}"


def _evaluated(results: Sequence[CellResult], metric: str) -> str:
    """The metric of the first evaluated split; that of training, where none is."""
    for result in results:
        for name in result.metrics:
            split, _, rest = name.partition("/")
            if rest == metric and split not in ("best", TRAIN):
                return name
    return f"{TRAIN}/{metric}"


def how_to_continue(results: Sequence[CellResult]) -> str:
    """One line for a sweep that was stopped."""
    left = sum(result.status != "finished" for result in results)
    return f"stopped, {left} of {len(results)} cells left: the same command continues them"
