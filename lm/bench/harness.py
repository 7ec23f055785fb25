"""Contestants in interleaved rounds: medians, spread, and ratios to one of them.

A round goes through all contestants before any has its next one, and every round begins with
another of them, so that what changes on the machine in the meantime (clock rates, other processes)
meets them all alike. Ratios are taken round by round, between times that were measured close
together, and only then averaged.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Facts = Mapping[str, Any]


class Unavailable(Exception):  # noqa: N818 (a finding, not an error)
    """A contestant cannot run on this machine; the message says why."""


class Contestant(Protocol):
    """Something to measure. `prepare` comes first and is not timed, `close` comes last, always."""

    name: str

    def prepare(self) -> Facts:
        """Builds, compiles, warms up. What is known of it; "units" is the work of a round (steps,
        tokens ...), 1 where it is not said.

        Raises:
          Unavailable: it cannot run here, and the comparison goes on without it.
        """
        ...

    def round(self) -> float:
        """Seconds that one round took, by the contestant's own clock."""
        ...

    def finish(self) -> Facts:
        """What is known after the last round: memory, losses, tokens."""
        ...

    def close(self) -> None:
        """Gives back everything; may be called at any time."""
        ...


@dataclass(frozen=True)
class Sample:
    """Values of one kind, one a round; the spread is that between the quartiles."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """By linear interpolation between the values; of a single one, that one."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    def summary(self) -> dict[str, Any]:
        low, high = self.quartiles
        return {
            "median": self.median,
            "quartiles": [low, high],
            "range": [min(self.values), max(self.values)],
            "rounds": list(self.values),
        }


@dataclass(frozen=True)
class Result:
    """What was measured of one contestant: seconds a unit of work, and its facts."""

    name: str
    seconds: Sample
    facts: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """All contestants that ran, and why the others did not; the base may be one of those."""

    base: str
    results: tuple[Result, ...]
    left_out: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Result:
        return next(result for result in self.results if result.name == name)

    def __contains__(self, name: str) -> bool:
        return any(result.name == name for result in self.results)

    def ratio(self, name: str, to: str | None = None) -> Sample:
        """How many times as long as `to` (the base) it took for a unit, round by round."""
        return Sample(
            tuple(
                mine / other
                for mine, other in zip(
                    self[name].seconds.values, self[to or self.base].seconds.values, strict=True
                )
            )
        )


def compare(
    contestants: Sequence[Contestant],
    *,
    rounds: int,
    base: str,
    note: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Prepares all, then lets them take turns.

    Args:
      base: the contestant that ratios are to; without it there are times and no ratios.
      note: called with a line of text at every stage.
    """
    running: list[Contestant] = []
    facts: dict[str, dict[str, Any]] = {}
    seconds: dict[str, list[float]] = {}
    left_out: dict[str, str] = {}
    try:
        for contestant in contestants:
            note(f"preparing {contestant.name}")
            running.append(contestant)
            try:
                facts[contestant.name] = dict(contestant.prepare())
            except Unavailable as reason:
                running.remove(contestant)
                contestant.close()
                left_out[contestant.name] = str(reason)
                note(f"left out: {contestant.name}: {reason}")
        seconds = {contestant.name: [] for contestant in running}
        for number in range(rounds):
            for contestant in turn(running, number):
                taken = contestant.round() / facts[contestant.name].get("units", 1)
                seconds[contestant.name].append(taken)
            note(f"round {number + 1} of {rounds}")
        for contestant in running:
            facts[contestant.name].update(contestant.finish())
    finally:
        for contestant in running:
            contestant.close()
    results = tuple(Result(c.name, Sample(tuple(seconds[c.name])), facts[c.name]) for c in running)
    return Comparison(base, results, left_out)


def turn(contestants: Sequence[Contestant], number: int) -> list[Contestant]:
    """The order of one round: as given, beginning with another contestant every time."""
    first = number % max(1, len(contestants))
    return [*contestants[first:], *contestants[:first]]
