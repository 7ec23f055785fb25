"""Reproducing a paper: what is missing is run, what was measured judged, and the report written."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lm.config import differences, to_dict
from lm.errors import ConfigError, UserError, did_you_mean
from lm.reproduce.canvas import decimated
from lm.reproduce.cell import Cell, CellResult
from lm.reproduce.claims import SCALES, Paper, Scale, load_paper
from lm.reproduce.measures import Inputs, Measure
from lm.reproduce.page import paper_page
from lm.reproduce.record import (
    PAGE,
    Record,
    cells_of,
    command,
    current,
    entry,
    groups_of,
    judge_all,
    read_record,
    same_files,
    same_run,
    write_record,
)
from lm.reproduce.sweep import run_sweep

# Beside a paper's claims: small, and committed with them.
REPORT = "report"


@dataclass(frozen=True)
class Settings:
    """How papers are reproduced. `workdir` has a folder a paper, in which each run has its own;
    `use` are workdirs of runs that were done already, by the names they have there."""

    scale: Scale
    workdir: Path
    data_root: Path
    cache_dir: Path
    engine: str = "local"
    use: Mapping[str, Path] = field(default_factory=dict)
    report: Callable[[str], None] = print


class Outcome(NamedTuple):
    """A paper's claims as judged, and whether a run was stopped, to be gone on with."""

    claims: list[Record]
    stopped: bool


def reproduce(folder: Path, output: Path, settings: Settings) -> Outcome:
    """Runs what the claims of `folder` need at the scale and `output` has no record of, then
    judges all claims and writes `output`/report.json and report.html.

    What was measured is written down as it comes, so that a killed command goes on where it was.

    Raises:
      UserError: data is missing, or a run failed.
      ConfigError: the claims or a config is not valid; a name in `use` is that of no run.
    """
    paper, record = load_paper(folder), read_record(output)
    names = [cell.name for name, runs in paper.runs.items() for cell in cells_of(name, runs)]
    for name in settings.use:
        if name not in names:
            raise ConfigError(f"{folder} has no run {name!r}{did_you_mean(name, names)}")
    # What no claim rests on any more.
    record["measures"] = {k: v for k, v in record["measures"].items() if k in paper.measures}
    done = current(paper, record)["measures"]
    for name, measure in paper.measures.items():
        if SCALES.index(paper.scale_of(name)) > SCALES.index(settings.scale):
            continue
        groups = groups_of(paper, measure)
        cells = [cell for group in groups.values() for cell in group]
        known = done.get(name)
        if known is not None and same_files(known, measure, settings.data_root):
            settings.report(f"{folder.name}: {name} was measured on {known['date']}")
            continue
        settings.report(f"{folder.name}: measuring {name}")
        results = _run_cells(cells, settings.workdir / folder.name, settings)
        if any(result.status == "stopped" for result in results):
            return Outcome(write_report(folder, paper, record, output, settings.scale), True)
        record["measures"][name] = _measured(measure, groups, results, folder, settings)
        write_report(folder, paper, record, output, settings.scale)
    return Outcome(write_report(folder, paper, record, output, settings.scale), False)


def rejudge(folder: Path, output: Path, scale: Scale) -> list[Record]:
    """Judges the claims from the record in `output` alone, and writes the report anew."""
    return write_report(folder, load_paper(folder), read_record(output), output, scale)


def write_report(
    folder: Path, paper: Paper, record: Record, output: Path, scale: Scale
) -> list[Record]:
    """Judges what the record has of the paper as it is now, and writes report.json and report.html;
    the claims as judged. What is of other claims or configs stays in the record until it is run
    again, and is neither judged nor drawn."""
    seen = current(paper, record)
    claims = judge_all(paper, seen, scale)
    write_record(output, {**record, "claims": claims})
    page = paper_page(folder, paper, {**seen, "claims": claims})
    try:
        (output / PAGE).write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"could not write {output / PAGE}: {error.strerror}") from None
    return claims


def _run_cells(cells: Sequence[Cell], workdir: Path, settings: Settings) -> list[CellResult]:
    done = {c.name: _adopted(c, settings.use[c.name]) for c in cells if c.name in settings.use}
    rest = [cell for cell in cells if cell.name not in done]
    if rest:
        workdir.mkdir(parents=True, exist_ok=True)
        results = run_sweep(rest, workdir, settings.engine, data_root=settings.data_root)
        done |= {result.cell.name: result for result in results}
    failed = [result for result in done.values() if result.status == "failed"]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(cells)} runs failed: "
            + "; ".join(f"{result.workdir}: {result.why}" for result in failed)
        )
    return [done[cell.name] for cell in cells]


