"""Reads a profiler's trace and a compiled program: where the time of a training step goes.

How time is accounted, so that the parts sum to the wall time:

- A device is a lane: what its streams run at the same moment shares that moment equally. The
  virtual devices of a CPU are one lane, as they share its cores; several accelerators are a lane
  each, and their mean is reported.
- An operation that waits for other devices or for a copy (collectives, transfers) counts only
  where nothing computes meanwhile: what is hidden behind computation costs nothing.
- On a CPU an operation may return while other threads still work for it: such a moment, in which
  workers are busy and no operation is in progress, is of the operation that ended last.
- A moment with none of these is a gap: the device is idle. It counts as `data` where the loop was
  making or sending a batch in it.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lm.train.hlo import Instruction, guess

# What the loop marks in the trace: the profiled steps, and the making and sending of batches.
WINDOW, DATA = "lm: profiled steps", "lm: data"
# The profiler writes no more, and leaves out the latest.
MOST_EVENTS = 1_000_000


class Interval(NamedTuple):
    """An operation in progress, in microseconds: the program (HLO module), its instruction."""

    start: float
    end: float
    module: str
    name: str


@dataclass
class Lane:
    """What one device does; `workers` are times in which a CPU's threads work for some operation"""

    operations: list[Interval] = field(default_factory=list)
    workers: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Trace:
    """The profiled window, the lanes of the devices, and when the loop was busy with a batch."""

    window: tuple[float, float]
    lanes: list[Lane]
    data: list[tuple[float, float]]
    truncated: bool


class Times(NamedTuple):
    """Microseconds of every (module, instruction), waiting for data, and idle otherwise; together
    the whole window."""

    operations: dict[tuple[str, str], float]
    data: float
    gaps: float


