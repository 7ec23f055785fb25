"""Class labels and calibration: equal to scikit-learn, or to the formula spelled out."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.errors import ConfigError, UserError
from lm.evaluate.metrics.calibration import calibration
from lm.evaluate.metrics.classification import (
    accuracy,
    confusion_matrix,
    f1,
    matthews,
    multilabel,
)

quick = settings(max_examples=40, deadline=None)
# Few classes, so that ties, absent classes and constant predictions are common.
LABELS = st.one_of(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12),
    st.lists(
        st.tuples(st.sampled_from(["", "é", "负", "b"]), st.sampled_from(["é", "b"])), min_size=1
    ),
)
BINARY = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def sklearn() -> Any:
    return pytest.importorskip("sklearn.metrics")


@quick
@given(LABELS)
def test_labels_as_scikit_learn(sklearn: Any, pairs: list[tuple[Any, Any]]) -> None:
    predictions, references = map(list, zip(*pairs))
    assert accuracy(predictions, references)["accuracy"] == pytest.approx(
        sklearn.accuracy_score(references, predictions)
    )
    # It warns of a single class, and calls its correlation 0 as we do.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sklearn.matthews_corrcoef(references, predictions)
        matrix = sklearn.confusion_matrix(references, predictions)
    assert matthews(predictions, references)["matthews"] == pytest.approx(expected)
    np.testing.assert_array_equal(confusion_matrix(predictions, references)[1], matrix)
    for average in ("macro", "micro", "weighted"):
        for labels in (None, [references[0]]):
            compare(sklearn, predictions, references, average, labels)


def compare(
    sklearn: Any, predictions: Any, references: Any, average: str, labels: list[Any] | None
) -> None:
    found = f1(predictions, references, average=average, labels=labels)
    expected = sklearn.precision_recall_fscore_support(
        references, predictions, average=average, labels=labels, zero_division=0
    )
    assert list(found) == [f"{name}_{average}" for name in ("precision", "recall", "f1")]
    assert list(found.values()) == pytest.approx(expected[:3])


@quick
@given(BINARY)
def test_binary_as_scikit_learn(sklearn: Any, pairs: list[tuple[int, int]]) -> None:
    predictions, references = np.array(pairs).T
    expected = sklearn.precision_recall_fscore_support(
        references, predictions, average="binary", zero_division=0
    )
    found = f1(predictions, references)
    assert [found[name] for name in ("precision", "recall", "f1")] == pytest.approx(expected[:3])


@quick
@given(
    st.integers(1, 3).flatmap(
        lambda n: st.lists(
            st.tuples(*[st.lists(st.integers(0, 1), min_size=n, max_size=n)] * 2),
            min_size=1,
            max_size=6,
        )
    )
)
def test_multilabel_as_scikit_learn(sklearn: Any, pairs: list[tuple[list[int], ...]]) -> None:
    predictions, references = (np.array(rows) for rows in zip(*pairs))
    if predictions.shape[1] == 1:
        # scikit-learn takes a single column for a binary problem: give it an empty second one.
        predictions, references = (
            np.pad(rows, ((0, 0), (0, 1))) for rows in (predictions, references)
        )
    for average in ("macro", "micro", "weighted", "samples"):
        found = multilabel(predictions, references, average=average)
        expected = sklearn.precision_recall_fscore_support(
            references, predictions, average=average, zero_division=0
        )
        three = [found[f"{name}_{average}"] for name in ("precision", "recall", "f1")]
        assert three == pytest.approx(expected[:3])
    assert found["subset_accuracy"] == sklearn.accuracy_score(references, predictions)
    assert found["hamming_loss"] == pytest.approx(sklearn.hamming_loss(references, predictions))


def test_by_hand() -> None:
    """2 of 3 predicted ones are right, of 4."""
    predictions, references = [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 1, 0]
    assert f1(predictions, references) == pytest.approx(
        {"precision": 2 / 3, "recall": 1 / 2, "f1": 4 / 7}
    )
    assert f1(predictions, references, positive=0)["precision"] == pytest.approx(1 / 3)
    assert accuracy(predictions, references) == {"accuracy": 0.5}
    # TP 2, FP 1, FN 2, TN 1.
    expected = (2 * 1 - 1 * 2) / math.sqrt(3 * 4 * 2 * 3)
    assert matthews(predictions, references)["matthews"] == pytest.approx(expected)
    assert confusion_matrix(predictions, references)[1].tolist() == [[1, 1], [2, 2]]
    assert confusion_matrix(["a", "c"], ["b", "b"], ["b", "a"])[1].tolist() == [[0, 1], [0, 0]]


def test_great_counts_do_not_overflow() -> None:
    references = np.arange(1 << 18) % 2
    assert matthews(references, references)["matthews"] == 1
    assert matthews(1 - references, references)["matthews"] == -1


@pytest.mark.parametrize("bins", [1, 2, 10, 15])
def test_calibration_is_the_formula(bins: int) -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(3, 0.5), 200)
    # On the edges of bins, and beyond 1 by rounding.
    p[:4] = [[0.7, 0.3, 0.0], [0.6, 0.4, 0.0], [1.0, 0, 0], [1.0000001, 0, 0]]
    references = rng.integers(3, size=200)
    error, worst = 0.0, 0.0
    for m in range(1, bins + 1):
        inside = [i for i in range(200) if (m - 1) / bins < min(p[i].max(), 1) <= m / bins]
        if inside:
            right = np.mean([p[i].argmax() == references[i] for i in inside])
            gap = abs(right - np.mean([min(p[i].max(), 1) for i in inside]))
            error, worst = error + len(inside) / 200 * gap, max(worst, gap)
    found = calibration(p, references, bins=bins)
    assert found["expected_calibration_error"] == pytest.approx(error)
    assert found["maximum_calibration_error"] == pytest.approx(worst)
    assert found["accuracy"] == np.mean(p.argmax(1) == references)


def test_calibration_of_the_sure() -> None:
    p = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert calibration(p, [0, 1])["expected_calibration_error"] == 0
    assert calibration(p, [1, 0])["expected_calibration_error"] == 1
    # Overconfidence and its opposite within one bin cancel: that is the measure.
    assert calibration([[0.5, 0.5]] * 2, [0, 1])["expected_calibration_error"] == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: accuracy([], []), "no examples"),
        (lambda: accuracy([1], [1, 2]), "1 predictions for 2 references"),
        (lambda: accuracy("ab", "ab"), "must be a sequence"),
        (lambda: f1([0, 1, 2], [0, 1, 2]), "of two classes"),
        (lambda: f1(["a", "b"], ["b", "a"]), "of two classes"),
        (lambda: f1([1, "a"], [1, "a"], average="macro"), "all numbers or all texts"),
        (lambda: f1([0.5], [1.0], average="macro"), "no class label"),
        (lambda: f1([[1]], [[1]], average="macro"), "labels must be"),
        (lambda: f1([[1]], [1], average="macro", labels=[1]), "labels must be"),
        (lambda: multilabel([[0, 2]], [[0, 1]]), "0 or 1"),
        (lambda: multilabel([[0, 1]], [[0, 1, 1]]), "as many labels"),
        (lambda: multilabel([], []), "no examples"),
        (lambda: calibration([[2.0, -1.0]], [0]), "probabilities"),
        (lambda: calibration([[0.5, 0.5]], [2]), "from 0 to 1"),
        (lambda: calibration([], []), "no examples"),
        (lambda: calibration([0.5], [1]), "2 dimension"),
        (lambda: calibration([[math.nan, 1]], [1]), "not a finite number"),
    ],
)
def test_what_cannot_be_measured(call: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        call()


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="positive"):
        f1([0, 1], [0, 1], labels=[1])
    with pytest.raises(ConfigError, match="macro, micro or weighted"):
        f1([0, 1], [0, 1], average="mean")
    with pytest.raises(ConfigError, match="1 bin"):
        calibration([[1.0, 0.0]], [0], bins=0)
