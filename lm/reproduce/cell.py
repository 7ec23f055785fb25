"""A cell of a sweep: one run as pure data, and what became of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lm import config as configs
from lm.config import Config
from lm.errors import ConfigError
from lm.train.experiment import load_config

Status = Literal["finished", "failed", "stopped"]

# What changes nothing that a run leaves: only how fast it is gone. How often a run is logged, or
# saved, is not among it: curves, averages of checkpoints and the best of them are measured too.
INDIFFERENT = (
    "checkpoint.asynchronous",
    "data.read_threads",
    "data.prefetch",
)
# Why a cell was stopped that a scheduler will not have continued.
FELL_BEHIND = "fell behind"
_NAME = re.compile(r"[\w+=@,][\w+=@,.-]*")
_RESERVED = ("sweep.json",)


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: `lm train` on `config` (FILE.py or FILE.py:VARIANT) with `overrides`
    (dotted keys of the config to plain values) and `seed`, in the folder `name`."""

    name: str
    config: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def changes(self) -> list[tuple[str, str]]:
        """What `--config.KEY=VALUE` says on a command line, as (key, value)."""
        return [*((key, repr(v)) for key, v in self.overrides.items()), ("seed", str(self.seed))]

    def resolve(self) -> Config:
        """The whole config. Raises ConfigError, naming the cell, where it cannot be meant."""
        try:
            return load_config(self.config, self.changes)
        except ConfigError as error:
            raise ConfigError(f"cell {self.name or self.label}: {error}") from None

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 of the resolved config, without what changes no result."""
        return config_digest(self.resolve())

    @property
    def label(self) -> str:
        """What is special about the cell, in one line."""
        return " ".join(f"{key}={value}" for key, value in self.overrides.items()) or self.config

    @property
    def title(self) -> str:
        """The name; of a cell that has its digest for one, with what is special about it."""
        if self.name != self.digest:
            return self.name
        return f"{self.name[:8]} {self.label} seed={self.seed}"


@dataclass(frozen=True)
class CellResult:
    """What became of a cell.

    Attributes:
      status: "finished"; "failed" as often as it was tried; "stopped" before its end, by a signal
        or by a scheduler that saw it lose.
      digest: SHA-256 of what `lm inspect` calls the run's digests: of its parameters, the
        optimiser's state and the data's position. None where it is not finished.
      metrics: from metrics.jsonl: "step"; "train/loss" and the like, the last; "SPLIT/loss" and the
        like, the last evaluation; "best/step" and "best/SPLIT/loss" and the like, the evaluation at
        which the config's checkpoint.metric was best on the first of data.validation.
      seconds: wall-clock of all attempts.
      why: what is to be said of one that is not finished.
    """

    cell: Cell
    workdir: Path
    status: Status
    digest: str | None
    metrics: Mapping[str, float]
    seconds: float
    attempts: int = 1
    why: str = ""

    @property
    def interrupted(self) -> bool:
        """Whether the same call would continue it."""
        return self.status == "stopped" and self.why != FELL_BEHIND


def same_run(one: Config, other: Config) -> bool:
    """Whether two configs come to the same run, bit for bit."""
    return _decisive(one) == _decisive(other)


def config_digest(config: Config) -> str:
    """What `Cell.digest` says, of any config."""
    return configs.fingerprint(_decisive(config))


def _decisive(config: Config) -> dict[str, Any]:
    values = configs.to_dict(config)
    for key in INDIFFERENT:
        section, name = key.split(".")
        values[section].pop(name)
    return values


def check_cells(cells: Sequence[Cell]) -> None:
    """Raises ConfigError where a cell's config cannot be meant, its name is no name of a folder, or
    two of them have the same name or would be the same run."""
    for cell in cells:
        if not _NAME.fullmatch(cell.name) or cell.name in _RESERVED:
            raise ConfigError(
                f"cell {cell.name!r}: the name is that of a folder: letters, digits and _+=@,.- "
                "that begin with none of .-"
            )
    for name, times in Counter(cell.name for cell in cells).items():
        if times > 1:
            raise ConfigError(f"{times} cells have the name {name}: give each its own")
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.digest, cell)
        if other is not cell:
            raise ConfigError(
                f"the cells {other.name} and {cell.name} are the same run ({cell.digest}: "
                f"{other.label}, seed {other.seed}, and {cell.label}, seed {cell.seed}): leave "
                "one out"
            )