def _adopted(cell: Cell, workdir: Path) -> CellResult:
    """A cell's result from a run that was done elsewhere. Its seconds are those of its steps.

    Raises:
      UserError: there is no run, or one that is not finished.
      ConfigError: it is of another config; the keys that differ are listed.
    """
    from lm.reproduce.sweep_results import metrics_of, run_digest
    from lm.train.metrics import read_jsonl
    from lm.train.workdir import read_config

    config, wanted = read_config(workdir), cell.resolve()
    if not same_run(config, wanted):
        changed = differences(to_dict(wanted), to_dict(config))
        lines = [f"  {key}: {own!r}, there {theirs!r}" for key, own, theirs in changed]
        raise ConfigError(
            f"--use={cell.name}={workdir}: that run is of another config:\n" + "\n".join(lines)
        )
    metrics = metrics_of(workdir)
    step, steps = int(metrics.get("step", 0)), wanted.train.duration.steps
    if step < (steps or 1) and wanted.evaluation.early_stopping is None:
        raise UserError(f"--use={cell.name}={workdir}: the run is at step {step} of {steps or '?'}")
    rates = [row["tokens_per_second"] for row in read_jsonl(workdir / "timing.jsonl")]
    tokens = step * wanted.train.batch_size * wanted.data.sequence_length
    seconds = tokens / statistics.median(rates) if rates else 0.0
    return CellResult(
        cell=cell,
        workdir=workdir,
        status="finished",
        digest=run_digest(workdir),
        metrics=metrics,
        seconds=seconds,
    )


def _measured(
    measure: Measure,
    groups: Mapping[str, Sequence[Cell]],
    results: Sequence[CellResult],
    folder: Path,
    settings: Settings,
) -> Record:
    by_name = {result.cell.name: result for result in results}
    ordered = {name: [by_name[cell.name] for cell in group] for name, group in groups.items()}
    inputs = Inputs(
        runs={name: [result.workdir for result in group] for name, group in ordered.items()},
        data_root=settings.data_root,
        cache_dir=settings.cache_dir,
        scratch=settings.workdir / folder.name / "measures",
        report=settings.report,
    )
    began = time.monotonic()
    found = measure.measure(inputs)
    seconds = time.monotonic() - began + sum(result.seconds for result in results)
    return entry(
        found,
        measure,
        cells=[_cell(result) for group in ordered.values() for result in group],
        data_root=settings.data_root,
        seconds=seconds,
    )


def _cell(result: CellResult) -> Record:
    """What the record keeps of a run."""
    from lm.train.workdir import read_config, sessions

    last = (sessions(result.workdir) or [{}])[-1]
    cell = result.cell
    return {
        "name": cell.name,
        "command": command(cell),
        "config_digest": cell.digest,
        "state_digest": result.digest,
        "metrics": {k: v for k, v in result.metrics.items() if math.isfinite(v)},
        "seconds": round(result.seconds, 1),
        "devices": last.get("devices", []),
        "commit": last.get("git_commit"),
        "data": last.get("data", {}).get("fingerprint"),
        "curves": curves(result.workdir),
        "config": to_dict(read_config(result.workdir)),
    }


def curves(workdir: Path) -> dict[str, dict[str, list[list[float]]]]:
    """What metrics.jsonl says, by split and metric: steps and values, thinned out."""
    from lm.train.metrics import read_jsonl
    from lm.train.workdir import METRICS

    points: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in read_jsonl(workdir / METRICS):
        for name, value in row.items():
            # NaN is not JSON: a curve that leaves the numbers ends there.
            if name not in ("step", "split") and math.isfinite(value):
                points.setdefault(row["split"], {}).setdefault(name, []).append(
                    (row["step"], value)
                )
    return {
        split: {
            name: [[float(f"{v:.6g}") for v in axis] for axis in _thinned(rows)]
            for name, rows in metrics.items()
        }
        for split, metrics in points.items()
    }


def _thinned(points: Sequence[tuple[int, float]]) -> tuple[list[float], list[float]]:
    return decimated([step for step, _ in points], [value for _, value in points])


def summary(claims: Sequence[Mapping[str, Any]]) -> str:
    """The verdicts in a line each, for a terminal."""
    width = max((len(claim["id"]) for claim in claims), default=0)
    lines = []
    for claim in claims:
        mean = "-" if claim["mean"] is None else f"{claim['mean']:.4g}"
        published = "-" if claim["published"] is None else f"{claim['published']:g}"
        lines.append(
            f"{claim['id']:<{width}}  {claim['verdict']}: {mean} (published {published}, "
            f"{claim['check']}); {claim['reason']}"
        )
    return "\n".join(lines)
