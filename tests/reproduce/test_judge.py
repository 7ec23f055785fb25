"""Verdicts: every direction, the edges of tolerances, seeds and their interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lm.config import from_dict
from lm.errors import ConfigError, UserError
from lm.reproduce.claims import Claim
from lm.reproduce.judge import judge


def claim(check: dict[str, Any], published: float | None = 1.88, **other: Any) -> Claim:
    values = {
        "id": "X",
        "sentence": "s",
        "where": "Table 1",
        "measure": "m",
        "quantities": ("a",),
        "scale": "cpu",
        "check": check,
        "published": published,
        **other,
    }
    return from_dict(Claim, values)


WITHIN = {"kind": "within", "tolerance": 0.05}
SHARE = {"kind": "within", "tolerance": 0.1, "relative": True}


@pytest.mark.parametrize(
    ("check", "value", "verdict"),
    [
        (WITHIN, 1.88, "reproduced"),
        # The edge itself, though 1.88 + 0.05 is not 1.93 in binary.
        (WITHIN, 1.93, "reproduced"),
        (WITHIN, 1.83, "reproduced"),
        (WITHIN, 1.9301, "not reproduced"),
        (WITHIN, 1.8299, "not reproduced"),
        (SHARE, 1.88 * 1.1, "reproduced"),
        (SHARE, 1.88 * 1.101, "not reproduced"),
        (SHARE, 1.88 * 0.899, "not reproduced"),
        ({"kind": "factor", "times": 2.0}, 3.76, "reproduced"),
        ({"kind": "factor", "times": 2.0}, 0.94, "reproduced"),
        ({"kind": "factor", "times": 2.0}, 0.93, "not reproduced"),
        ({"kind": "factor", "times": 2.0}, 3.77, "not reproduced"),
        ({"kind": "at_least", "bound": 1.5}, 1.5, "reproduced"),
        ({"kind": "at_least", "bound": 1.5}, 99.0, "reproduced"),
        ({"kind": "at_least", "bound": 1.5}, 1.49, "not reproduced"),
        ({"kind": "at_most", "bound": 1.5}, 1.5, "reproduced"),
        ({"kind": "at_most", "bound": 1.5}, -3.0, "reproduced"),
        ({"kind": "at_most", "bound": 1.5}, 1.51, "not reproduced"),
        ({"kind": "reported"}, 77.0, "reported"),
    ],
)
def test_one_number(check: dict[str, Any], value: float, verdict: str) -> None:
    found = judge(claim(check), {"a": [value], "b": [0.0]})
    assert found.verdict == verdict
    assert found.mean == value and found.interval is None and found.values == (value,)


def test_a_negative_number_has_a_band_around_it() -> None:
    slope = claim({"kind": "within", "tolerance": 0.3, "relative": True}, published=-0.5)
    assert judge(slope, {"a": [-0.62]}).verdict == "reproduced"
    assert judge(slope, {"a": [-0.66]}).verdict == "not reproduced"


@pytest.mark.parametrize(
    ("direction", "margin", "values", "verdict"),
    [
        ("rising", 0.0, (1.0, 2.0, 3.0), "reproduced"),
        ("rising", 0.0, (1.0, 3.0, 2.0), "not reproduced"),
        ("falling", 0.0, (3.0, 2.0, 1.0), "reproduced"),
        ("falling", 0.0, (1.0, 2.0, 3.0), "not reproduced"),
        ("rising", 1.0, (1.0, 2.0, 3.0), "reproduced"),
        ("rising", 1.1, (1.0, 2.0, 3.0), "not reproduced"),
    ],
)
def test_an_order(direction: str, margin: float, values: tuple[float, ...], verdict: str) -> None:
    check = {"kind": "ordered", "direction": direction, "margin": margin}
    names = ("a", "b", "c")
    found = judge(claim(check, None, quantities=names), {n: [v] for n, v in zip(names, values)})
    assert found.verdict == verdict


def test_an_order_is_of_each_seed() -> None:
    check = {"kind": "ordered", "direction": "rising"}
    found = judge(
        claim(check, None, quantities=("a", "b")), {"a": [1.0, 5.0, 9.0], "b": [2.0, 6.0, 10.0]}
    )
    assert found.values == (1.0, 1.0, 1.0) and found.verdict == "reproduced"


def test_from_three_seeds_on_the_interval_decides() -> None:
    # Student's, of the mean: 1.88 +- 4.303 * 0.01 / sqrt(3).
    found = judge(claim(WITHIN), {"a": [1.87, 1.88, 1.89]})
    assert found.verdict == "reproduced" and found.interval is not None
    assert np.allclose(found.interval, 1.88 + np.array([-1, 1]) * 4.30265 * 0.01 / math.sqrt(3))
    assert judge(claim(WITHIN), {"a": [1.90, 1.92, 1.94]}).verdict == "inconclusive"
    assert judge(claim(WITHIN), {"a": [2.00, 2.01, 2.02]}).verdict == "not reproduced"
    two = judge(claim(WITHIN), {"a": [1.80, 1.96]})
    assert two.verdict == "reproduced" and two.interval is None and "without" in two.reason
    same = judge(claim(WITHIN), {"a": [1.9, 1.9, 1.9]})
    assert same.verdict == "reproduced"


def test_a_seed_without_a_number_decides_against_it() -> None:
    found = judge(claim({"kind": "factor", "times": 2.5}, 956), {"a": [900.0, None]})
    assert found.verdict == "not reproduced" and found.mean is None
    assert found.reason == "1 of 2 seeds gave no number"
    order = claim({"kind": "ordered", "direction": "rising"}, None, quantities=("a", "b"))
    assert judge(order, {"a": [1.0], "b": [None]}).verdict == "not reproduced"


def test_quantities_of_unequally_many_seeds_are_not_compared() -> None:
    order = claim({"kind": "ordered", "direction": "rising"}, None, quantities=("a", "b"))
    with pytest.raises(UserError, match="claim X: .* unequally many numbers: a 3, b 2; give"):
        judge(order, {"a": [1.0, 1.0, 9.0], "b": [2.0, 2.0]})


def test_what_the_measure_did_not_give() -> None:
    with pytest.raises(UserError, match="no quantity 'a'"):
        judge(claim(WITHIN), {"b": [1.0]})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"published": None}, "needs the published value"),
        ({"check": {"kind": "within", "tolerance": 0}}, "tolerance must be above 0"),
        ({"check": {"kind": "factor", "times": 1.0}}, "times must be above 1"),
        ({"check": {"kind": "withim", "tolerance": 1}}, "did you mean 'within'"),
        ({"quantities": ("a", "b")}, "'ordered' compares two"),
        ({"check": {"kind": "ordered", "direction": "rising"}}, "'ordered' compares two"),
        ({"id": "A 1"}, "letters, digits"),
        ({"scale": "tpu"}, "expected one of 'cpu', 'gpu', 'paper'"),
    ],
)
def test_a_claim_that_cannot_be_meant(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        claim(**{"check": WITHIN, **changes})
