"""Memory beside torch's: all of it, and above the imports."""

from __future__ import annotations

from typing import Any

import pytest

from lm.bench.harness import Comparison, Result, Sample
from lm.bench.memory import findings

MIB = 2**20


def result(name: str, peak: int, imports: int, **facts: Any) -> Result:
    facts = {"peak_memory_rounds": peak * MIB, "memory_of_imports": imports * MIB, **facts}
    return Result(name, Sample((1.0,)), facts)


def test_shares_of_the_peers_memory() -> None:
    results = (result("lm", 300, 100), result("torch", 1000, 200), result("bare", 600, 200))
    found = findings(Comparison("lm", results), ("lm", "bare", "absent"), "torch")
    assert {finding.name: finding.value for finding in found} == pytest.approx(
        {
            "memory, lm": 0.3,
            "memory above the imports, lm": 0.25,
            "memory, bare": 0.6,
            "memory above the imports, bare": 0.5,
        }
    )
    assert found[0].text == "lm held at most 300 MiB, 0.30 of torch's 1,000 MiB"
    assert found[1].text == "lm held at most 200 MiB above the imports, 0.25 of torch's 800 MiB"


def test_nothing_where_it_does_not_compare() -> None:
    ours, theirs = result("lm", 300, 100), result("torch", 1000, 200)
    assert findings(Comparison("lm", (ours,)), ("lm",), "torch") == []
    on_device = result("torch", 1000, 200, peak_device_memory=1)
    assert findings(Comparison("lm", (ours, on_device)), ("lm",), "torch") == []
    unknown = Result("torch", Sample((1.0,)), {"peak_memory_rounds": MIB})
    assert findings(Comparison("lm", (ours, unknown)), ("lm",), "torch") == []
    assert findings(Comparison("lm", (ours, theirs)), ("lm",), "torch")
