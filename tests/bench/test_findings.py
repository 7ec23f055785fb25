"""What the times of every suite come to, from known ones (`train`'s are in test_report)."""

from __future__ import annotations

from typing import Any

import pytest

from lm.bench import attention, checkpoint, data, decode, startup
from lm.bench.harness import Comparison, Result, Sample
from lm.bench.run import SUITES


def times(name: str, *seconds: float, **facts: Any) -> Result:
    return Result(name, Sample(seconds), facts)


@pytest.mark.parametrize(
    ("suite", "results", "expected"),
    [
        (
            "decode",
            [
                times(
                    decode.OURS,
                    1.0,
                    tokens=[[1, 2], [3, 1], [5, 6]],
                    runners_up=[[0, 0], [0, 4], [7, 0]],
                    margins=[[9.0, 9.0], [9.0, 1e-5], [2e-5, 9.0]],
                    rounding=3e-5,
                ),
                times("transformers.generate", 2.0, tokens=[[1, 2], [3, 4], [7, 8]]),
                times("same", 2.0, tokens=[[1, 2], [3, 1], [5, 6]]),
                times("far", 2.0, tokens=[[1, 2], [4, 1], [5, 6]]),
            ],
            {
                "same tokens, transformers.generate": 0.5,
                "gap where tokens part, transformers.generate": 2e-5,
                "same tokens, same": 1.0,
                "same tokens, far": 5 / 6,
                # Not the runner-up: no rounding.
                "gap where tokens part, far": None,
            },
        ),
        (
            "data",
            [times(data.BATCHES, 1e-6), times(data.TOKENISE, 4e-6), times(data.LOOP, 8e-6)],
            {data.BATCHES: 8.0, data.TOKENISE: 2.0, "text to packed batches": 1.6},
        ),
        (
            "checkpoint",
            [
                times(checkpoint.NONE, 1.0, 2.0, excess_seconds=[0.5, 0.75]),
                # Half a step's time over it in each of 24 steps; then a whole one.
                times(
                    checkpoint.ASYNC,
                    1.5,
                    3.0,
                    units=24,
                    steps_per_dispatch=2,
                    excess_seconds=[2.0, 2.25],
                    save_seconds=[0.3, 0.3],
                    overtime_seconds=[0.5, 0.5],
                ),
                times(
                    checkpoint.SYNC,
                    2.0,
                    4.0,
                    units=24,
                    steps_per_dispatch=4,
                    save_seconds=[1.5, 4.5],
                    overtime_seconds=[0.0, 0.0],
                ),
            ],
            {
                f"{checkpoint.ASYNC}, steps": 12.0,
                f"{checkpoint.ASYNC}, steps within the round": 1.0,
                f"{checkpoint.ASYNC}, steps in save": 0.2,
                f"{checkpoint.SYNC}, steps": 24.0,
                f"{checkpoint.SYNC}, steps in save": 2.0,
            },
        ),
        (
            "startup",
            [times(startup.OURS, 2.0, first_starts=[9.0]), times(startup.THEIRS, 3.0)],
            {"first start, seconds": 9.0, "torch eager": 1.5},
        ),
        (
            "attention",
            [times(attention.BLOCKWISE, 2.0), times("torch SDPA", 1.0), times("lm, plain", 3.0)],
            {"fastest, seconds": 1.0},
        ),
    ],
)
def test_what_known_times_come_to(
    suite: str, results: list[Result], expected: dict[str, float]
) -> None:
    chosen = SUITES[suite]
    shape = chosen.shapes[chosen.default]
    found = chosen.findings(shape, Comparison(chosen.base, tuple(results)))
    assert {finding.name: finding.value for finding in found} == pytest.approx(expected)
    assert all(finding.text for finding in found)
