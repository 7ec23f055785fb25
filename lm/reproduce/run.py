"""Reproducing a paper: what is missing is run, what was measured judged, and the report written."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from lm.config import Config, differences, from_dict, to_dict
from lm.errors import ConfigError, UserError, did_you_mean
from lm.reproduce.cell import Cell, CellResult
from lm.reproduce.claims import SCALES, Paper, Scale, load_paper
from lm.reproduce.finished import DataNow, Prints, finished
from lm.reproduce.measures import Inputs, Measure
from lm.reproduce.page import paper_page
from lm.reproduce.record import (
    JSON,
    PAGE,
    START,
    Record,
    cells_of,
    current,
    entry,
    groups_of,
    judge_all,
    read_record,
    same_files,
    same_run,
    source_of,
    write_record,
)
from lm.reproduce.recorded_run import recorded_run
from lm.reproduce.sweep import run_sweep

# Beside a paper's claims: small, and committed with them.
REPORT = "report"


@dataclass(frozen=True)
class Settings:
    """How papers are reproduced. `workdir` has a folder a paper, in which each run has its own;
    `use` are workdirs of runs that were done already, by the names they have there. With
    `only_measured` no report is begun for a paper of which nothing was measured yet."""

    scale: Scale
    workdir: Path
    data_root: Path
    cache_dir: Path
    engine: str = "local"
    use: Mapping[str, Path] = field(default_factory=dict)
    report: Callable[[str], None] = print
    only_measured: bool = False

    @functools.cached_property
    def data(self) -> DataNow:
        return DataNow(self.cache_dir, self.report)


class Outcome(NamedTuple):
    """A paper's claims as judged, whether a run was stopped, to be gone on with, and which measures
    of the scale were refused: those that lm cannot do."""

    claims: list[Record]
    stopped: bool
    refused: tuple[str, ...] = ()


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

    wanted = {
        name: measure
        for name, measure in paper.measures.items()
        if SCALES.index(paper.scale_of(name)) <= SCALES.index(settings.scale)
    }
    # Said first: nobody should train for days to read it.
    refused = [name for name, measure in wanted.items() if measure.by_hand]
    for name in refused:
        settings.report(f"{folder.name}: {name} is refused: {wanted.pop(name).by_hand}")

    def outcome(*, stopped: bool) -> Outcome:
        claims = write_report(
            folder, paper, record, output, settings.scale, only_measured=settings.only_measured
        )
        return Outcome(claims, stopped, tuple(refused))

    for name, measure in wanted.items():
        groups = groups_of(paper, measure)
        cells = [cell for group in groups.values() for cell in group]
        if name in done and _still_holds(done[name], measure, f"{folder.name}: {name}", settings):
            continue
        settings.report(f"{folder.name}: measuring {name}")
        sources = {k: v for run in groups for k, v in source_of(paper, run).items()}
        results = _run_cells(cells, sources, settings.workdir / folder.name, settings)
        if any(result.status == "stopped" for result in results):
            return outcome(stopped=True)
        record["measures"][name] = _measured(measure, groups, results, folder, settings)
        outcome(stopped=False)
    return outcome(stopped=False)


def rejudge(
    folder: Path, output: Path, scale: Scale, *, only_measured: bool = False
) -> list[Record]:
    """Judges the claims from the record in `output` alone, and writes the report anew."""
    paper, record = load_paper(folder), read_record(output)
    return write_report(folder, paper, record, output, scale, only_measured=only_measured)


def write_report(
    folder: Path,
    paper: Paper,
    record: Record,
    output: Path,
    scale: Scale,
    *,
    only_measured: bool = False,
) -> list[Record]:
    """Judges what the record has of the paper as it is now, and writes report.json and report.html;
    the claims as judged. What is of other claims or configs stays in the record until it is run
    again, and is neither judged nor drawn."""
    seen = current(paper, record)
    claims = judge_all(paper, seen, scale)
    if only_measured and not record["measures"] and not (output / JSON).exists():
        return claims
    write_record(output, {**record, "claims": claims})
    page = paper_page(folder, paper, {**seen, "claims": claims})
    try:
        (output / PAGE).write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"could not write {output / PAGE}: {error.strerror}") from None
    return claims


def _run_cells(
    cells: Sequence[Cell], sources: Mapping[str, str], workdir: Path, settings: Settings
) -> list[CellResult]:
    """Runs the cells, those with a cell among `sources` after the others."""
    first = [cell for cell in cells if cell.name not in sources]
    done = {result.cell.name: result for result in _finished(first, workdir, settings)}
    if all(result.status == "finished" for result in done.values()):
        begun = []
        for cell in cells:
            if cell.name in sources:
                start = done[sources[cell.name]].workdir.expanduser().absolute()
                begun.append(replace(cell, overrides={**cell.overrides, START: str(start)}))
        done |= {result.cell.name: result for result in _finished(begun, workdir, settings)}
    # A result is of the cell as the paper has it, wherever its start lay on this machine.
    return [replace(done[cell.name], cell=cell) for cell in cells if cell.name in done]


def _finished(cells: Sequence[Cell], workdir: Path, settings: Settings) -> list[CellResult]:
    done = {c.name: _adopted(c, settings) for c in cells if c.name in settings.use}
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


def _still_holds(measured: Record, measure: Measure, place: str, settings: Settings) -> bool:
    """Whether what was measured, of the files and the data of its runs, is what would be again."""
    said = f"{place} was measured on {measured['date']}"
    if not same_files(measured, measure, settings.data_root):
        settings.report(f"{said}, and since then a file that it reads changed")
        return False
    for cell in measured["cells"]:
        before = Prints(cell["data"], cell.get("validation_data"))
        config = from_dict(Config, cell["config"])
        changed = settings.data.changed(before, config, settings.data_root)
        if changed:
            settings.report(f"{said}, and since then {changed} of {cell['name']}")
            return False
    settings.report(said)
    return True


def _adopted(cell: Cell, settings: Settings) -> CellResult:
    """A cell's result from a run that was done elsewhere. Its seconds are those of its steps.

    Raises:
      UserError: there is no run, one that is not finished, or its data changed since.
      ConfigError: it is of another config; the keys that differ are listed.
    """
    from lm.data.tokenizer import load_tokenizer
    from lm.reproduce.sweep_results import metrics_of, run_digest
    from lm.train.metrics import read_jsonl
    from lm.train.workdir import TOKENIZER, read_config

    workdir = settings.use[cell.name]
    place = f"--use={cell.name}={workdir}"
    config, wanted = _from_anywhere(read_config(workdir)), _from_anywhere(cell.resolve())
    if not same_run(config, wanted):
        changed = differences(to_dict(wanted), to_dict(config))
        lines = [f"  {key}: {own!r}, there {theirs!r}" for key, own, theirs in changed]
        raise ConfigError(f"{place}: that run is of another config:\n" + "\n".join(lines))
    try:
        prints = finished(workdir, settings.report)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    tokenizer = load_tokenizer(workdir / TOKENIZER)
    other = settings.data.changed(prints, config, settings.data_root, tokenizer)
    if other:
        raise UserError(f"{place}: since that run {other}: restore the files, or leave --use out")
    metrics = metrics_of(workdir)
    rates = [row["tokens_per_second"] for row in read_jsonl(workdir / "timing.jsonl")]
    tokens = metrics["step"] * wanted.train.batch_size * wanted.data.sequence_length
    seconds = tokens / statistics.median(rates) if rates else 0.0
    return CellResult(
        cell=cell,
        workdir=workdir,
        status="finished",
        digest=run_digest(workdir),
        metrics=metrics,
        seconds=seconds,
    )


def _from_anywhere(config: Config) -> Config:
    """The config with the whole path of the run that it begins with."""
    start = config.train.warm_start
    if start is None:
        return config
    path = str(Path(start).expanduser().absolute())
    return replace(config, train=replace(config.train, warm_start=path))


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
        cells=[recorded_run(result) for group in ordered.values() for result in group],
        data_root=settings.data_root,
        seconds=seconds,
    )


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
