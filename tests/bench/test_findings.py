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
                times(decode.OURS, 1.0, tokens=[[1, 2], [3, 1]]),
                times("transformers.generate", 2.0, tokens=[[1, 2], [3, 4]]),
            ],
            {"same tokens, transformers.generate": 0.75},
        ),
        (
            "data",
            [times(data.BATCHES, 1e-6), times(data.TOKENISE, 4e-6), times(data.LOOP, 8e-6)],
            {data.BATCHES: 8.0, data.TOKENISE: 2.0, "text to packed batches": 1.6},
        ),
        (
            "checkpoint",
            [
                times(checkpoint.NONE, 1.0, 2.0),
                # Half a step's time over it in each of 4 steps; then a whole one.
                times(checkpoint.ASYNC, 1.5, 3.0, units=4, save_seconds=[0.3, 0.3]),
                times(checkpoint.SYNC, 2.0, 4.0, units=4, save_seconds=[1.5, 4.5]),
            ],
            {
                f"{checkpoint.ASYNC}, steps": 2.0,
                f"{checkpoint.ASYNC}, steps in save": 0.2,
                f"{checkpoint.SYNC}, steps": 4.0,
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
