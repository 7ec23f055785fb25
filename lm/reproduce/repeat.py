"""One config with several seeds, or on several folds of its labelled examples: a sweep of no more,
and what its metrics are on average.

The interval is Student's, for independent measurements: seeds are; folds share most of what they
train on, and what they say of other data scatters more than they do (Nadeau & Bengio 2003).
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.errors import ConfigError, did_you_mean
from lm.reproduce.cell import Cell, CellResult
from lm.reproduce.sweep_results import TRAIN
from lm.reproduce.sweep_table import aligned
from lm.train.experiment import load_config
from lm.train.workdir import write_json

SUMMARY_FILE = "repeat.json"
FOLD_KEY = "data.fold"
# Of a split, or a run, and no measurement.
_COUNTS = ("tokens", "step")


@dataclass(frozen=True)
class Spread:
    """Measurements of one quantity: their number, mean, standard deviation (of a sample), and the
    95 % interval of the mean; the last two are None of a single one."""

    values: tuple[float, ...]
    mean: float
    deviation: float | None
    interval: tuple[float, float] | None


def spread(values: Sequence[float]) -> Spread:
    """What is known of a quantity that was measured so often."""
    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return Spread(tuple(values), mean, None, None)
    # The largest import of this file, for one number.
    from scipy.special import stdtrit

    deviation = statistics.stdev(values)
    half = float(stdtrit(count - 1, 0.975)) * deviation / math.sqrt(count)
    return Spread(tuple(values), mean, deviation, (mean - half, mean + half))


def cells(
    argument: str,
    changes: Sequence[tuple[str, str]],
    seeds: Sequence[int] | None,
    folds: int | None,
) -> list[Cell]:
    """A cell for every seed and fold, seed by seed.

    Args:
      argument: FILE.py[:VARIANT].
      changes: (key, text) of `--config.KEY=TEXT`.
      seeds: None is the config's own.
      folds: the number of parts; None does not divide.

    Raises:
      ConfigError: neither seeds nor folds, or set twice; a config that cannot be meant.
    """
    if seeds is None and folds is None:
        raise ConfigError("say what to repeat: --seeds=0,1,2, --folds=5, or both")
    for flag, given, key in (("--seeds", seeds, "seed"), ("--folds", folds, FOLD_KEY)):
        if given is not None and any(name == key for name, _ in changes):
            raise ConfigError(f"{flag} sets config.{key}: leave --config.{key} out")
    shared = _values(changes)
    own = shared.pop("seed", None)
    if seeds is None:
        seeds = [load_config(argument, changes).seed if own is None else own]
    elif len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds={','.join(map(str, seeds))} names one twice")
    found = []
    for seed in seeds:
        if folds is None:
            found.append(Cell(f"seed{seed}", argument, shared, seed))
        for index in range(folds or 0):
            fold = {FOLD_KEY: {"index": index, "of": folds}}
            found.append(Cell(f"seed{seed}-fold{index}", argument, {**shared, **fold}, seed))
    return found


def _values(changes: Sequence[tuple[str, str]]) -> dict[str, Any]:
    from lm.config import apply_override

    values = {}
    for key, text in changes:
        place: dict[str, Any] = {}
        apply_override(place, "value", text)
        values[key] = place["value"]
    return values


def spreads(
    results: Sequence[CellResult], metrics: Sequence[str] | None = None
) -> dict[str, Spread]:
    """What the finished cells measured, by metric ("fold/accuracy"): the last evaluation of each,
    or with early stopping the best ("best/fold/accuracy").

    Args:
      metrics: names, with the split or without; None is all.

    Raises:
      ConfigError: no cell has such a metric.
    """
    done = [result.metrics for result in results if result.status == "finished"]
    if not done:
        return {}
    early = results[0].cell.resolve().evaluation.early_stopping is not None
    known = [name for name in done[0] if _measured(name, early) and all(name in m for m in done)]
    chosen = known if metrics is None else [n for m in metrics for n in _named(m, known)]
    return {name: spread([metrics[name] for metrics in done]) for name in chosen}


def _measured(name: str, early: bool) -> bool:
    split, last = name.split("/")[0], name.split("/")[-1]
    return "/" in name and split != TRAIN and last not in _COUNTS and (split == "best") == early


def _named(metric: str, known: Sequence[str]) -> list[str]:
    found = [name for name in known if name == metric or name.endswith(f"/{metric}")]
    if not found:
        raise ConfigError(f"--metrics: nothing measured {metric!r}{did_you_mean(metric, known)}")
    return found


def spread_table(found: Mapping[str, Spread]) -> str:
    """A line for each metric."""
    header = ("metric", "n", "mean", "sd", "95 % interval of the mean", "least", "most")
    rows = []
    for name, one in found.items():
        sd = "" if one.deviation is None else f"{one.deviation:.4f}"
        interval = "" if one.interval is None else "[{:.4f}, {:.4f}]".format(*one.interval)
        ends = (f"{min(one.values):.4f}", f"{max(one.values):.4f}")
        rows.append((name, str(len(one.values)), f"{one.mean:.4f}", sd, interval, *ends))
    return "\n".join(aligned(header, rows))


def write_spreads(workdir: Path, found: Mapping[str, Spread]) -> None:
    """repeat.json. Raises UserError: the disk is full."""
    write_json(
        workdir / SUMMARY_FILE, {name: dataclasses.asdict(one) for name, one in found.items()}
    )
