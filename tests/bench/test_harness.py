"""Turns, medians and ratios, with contestants that only move a clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lm.bench.harness import Comparison, Result, Sample, Unavailable, compare, turn


class Clock:
    """Time that passes only when somebody works, and slows down as it does on a warm machine."""

    def __init__(self) -> None:
        self.now, self.events = 0.0, []

    def work(self, name: str, seconds: float) -> float:
        self.events.append(name)
        self.now += seconds
        return seconds


class Fake:
    def __init__(
        self, name: str, clock: Clock, seconds: Sequence[float], units: int = 1, reason: str = ""
    ) -> None:
        self.name, self._clock = name, clock
        self._seconds, self._units, self._reason = iter(seconds), units, reason
        self.calls: list[str] = []

    def prepare(self) -> dict[str, Any]:
        self.calls.append("prepare")
        if self._reason:
            raise Unavailable(self._reason)
        return {"units": self._units, "threads": 2}

    def round(self) -> float:
        self.calls.append("round")
        seconds = next(self._seconds)
        if seconds < 0:
            raise RuntimeError("broken")
        return self._clock.work(self.name, seconds)

    def finish(self) -> dict[str, Any]:
        self.calls.append("finish")
        return {"peak_memory": 7}

    def close(self) -> None:
        self.calls.append("close")


def test_rounds_are_interleaved_and_begin_with_another_each_time() -> None:
    clock = Clock()
    fakes = [Fake(name, clock, [1.0] * 4) for name in "abc"]
    compare(fakes, rounds=4, base="a")
    assert clock.events == [*"abc", *"bca", *"cab", *"abc"]
    for fake in fakes:
        assert fake.calls == ["prepare", *["round"] * 4, "finish", "close"]


def test_times_are_of_a_unit_and_facts_are_kept() -> None:
    clock = Clock()
    slow, fast = Fake("slow", clock, [6.0, 8.0], units=2), Fake("fast", clock, [1.0, 2.0])
    comparison = compare([slow, fast], rounds=2, base="fast")
    assert comparison["slow"].seconds.values == (3.0, 4.0)
    assert comparison["slow"].facts == {"units": 2, "threads": 2, "peak_memory": 7}
    # Round by round: 3 / 1 and 4 / 2, not the ratio of the medians.
    assert comparison.ratio("slow").values == (3.0, 2.0)
    assert comparison.ratio("fast", "slow").values == (1 / 3, 0.5)


def test_a_machine_that_slows_down_leaves_the_ratio_alone() -> None:
    results = tuple(
        Result(name, Sample(tuple(factor * 1.1**n for n in range(7))), {})
        for name, factor in (("base", 1.0), ("other", 1.5))
    )
    ratio = Comparison("base", results).ratio("other")
    assert ratio.median == pytest.approx(1.5)
    assert ratio.quartiles == pytest.approx((1.5, 1.5))


def test_the_spread_is_that_between_quartiles() -> None:
    sample = Sample((5.0, 1.0, 2.0, 3.0, 4.0, 100.0, 0.0))
    assert sample.median == 3.0
    assert sample.quartiles == (1.5, 4.5)
    assert sample.summary()["range"] == [0.0, 100.0]
    assert Sample((2.0,)).quartiles == (2.0, 2.0)


def test_who_cannot_run_is_left_out_with_the_reason() -> None:
    clock = Clock()
    absent = Fake("b", clock, [], reason="no compiler")
    notes: list[str] = []
    fakes = [Fake("a", clock, [1.0]), absent, Fake("c", clock, [2.0])]
    comparison = compare(fakes, rounds=1, base="a", note=notes.append)
    assert comparison.left_out == {"b": "no compiler"}
    assert [result.name for result in comparison.results] == ["a", "c"]
    assert "b" not in comparison and "c" in comparison
    assert absent.calls == ["prepare", "close"]
    assert "left out: b: no compiler" in notes


def test_without_the_base_the_others_are_measured() -> None:
    clock = Clock()
    base, other = Fake("a", clock, [], reason="no data"), Fake("b", clock, [1, 2])
    comparison = compare([base, other], rounds=2, base="a")
    assert comparison.left_out == {"a": "no data"} and "a" not in comparison
    assert len(comparison["b"].seconds.values) == 2
    assert base.calls == ["prepare", "close"]


def test_nobody_runs() -> None:
    comparison = compare([Fake("a", Clock(), [], reason="no data")], rounds=1, base="a")
    assert not comparison.results


def test_all_are_closed_when_one_fails() -> None:
    clock = Clock()
    fakes = [Fake("a", clock, [1.0, 1.0]), Fake("b", clock, [1.0, -1.0])]
    with pytest.raises(RuntimeError, match="broken"):
        compare(fakes, rounds=2, base="a")
    assert [fake.calls[-1] for fake in fakes] == ["close", "close"]


def test_a_turn_has_everyone_once() -> None:
    fakes = [Fake(name, Clock(), []) for name in "abc"]
    assert [fake.name for fake in turn(fakes, 5)] == ["c", "a", "b"]
