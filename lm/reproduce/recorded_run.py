"""What a record keeps of a run: its name, digests, metrics, config and curves, thinned out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from lm.config import to_dict
from lm.reproduce.canvas import decimated
from lm.reproduce.cell import CellResult
from lm.reproduce.finished import Prints
from lm.reproduce.record import Record, command


def recorded_run(result: CellResult) -> Record:
    """What the record keeps of a run."""
    from lm.train.workdir import read_config, sessions

    last = (sessions(result.workdir) or [{}])[-1]
    prints = Prints.of_session(last)
    cell = result.cell
    config = to_dict(read_config(result.workdir))
    config["train"]["warm_start"] = cell.resolve().train.warm_start
    return {
        "name": cell.name,
        "command": command(cell),
        "config_digest": cell.digest,
        "state_digest": result.digest,
        "metrics": {k: v for k, v in result.metrics.items() if math.isfinite(v)},
        "seconds": round(result.seconds, 1),
        "devices": last.get("devices", []),
        "cores": last.get("cores"),
        "commit": last.get("git_commit"),
        "data": prints.training,
        "validation_data": prints.validation,
        "curves": curves(result.workdir),
        "config": config,
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
