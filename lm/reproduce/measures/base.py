"""What a measure is given and gives."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lm.errors import UserError


@dataclass(frozen=True)
class Inputs:
    """The finished runs, by name, the workdirs in the order of their seeds; where data is read and
    prepared data kept; `scratch`, a folder for what the measure makes, which stays."""

    runs: Mapping[str, Sequence[Path]]
    data_root: Path
    cache_dir: Path
    scratch: Path
    report: Callable[[str], None] = print


@dataclass(frozen=True)
class Found:
    """What was measured: by quantity one number a seed (None: there was none, such as a loss that
    was never reached), and what figures and the report show beside, as JSON values."""

    quantities: Mapping[str, Sequence[float | None]]
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MeasureBase:
    """What every measure has: the runs it needs, whose names are its quantities unless it says
    otherwise, and `VERSION`, raised when the same runs would give something else.

    Numbers of a measure without runs, over files or untrained models, are one a seed of its own.
    """

    VERSION: ClassVar[int] = 1

    runs: tuple[str, ...] = ()

    @property
    def quantities(self) -> tuple[str, ...]:
        return self.runs

    def files(self) -> tuple[str, ...]:
        """Files below the data root that it reads itself."""
        return ()

    @property
    def by_hand(self) -> str:
        """What a person has to do, where lm cannot measure this: nothing is trained for it."""
        return ""

    def measure(self, inputs: Inputs) -> Found:
        raise NotImplementedError


def finite(value: float) -> float | None:
    """`value`, or None where it is not a number that JSON has."""
    return float(value) if math.isfinite(value) else None


def digest_of(paths: Sequence[Path]) -> list[str]:
    """The first 16 hex digits of each file's SHA-256.

    Raises:
      UserError: one cannot be read.
    """
    found = []
    for path in paths:
        try:
            found.append(hashlib.sha256(path.read_bytes()).hexdigest()[:16])
        except OSError as error:
            raise UserError(
                f"cannot read {path}: {error.strerror}; data is looked for below --data_root, else "
                "$LM_DATA"
            ) from None
    return found
