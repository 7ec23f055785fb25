"""pass@k: the estimator, and programs run for it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lm.errors import ConfigError, UserError
from lm.evaluate.metrics import code
from lm.evaluate.metrics.code import estimate, pass_at_k
from lm.evaluate.metrics.sandbox import Limits


@pytest.mark.parametrize(("samples", "passed"), [(5, 0), (5, 1), (5, 3), (5, 5), (1, 1)])
def test_the_estimate_is_the_share_of_draws_with_a_right_one(samples: int, passed: int) -> None:
    for k in range(1, samples + 1):
        draws = list(itertools.combinations(range(samples), k))
        share = np.mean([min(draw) < passed for draw in draws])
        assert estimate(samples, passed, k) == pytest.approx(share)


def test_the_estimate_of_many() -> None:
    """The paper's product, which does not overflow either."""
    expected = 1 - np.prod(1 - 100 / np.arange(10000 - 7 + 1, 10000 + 1))
    assert estimate(10000, 7, 100) == pytest.approx(expected)
    for wrong in ((5, 6, 1), (5, -1, 1), (5, 1, 0), (5, 1, 6)):
        with pytest.raises(ConfigError, match="no estimate"):
            estimate(*wrong)


def test_programs_are_run() -> None:
    right, wrong = "def f(x):\n    return x + 1\n", "def f(x):\n    return x\n"
    endless, broken = "while True: pass", "def f(x:"
    found = pass_at_k(
        [[right, wrong, wrong, wrong], [wrong, broken, endless, wrong]],
        ["assert f(1) == 2", "assert f(1) == 2"],
        k=(1, 2),
        untrusted_code="allow",
        limits=Limits(wall_seconds=60.0, cpu_seconds=1),
        workers=2,
    )
    assert found == pytest.approx(
        {
            "pass@1": 0.25 / 2, "pass@2": 0.5 / 2,
            "passed": 1 / 8, "failed": 5 / 8, "timed_out": 1 / 8, "memory": 0, "error": 1 / 8,
        }
    )  # fmt: skip


def test_nothing_runs_without_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="untrusted_code='isolated'"):
        pass_at_k([["x"]], ["x"])
    with pytest.raises(ConfigError, match=r"pass@2 needs 2.*predictions\[1\] has 1"):
        pass_at_k([["x", "x"], ["x"]], ["x", "x"], k=(2,), untrusted_code="allow")

    def bare(programs: list[str], limits: Limits) -> list[code.Outcome]:
        return [code.Outcome("passed", "", "", False, 0.1, frozenset({"network"}))]

    monkeypatch.setattr(code, "run_programs", bare)
    with pytest.raises(UserError, match="cut off files, processes"):
        pass_at_k([["x"]], ["x"], untrusted_code="isolated")
