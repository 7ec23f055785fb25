"""Sums of what examples add: the figures and the intervals that the whole metrics have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lm.errors import ConfigError, UserError
from lm.evaluate.metrics.bootstrap import metric_intervals
from lm.evaluate.metrics.registry import metric
from lm.evaluate.metrics.sums import intervals

WORDS = ["the cat sat on the mat", "a dog runs fast now", "no", "two men are on a wall", "x y z"]
SAID = ["the cat sat on a mat", "a dog ran fast now", "yes", "two men on the wall", "x y"]
LABELS, FOUND = ["a", "b", "a", "c", "b", "a"], ["a", "a", "a", "c", "b", "b"]
P = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.8, 0.2], [0.5, 0.5]])
CASES: list[tuple[str, Any, Any, dict[str, Any]]] = [
    ("accuracy", FOUND, LABELS, {}),
    ("f1", [1, 0, 1, 1, 0], [1, 1, 0, 1, 0], {}),
    ("f1", ["y", "n", "y"], ["y", "y", "y"], {"positive": "y"}),
    ("f1_macro", FOUND, LABELS, {}),
    ("f1_macro", FOUND, LABELS, {"labels": ["a", "b", "z"]}),
    ("f1_micro", FOUND, LABELS, {}),
    ("f1_weighted", FOUND, LABELS, {}),
    ("matthews", FOUND, LABELS, {}),
    ("calibration", P, [0, 1, 0, 0, 1], {"bins": 5}),
    ("pearson", [1.0, 2.0, 4.0, 3.0], [1.0, 3.0, 3.5, 2.0], {}),
    ("entities", [["B-X", "I-X", "O"], ["O", "B-Y"], ["B-X"]],
     [["B-X", "I-X", "O"], ["B-X", "O"], ["O"]], {}),
    ("entities", [["B-X", "O"], ["B-Y"], ["O"]], [["B-X", "O"], ["B-X"], ["B-Y"]],
     {"average": "macro"}),
    ("word_accuracy", [["O", "N"], ["O"]], [["O", "O"], ["O"]], {}),
    ("squad", SAID, [[text, "no"] for text in WORDS], {}),
    ("squad_v2", ["", "a dog", "no"], [[], ["the dog"], []], {}),
    ("squad_chinese", ["北京", "上海"], [["北京大学"], ["上海"]], {}),
    ("bleu", SAID, WORDS, {}),
    ("bleu_tokenised", SAID, WORDS, {"split_compounds": True}),
    ("chrf", SAID, [[text, "the dog"] for text in WORDS], {"word_order": 2}),
    ("rouge", SAID, WORDS, {"kinds": ["rouge1", "rougeL"]}),
    ("exact_match", SAID, WORDS, {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "found", "wanted", "options"), CASES)
def test_as_the_metric_measured_anew(name: str, found: Any, wanted: Any, options: Any) -> None:
    if name in ("bleu", "rouge"):
        pytest.importorskip("sacrebleu" if name == "bleu" else "rouge_score")
    chosen = metric(name, **options)
    anew = metric_intervals(chosen, found, wanted, resamples=40, seed=2)
    ours = intervals(name, found, wanted, resamples=40, seed=2, **options)
    assert ours.keys() == anew.keys() and ours
    for key, interval in anew.items():
        assert ours[key].value == pytest.approx(interval.value), key
        assert ours[key].low == pytest.approx(interval.low, nan_ok=True), key
        assert ours[key].high == pytest.approx(interval.high, nan_ok=True), key
        assert ours[key].undefined == interval.undefined, key


def test_thresholds_of_squad_v2_are_no_means() -> None:
    found, wanted = [("a", 0.1), ("b", 0.9), ("c", 0.2)], [["a"], [], ["c"]]
    ours = intervals("squad_v2", found, wanted, resamples=20)
    assert ours["best_f1"].value == 100 and ours["exact_match"].value == pytest.approx(200 / 3)


def test_without_resamples_there_are_figures_alone() -> None:
    ours = intervals("accuracy", [1, 0], [1, 1], resamples=0)
    assert ours["accuracy"].value == 0.5 and math.isnan(ours["accuracy"].low)


def test_what_is_wrong_is_said_as_by_the_metric() -> None:
    with pytest.raises(ConfigError, match="no option"):
        intervals("accuracy", [1], [1], bins=3)
    with pytest.raises(UserError, match=r"references\[1\]: the question has no answer"):
        intervals("squad", ["a", "b"], [["a"], []])
