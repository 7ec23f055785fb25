"""What came of a sweep: every cell's metrics and digest, and cells that differ by the seed alone
taken together."""

from __future__ import annotations

import json
import math
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lm import config as configs
from lm.errors import UserError
from lm.reproduce.cell import CellResult, Status
from lm.reproduce.sweep_cell import ENDS, Job, note, read_record
from lm.train.metrics import read_jsonl
from lm.train.workdir import CONFIG, METRICS, read_json, write_json

TRAIN = "train"
_REPEATED = re.compile(r"(^|-)(seed|fold)\d+(?=-|$)")


def collect(job: Job) -> CellResult:
    """What the cell's folder says of it."""
    record = read_record(job.workdir)
    state, why = record["state"], record.get("why", "")
    if state not in ENDS:
        why = "not begun" if state == "waiting" else "its process was lost"
    return CellResult(
        cell=job.cell,
        workdir=job.workdir,
        status=cast(Status, state if state in ENDS else "stopped"),
        digest=record.get("run_digest") if state == "finished" else None,
        metrics=metrics_of(job.workdir),
        seconds=record["seconds"],
        attempts=record["attempts"],
        why=why,
    )


def metrics_of(workdir: Path) -> dict[str, float]:
    """`CellResult.metrics` of a run."""
    rows = read_jsonl(workdir / METRICS)
    if not rows:
        return {}
    last = {row["split"]: row for row in rows}
    found: dict[str, float] = {"step": rows[-1]["step"]}
    for split, row in last.items():
        found |= _named(split, row)
    metric, mode, split = ranked_by(workdir)
    candidates = [r for r in rows if r["split"] == split and math.isfinite(r.get(metric, math.nan))]
    if candidates:
        sign = 1 if mode == "min" else -1
        best = min(candidates, key=lambda row: sign * row[metric])
        found["best/step"] = best["step"]
        for row in rows:
            if row["step"] == best["step"] and row["split"] != TRAIN:
                found |= _named(f"best/{row['split']}", row)
    return found


def _named(prefix: str, row: Mapping[str, Any]) -> dict[str, float]:
    return {f"{prefix}/{k}": v for k, v in row.items() if k not in ("step", "split")}


def ranked_by(workdir: Path) -> tuple[str, str, str | None]:
    """By which metric, "min" or "max" of it, on which split a run's evaluations are ranked."""
    config = read_json(workdir / CONFIG)["config"]
    early = config["evaluation"].get("early_stopping")
    how = early or config["checkpoint"]
    first = next(iter(config["data"]["validation"]), None)
    return how["metric"], how.get("mode", "min"), how.get("split") or first


class Evaluations:
    """The evaluations of a run that goes on: (step, value of `metric`) on the first of
    data.validation; `metric` of None is the config's checkpoint.metric."""

    def __init__(self, workdir: Path, metric: str | None) -> None:
        self._workdir, self._metric = workdir, metric
        self._size, self._step = -1, 0

    def next(self) -> tuple[int, float] | None:
        """The oldest that was not seen yet. Raises UserError where it has no such metric."""
        path = self._workdir / METRICS
        size = path.stat().st_size if path.exists() else -1
        if size == self._size:
            return None
        metric, _, split = ranked_by(self._workdir)
        metric = self._metric or metric
        new = [r for r in read_jsonl(path) if r["split"] == split and r["step"] > self._step]
        if len(new) < 2:
            self._size = size
        if not new:
            return None
        if metric not in new[0]:
            known = ", ".join(sorted(set(new[0]) - {"step", "split"}))
            raise UserError(f"{path}: an evaluation has no {metric!r}; it has {known}")
        self._step = new[0]["step"]
        return self._step, new[0][metric]


# ---------------------------------------------------------------------------------------- digests