def read_trace(path: Path) -> Trace:
    """A trace.json.gz (Chrome's format), as JAX's profiler writes it.

    Raises:
      ValueError: it has no window of profiled steps.
    """
    with gzip.open(path, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    processes = {e["pid"]: e["args"]["name"] for e in _named(events, "process_name")}
    threads = {
        (e["pid"], e["tid"]): e["args"]["name"] for e in _named(events, "thread_name")
    }  # fmt: skip
    timed: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("ph") == "X":
            timed[event["pid"], event["tid"]].append(event)
    lines = {
        pid: _lines_of({threads.get(key, "") for key in timed if key[0] == pid})
        for pid, name in processes.items()
        if name.startswith("/device:")
    }
    lanes: dict[int, Lane] = defaultdict(Lane)
    host = Lane()
    spans: dict[str, list[tuple[float, float]]] = {WINDOW: [], DATA: []}
    for (pid, tid), mine in timed.items():
        mine.sort(key=lambda e: (e["ts"], -e["dur"]))
        title = threads.get((pid, tid), "")
        if pid in lines:
            if title in lines[pid]:
                lanes[pid].operations += _innermost(mine)
            continue
        host.operations += _innermost(e for e in mine if "hlo_op" in e.get("args", {}))
        if title.startswith("tf_XLAEigen"):
            host.workers += _regions(mine)
        for event in mine:
            if event["name"] in spans:
                spans[event["name"]].append((event["ts"], event["ts"] + event["dur"]))
    if not spans[WINDOW]:
        raise ValueError(f"{path} has no window of profiled steps")
    used = [lane for lane in lanes.values() if lane.operations] or [host]
    return Trace(spans[WINDOW][0], used, spans[DATA], len(events) >= MOST_EVENTS)


def _named(events: Iterable[dict[str, Any]], what: str) -> Iterable[dict[str, Any]]:
    return (e for e in events if e.get("ph") == "M" and e.get("name") == what)


def _lines_of(titles: set[str]) -> set[str]:
    """Of a device's lines those with operations, each once: a GPU's streams, a TPU's "XLA Ops";
    the others show the same time by module, scope or source line."""
    return {title for title in titles if title.startswith("Stream")} or {"XLA Ops"}


def _innermost(events: Iterable[dict[str, Any]]) -> list[Interval]:
    """The events of one line as intervals, sorted by start: an operation without the time of those
    that it contains."""
    found: list[Interval] = []
    open_: list[list[Any]] = []

    def close(until: float) -> None:
        while open_ and open_[-1][1] <= until:
            start, end, module, name = open_.pop()
            if end > start:
                found.append(Interval(start, end, module, name))
            if open_:
                open_[-1][0] = max(open_[-1][0], end)

    for event in events:
        start, end = event["ts"], event["ts"] + event["dur"]
        close(start)
        if open_ and start > open_[-1][0]:
            outer = open_[-1]
            found.append(Interval(outer[0], start, outer[2], outer[3]))
        values = event.get("args", {})
        name = values.get("hlo_op") or event["name"]
        open_.append([start, end, values.get("hlo_module", ""), name])
    close(float("inf"))
    return found


def _regions(events: Iterable[dict[str, Any]]) -> list[tuple[float, float]]:
    """When a worker thread had a task."""
    starts: list[float] = []
    found = []
    for event in events:
        if event["name"].endswith("::StartRegion"):
            starts.append(event["ts"])
        elif event["name"].endswith("::StopRegion") and starts:
            found.append((starts.pop(), event["ts"]))
    return found


# ------------------------------------------------------------------------------- the accounting


def account(trace: Trace, program: Mapping[str, Instruction], module: str) -> Times:
    """The window's time, by what it was spent on; of several devices the mean.

    Args:
      program: the instructions of the program called `module`, see `read_program`.
    """
    total: dict[tuple[str, str], float] = defaultdict(float)
    data = gaps = 0.0
    for lane in trace.lanes:
        idle = _share(lane, trace.window, program, module, total)
        waiting = _overlap(idle, trace.data)
        data += waiting
        gaps += sum(end - start for start, end in idle) - waiting
    count = len(trace.lanes)
    return Times({key: time / count for key, time in total.items()}, data / count, gaps / count)


def _share(
    lane: Lane,
    window: tuple[float, float],
    program: Mapping[str, Instruction],
    module: str,
    total: dict[tuple[str, str], float],
) -> list[tuple[float, float]]:
    """Adds each moment of the window to `total`; returns the idle ones."""
    # (time, +1 or -1, 0 computes | 1 waits | 2 a worker's task, what)
    borders: list[tuple[float, int, int, tuple[str, str]]] = []

    def add(start: float, end: float, level: int, key: tuple[str, str]) -> None:
        start, end = max(start, window[0]), min(end, window[1])
        if end > start:
            borders.extend([(start, 1, level, key), (end, -1, level, key)])

    for start, end, owner, name in lane.operations:
        kind = program[name].kind if owner in (module, "") and name in program else guess(name)
        if kind != "control":
            add(start, end, int(kind in ("collective", "transfer")), (owner, name))
    for start, end in lane.workers:
        add(start, end, 2, ("", ""))
    borders.sort(key=lambda border: border[0])
    # What is in progress, and how many times, by level.
    active: tuple[Counter[tuple[str, str]], ...] = (Counter(), Counter(), Counter())
    last: tuple[str, str] | None = None
    idle, now = [], window[0]
    for time, change, level, key in [*borders, (window[1], 0, 2, ("", ""))]:
        if time > now:
            running = active[0] or active[1]
            if running:
                each = (time - now) / sum(running.values())
                for what, times in running.items():
                    total[what] += times * each
            elif active[2] and last is not None:
                total[last] += time - now
            else:
                idle.append((now, time))
            now = time
        active[level][key] += change
        if not active[level][key]:
            del active[level][key]
        if change < 0 and level == 0:
            last = key
    return idle


def _overlap(some: list[tuple[float, float]], others: list[tuple[float, float]]) -> float:
    """The time that is in both lists, whose intervals each follow one another."""
    time, i, j = 0.0, 0, 0
    others = sorted(others)
    while i < len(some) and j < len(others):
        time += max(0.0, min(some[i][1], others[j][1]) - max(some[i][0], others[j][0]))
        if some[i][1] < others[j][1]:
            i += 1
        else:
            j += 1
    return time
