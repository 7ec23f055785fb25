"""What a suite is: who takes part at a shape, and what their times come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lm.bench.harness import Comparison, Contestant, Facts, Unavailable
from lm.bench.workload import Place

PEERS = ("eager", "compiled", "eager-mkl", "compiled-mkl")


@dataclass(frozen=True)
class Settings:
    """One run of a suite: how many rounds, where, and which of torch's ways (`PEERS`) take part."""

    rounds: int
    place: Place
    peers: tuple[str, ...] = PEERS


class Finding(NamedTuple):
    """Something that the times come to: a number under a name, and a sentence."""

    name: str
    value: float | None
    text: str


@dataclass(frozen=True)
class Suite:
    """`unit` is what times are of; `base` the contestant that ratios are to. `peers`: those of
    `PEERS` that the suite has a part for."""

    name: str
    summary: str
    unit: str
    base: str
    shapes: Mapping[str, Any]
    default: str
    peers: tuple[str, ...]
    contestants: Callable[[Any, Settings], Sequence[Contestant]]
    findings: Callable[[Any, Comparison], Sequence[Finding]]


class Absent:
    """A contestant that is known not to run here."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self._reason = name, reason

    def prepare(self) -> Facts:
        raise Unavailable(self._reason)

    def round(self) -> float:
        raise Unavailable(self._reason)

    def finish(self) -> Facts:
        raise Unavailable(self._reason)

    def close(self) -> None:
        """There is nothing."""