def write_digests(jobs: Sequence[Job]) -> None:
    """Puts the digests of finished runs into their records, where they are not yet.

    Raises:
      UserError: a run's checkpoints cannot be read.
    """
    records = {job.workdir: read_record(job.workdir) for job in jobs}
    lacking = [
        str(workdir)
        for workdir, record in records.items()
        if record["state"] == "finished" and "run_digest" not in record
    ]
    if not lacking:
        return
    # In a process of its own: JAX would take the accelerator, which whoever called us may need.
    done = subprocess.run(
        [sys.executable, "-m", "lm.reproduce.sweep_results", *lacking],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    for workdir, digest in map(json.loads, done.stdout.splitlines()):
        note(Path(workdir), run_digest=digest)
    if done.returncode:
        raise UserError(f"a finished run cannot be read:\n{done.stderr.strip()}")


def run_digest(workdir: Path) -> str:
    """SHA-256 of the digests that `lm inspect` shows of a run's newest checkpoint.

    Raises:
      UserError: it has none, or none that is sound.
    """
    from lm.train.checkpoint import Checkpoints
    from lm.train.digest import DIGESTED, json_digest, state_digests
    from lm.train.workdir import CHECKPOINTS

    checkpoints = Checkpoints(workdir / CHECKPOINTS, report=_report)
    restored = checkpoints.restore_parts(DIGESTED)
    return json_digest(state_digests(restored.state, restored.data))


def _report(line: str) -> None:
    print(line, file=sys.stderr)


# ----------------------------------------------------------------------------------------- groups


@dataclass(frozen=True)
class Group:
    """Cells that differ by seed or fold alone. `mean` and `deviation` (of a sample; None of one
    cell) are over those that finished, by metric."""

    name: str
    names: tuple[str, ...]
    finished: int
    mean: Mapping[str, float]
    deviation: Mapping[str, float | None]


def groups_of(results: Sequence[CellResult]) -> list[Group]:
    """The cells in groups, in order."""
    groups: dict[str, list[CellResult]] = {}
    for result in results:
        cell = result.cell
        same = {k: v for k, v in cell.overrides.items() if k != "data.fold"}
        groups.setdefault(configs.fingerprint([cell.config, same]), []).append(result)
    return [_group(members) for members in groups.values()]


def _group(members: Sequence[CellResult]) -> Group:
    done = [result.metrics for result in members if result.status == "finished"]
    shared = [name for name in done[0] if all(name in m for m in done)] if done else []
    values = {name: [metrics[name] for metrics in done] for name in shared}
    first = members[0].cell
    return Group(
        name=_REPEATED.sub("", first.name) or first.label if len(members) > 1 else first.name,
        names=tuple(result.cell.name for result in members),
        finished=len(done),
        mean={name: statistics.fmean(v) for name, v in values.items()},
        deviation={name: statistics.stdev(v) if len(v) > 1 else None for name, v in values.items()},
    )


def write_summary(path: Path, jobs: Sequence[Job], results: Sequence[CellResult]) -> None:
    """sweep.json: cells with their digests and results, and groups. Raises UserError: disk full."""
    cells = [
        {
            "name": result.cell.name,
            "digest": result.cell.digest,
            "config": result.cell.config,
            "overrides": dict(result.cell.overrides),
            "seed": result.cell.seed,
            "command": job.command,
            "status": result.status,
            "why": result.why,
            "run_digest": result.digest,
            "attempts": result.attempts,
            "seconds": result.seconds,
            "metrics": dict(result.metrics),
        }
        for job, result in zip(jobs, results)
    ]
    groups = [
        {
            "name": group.name,
            "cells": list(group.names),
            "finished": group.finished,
            "mean": dict(group.mean),
            "sd": dict(group.deviation),
        }
        for group in groups_of(results)
    ]
    write_json(path, {"cells": cells, "groups": groups})


if __name__ == "__main__":
    try:
        for _workdir in sys.argv[1:]:
            print(json.dumps([_workdir, run_digest(Path(_workdir))]), flush=True)
    except UserError as _error:
        sys.exit(str(_error))
