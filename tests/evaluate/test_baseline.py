"""What needs no model: by formula, on small batches."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lm.config import ReplacedTokens, from_dict
from lm.evaluate.baseline import (
    binary_baseline,
    masked_baseline,
    pair_baseline,
    replaced_baseline,
    token_baseline,
    unigram,
)
from lm.types import Features


def batch(targets: list[int], weights: list[float]) -> Features:
    return {"targets": np.array([targets]), "weights": np.array([weights], np.float32)}


def test_the_unigram_counts_targets_with_weight() -> None:
    p = unigram([batch([0, 0, 1, 3], [1, 1, 1, 0]), batch([0, 2, 2, 2], [1, 0, 0, 0])], 4)
    np.testing.assert_allclose(p, np.array([3.5, 1.5, 0.5, 0.5]) / 6)


def test_token_loss_and_accuracy() -> None:
    p = np.array([0.5, 0.25, 0.25])
    found = token_baseline([batch([0, 1, 2], [1, 1, 0]), batch([0, 0, 2], [1, 0, 1])], p)
    assert found["loss"] == pytest.approx((2 * math.log(2) + 2 * math.log(4)) / 4)
    assert found["accuracy"] == 0.5
    assert token_baseline([batch([0], [0])], p) == {}


def test_masked_tokens_that_stayed() -> None:
    """Of ten tokens six are masked (9), two stay, two are replaced; the eleventh has no weight."""
    p = np.array([0.5, 0.25, 0.25])
    targets = [0, 0, 1, 1, 2, 2, 0, 1, 0, 2, 0]
    tokens = [9, 9, 9, 9, 9, 9, 0, 1, 1, 0, 9]
    row = batch(targets, [1.0] * 10 + [0.0])
    found = masked_baseline([{**row, "tokens": np.array([tokens])}], p, 9)
    masked = 2 * math.log(2) + 4 * math.log(4)
    stayed = -math.log(0.5 + 0.5 * 0.5) - math.log(0.5 + 0.5 * 0.25)
    replaced = -math.log(0.5 * 0.5) - math.log(0.5 * 0.25)
    assert found["loss"] == pytest.approx((masked + stayed + replaced) / 10)
    # The most frequent of the masked, and those that stayed.
    assert found["accuracy"] == pytest.approx((2 + 2) / 10)
    assert masked_baseline([{**batch([0], [0.0]), "tokens": np.array([[9]])}], p, 9) == {}
    # No mask: the most frequent token, as copies are rarer.
    row = {**batch([0, 0, 0, 1], [1.0] * 4), "tokens": np.array([[1, 2, 1, 1]])}
    assert masked_baseline([row], np.array([0.75, 0.125, 0.125]), None)["accuracy"] == 0.75


def test_pairs_and_yes_or_no() -> None:
    rows = {"is_next": np.array([1, 1, 1, 0]), "pair_weights": np.array([1.0, 1.0, 0.0, 1.0])}
    entropy = math.log(3) / 3 + 2 / 3 * math.log(3 / 2)
    assert pair_baseline([rows]) == pytest.approx({"pair_loss": entropy, "pair_accuracy": 2 / 3})
    assert pair_baseline([{name: values[:0] for name, values in rows.items()}]) == {}
    assert binary_baseline(0.0) == {"loss": 0, "accuracy": 1}


def test_replaced_tokens() -> None:
    found = replaced_baseline({"loss": 3.0, "accuracy": 0.1}, {"replaced": 0.25})
    assert replaced_baseline({"loss": 3.0}, None) == {"generator_loss": 3.0}
    assert found["generator_loss"] == 3.0 and found["generator_accuracy"] == 0.1
    assert found["accuracy"] == 0.75 and found["f1"] == 0
    assert found["loss"] == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3))


def test_precision_recall_and_f1() -> None:
    """Of 10 tokens 4 were replaced, 5 are said to be, 3 rightly."""
    objective = from_dict(
        ReplacedTokens,
        {"kind": "replaced_tokens", "generator": {
            "architecture": "encoder", "vocab_size": 8, "num_layers": 1, "d_model": 4,
            "num_heads": 1, "d_ff": 4, "position": {"kind": "learned", "max_length": 4}}},
    )  # fmt: skip
    found = objective.ratios({"replaced": 0.4, "found": 0.5, "detected": 0.3})
    assert found == pytest.approx({"precision": 0.6, "recall": 0.75, "f1": 2 / 3})
    nothing = objective.ratios({"replaced": 0.4, "found": 0.0, "detected": 0.0})
    assert nothing == {"precision": 0, "recall": 0, "f1": 0}
