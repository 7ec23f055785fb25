"""What was measured, on disk: report.json, from which verdicts, pages and the ledger are made.

{"format", "measures": {name: {"measure", "version", "files", "cells", "quantities", "details",
"notes", "date", "commit", "hardware", "versions", "seconds"}}, "claims": [...]}. As long as the
options, configs and files that a measure is a function of are the same, nothing is run again.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import lm
from lm.config import Config, from_dict, to_dict
from lm.errors import ConfigError, UserError
from lm.reproduce.cell import Cell, same_run
from lm.reproduce.claims import SCALES, Claim, Paper, Runs, Scale
from lm.reproduce.judge import Judgement, judge
from lm.reproduce.measures.base import Found, MeasureBase, digest_of, finite

FORMAT = 1
JSON, PAGE = "report.json", "report.html"
# Where the commands that are shown have their runs, and the value by which one begins with another.
_RUNS, START = "runs", "train.warm_start"
_PACKAGES = ("jax", "flax", "optax", "numpy", "scipy", "matplotlib")

# A text, to be passed over whole, or numbers in a row.
_ON_A_LINE = re.compile(r'"(?:[^"\\]|\\.)*"|\[[\s\d.,eE+-]+\]')

Record = dict[str, Any]


def read_record(folder: Path) -> Record:
    """The record in `folder`; an empty one where there is none yet.

    Raises:
      UserError: the file is not such a record.
    """
    from lm.train.workdir import read_json

    path = folder / JSON
    if not path.exists():
        return {"format": FORMAT, "measures": {}, "claims": []}
    found = read_json(path)
    if found.get("format") != FORMAT or not isinstance(found.get("measures"), dict):
        raise UserError(
            f"{path} is not the record of this version of lm reproduce: move it away, and "
            "everything is run again"
        )
    return found


def write_record(folder: Path, record: Record) -> None:
    """Writes report.json, whole or not at all; numbers in a row stand on one line.

    Raises:
      UserError: it cannot be written.
    """
    path = folder / JSON
    lines = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    lines = _ON_A_LINE.sub(_joined, lines)
    temporary = path.with_name(f".{JSON}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(lines + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"could not write {path}: {error.strerror}") from None


def _joined(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith('"') else "".join(found[0].split())


def cells_of(name: str, runs: Runs) -> list[Cell]:
    """One cell a seed. What begins after another has that one's place in `command` for its start;
    where it really is, only who runs it knows (`source_of`)."""
    found = []
    for seed in runs.seeds:
        start = {} if runs.after is None else {START: f"{_RUNS}/{_cell_name(runs.after, seed)}"}
        values = {**runs.overrides, **start}
        found.append(Cell(_cell_name(name, seed), runs.config, values, seed))
    return found


def source_of(paper: Paper, name: str) -> dict[str, str]:
    """Of the cells of a run that begins after another: the cell each begins with, by name."""
    runs = paper.runs[name]
    if runs.after is None:
        return {}
    return {_cell_name(name, seed): _cell_name(runs.after, seed) for seed in runs.seeds}


def _cell_name(run: str, seed: int) -> str:
    return f"{run}-seed{seed}"


def command(cell: Cell) -> str:
    """The command line that trains the cell by itself."""
    words = ["lm", "train", f"--config={cell.config}"]
    for key, value in cell.changes:
        # A path needs no quotes.
        words.append(f"--config.{key}={cell.overrides[key] if key == START else value}")
    return shlex.join([*words, f"--workdir={_RUNS}/{cell.name}"])


def commands(paper: Paper, folder: Path) -> list[str]:
    """The command lines that run what the paper in `folder` claims, from the current directory:
    one for each scale that its claims take."""
    full, here = Path(os.path.abspath(folder)), Path.cwd()
    place = full.relative_to(here) if full.is_relative_to(here) else full
    words = ["lm", "reproduce", place.as_posix()]
    return [
        # The first is the one that is meant where none is named.
        shlex.join(words if scale == SCALES[0] else [*words, f"--scale={scale}"])
        for scale in SCALES
        if any(claim.scale == scale for claim in paper.claims)
    ]


def groups_of(paper: Paper, measure: MeasureBase) -> dict[str, list[Cell]]:
    """The cells that a measure needs, by the name of their runs."""
    return {name: cells_of(name, paper.runs[name]) for name in measure.runs}


def current(paper: Paper, record: Record) -> Record:
    """The record without what was measured of other runs than the paper has now, or otherwise.

    Configs are compared as they are read today: a field that has come since, with a default, makes
    no other run of an old one.
    """
    measures = {
        name: measured
        for name, measured in record["measures"].items()
        if name in paper.measures and _is_current(paper, paper.measures[name], measured)
    }
    return {**record, "measures": measures}


def _is_current(paper: Paper, measure: MeasureBase, measured: Record) -> bool:
    cells = [cell for group in groups_of(paper, measure).values() for cell in group]
    if measured["version"] != measure.VERSION or len(measured["cells"]) != len(cells):
        return False
    try:
        return from_dict(type(measure), measured["measure"]) == measure and all(
            same_run(from_dict(Config, old["config"]), cell.resolve())
            for old, cell in zip(measured["cells"], cells)
        )
    except ConfigError:
        return False


def same_files(measured: Record, measure: MeasureBase, data_root: Path) -> bool:
    """Whether the files that a measure reads are those it read.

    Raises:
      UserError: one is missing.
    """
    return measured["files"] == digest_of([data_root / name for name in measure.files()])


def entry(
    found: Found,
    measure: MeasureBase,
    *,
    cells: Sequence[Mapping[str, Any]],
    data_root: Path,
    seconds: float,
) -> Record:
    """What the record keeps of a measure. A number that is none, or too large, is no number."""
    from lm.bench.machine import processor
    from lm.host import cores
    from lm.train.workdir import git_commit

    devices = sorted({device for cell in cells for device in cell.get("devices", ())})
    count = cores()
    accelerators = [name for name in devices if not name.startswith("cpu")]
    versions = {"lm": lm.__version__, "python": platform.python_version()}
    return {
        "measure": to_dict(measure),
        "version": measure.VERSION,
        "files": digest_of([data_root / name for name in measure.files()]),
        "quantities": _json(found.quantities),
        "details": _json(found.details),
        "notes": list(found.notes),
        "cells": list(cells),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": git_commit(),
        "hardware": ", ".join(accelerators) or f"{count} core{'s' * (count > 1)}, {processor()}",
        "versions": versions | {name: metadata.version(name) for name in _PACKAGES},
        "seconds": round(seconds, 1),
    }


def _json(value: Any) -> Any:
    """The value as JSON has it: NaN and the infinities are None there."""
    if isinstance(value, Mapping):
        return {name: _json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    return finite(value) if isinstance(value, float) else value


def short_commit(commit: str | None) -> str:
    """A commit in ten digits; "+changes" says that the source was not what was committed."""
    if commit is None:
        return "–"
    return commit[:10] + ("+changes" if commit.endswith("+changes") else "")


def judge_all(paper: Paper, record: Record, scale: Scale) -> list[Record]:
    """The verdict on every claim, from what a `current` record has. `scale` is what could be
    run."""
    return [_judged(claim, record["measures"].get(claim.measure), scale) for claim in paper.claims]


def _judged(claim: Claim, measured: Record | None, scale: Scale) -> Record:
    if measured is not None:
        judgement = judge(claim, measured["quantities"])
    elif SCALES.index(claim.scale) > SCALES.index(scale):
        judgement = Judgement("not run at this scale", f"takes scale {claim.scale!r}")
    else:
        judgement = Judgement("not run yet", "nothing measured so far")
    kept = ("date", "commit", "hardware", "seconds")
    return {
        "id": claim.id,
        "sentence": claim.sentence,
        "where": claim.where,
        "published": claim.published,
        "unit": claim.unit,
        "check": claim.check.words(),
        "why": claim.why,
        "scale": claim.scale,
        "proxy": claim.proxy,
        "measure": claim.measure,
        "quantities": list(claim.quantities),
        **judgement.as_json(),
        **({name: measured[name] for name in kept} if measured is not None else {}),
    }
