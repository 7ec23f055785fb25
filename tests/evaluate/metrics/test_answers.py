"""SQuAD and CMRC: the official scripts' rules, written anew from their definition."""

from __future__ import annotations

import math
import re
import string
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.errors import UserError
from lm.evaluate.metrics.answers import mixed_tokens, squad, squad_chinese, squad_v2

quick = settings(max_examples=60, deadline=None)
WORDS = st.sampled_from(
    ["the", "The", "a", "an", "", "cat", "Cat!", "cats,", "U.S.", "é", "don't", "—", " ", "\u3000"]
)
TEXTS = st.lists(WORDS, max_size=4).map(" ".join)
QUESTIONS = st.lists(
    st.tuples(TEXTS, st.lists(TEXTS, max_size=3), st.integers(-2, 3).map(float)),
    min_size=1,
    max_size=6,
)


def words(text: str) -> list[str]:
    kept = [c for c in text.lower() if c not in string.punctuation]
    return re.sub(r"\b(?:the|an|a)\b", " ", "".join(kept)).split()


def overlap(prediction: list[str], gold: list[str]) -> float:
    common, rest = 0, list(gold)
    for word in prediction:
        if word in rest:
            rest.remove(word)
            common += 1
    if not common:
        return 0.0
    precision, recall = common / len(prediction), common / len(gold)
    return 2 * precision * recall / (precision + recall)


@quick
@given(QUESTIONS)
def test_version_1(questions: list[tuple[str, list[str], float]]) -> None:
    predictions = [prediction for prediction, _, _ in questions]
    references = [golds or ["cat"] for _, golds, _ in questions]
    exact = [max(words(p) == words(g) for g in some) for p, some in zip(predictions, references)]
    shared = [
        max(overlap(words(p), words(g)) for g in some) for p, some in zip(predictions, references)
    ]
    found = squad(predictions, references)
    assert found == pytest.approx(
        {"exact_match": 100 * np.mean(exact), "f1": 100 * np.mean(shared)}
    )


def version_2(prediction: str, golds: list[str]) -> tuple[float, float]:
    filled = [gold for gold in golds if words(gold)] or [""]
    exact = max(float(words(prediction) == words(gold)) for gold in filled)
    shared = max(
        overlap(words(prediction), words(gold))
        if words(prediction) and words(gold)
        else float(words(prediction) == words(gold))
        for gold in filled
    )
    return exact, shared


@quick
@given(QUESTIONS, st.integers(-2, 3).map(float))
def test_version_2(questions: list[tuple[str, list[str], float]], threshold: float) -> None:
    references = [golds for _, golds, _ in questions]
    each = np.array([version_2(p, golds) for p, golds, _ in questions])
    has = np.array([bool(golds) for golds in references])
    found = squad_v2([p for p, _, _ in questions], references)
    assert [found["exact_match"], found["f1"]] == pytest.approx(100 * each.mean(0))
    for group, members in (("has_answer", has), ("no_answer", ~has)):
        assert (f"{group}_f1" in found) == members.any()
        if members.any():
            assert found[f"{group}_f1"] == pytest.approx(100 * each[members].mean(0)[1])
    # With scores: a text is dropped where the score exceeds the threshold.
    scored = [(p, score) for p, _, score in questions]
    for index, (_, golds, score) in enumerate(questions):
        if score > threshold:
            each[index] = not golds
    found = squad_v2(scored, references, threshold=threshold)
    assert [found["exact_match"], found["f1"]] == pytest.approx(100 * each.mean(0))


@quick
@given(QUESTIONS)
def test_best_threshold(questions: list[tuple[str, list[str], float]]) -> None:
    """The script keeps one more text at a time, in the order of scores, from none at all."""
    found = squad_v2(
        [(p, score) for p, _, score in questions], [golds for _, golds, _ in questions]
    )
    for name, column in (("exact_match", 0), ("f1", 1)):
        kept = float(sum(not golds for _, golds, _ in questions))
        best, threshold = kept, 0.0
        for prediction, golds, score in sorted(questions, key=lambda question: question[2]):
            if golds:
                kept += version_2(prediction, golds)[column]
            elif prediction:
                kept -= 1
            if kept > best + 1e-9:
                best, threshold = kept, score
        assert found[f"best_{name}"] == pytest.approx(100 * best / len(questions))
        none_kept = best == sum(not golds for _, golds, _ in questions)
        if not none_kept or min(score for _, _, score in questions) > 0:
            assert found[f"best_{name}_threshold"] == threshold


def test_the_best_threshold_gives_the_best_score() -> None:
    """Without ties, which the script splits; also where it is to drop all, scores below 0."""
    rng = np.random.default_rng(0)
    for trial in range(30):
        scored = [(str(rng.choice(["x", "y", ""])), float(s)) for s in rng.normal(size=6)]
        references = [["x"] if rng.random() < trial / 30 else [] for _ in scored]
        found = squad_v2(scored, references)
        for name in ("exact_match", "f1"):
            again = squad_v2(scored, references, threshold=found[f"best_{name}_threshold"])
            assert again[name] == pytest.approx(found[f"best_{name}"])


def test_best_threshold_by_hand() -> None:
    # An empty text of an unanswerable question costs nothing to keep.
    found = squad_v2([("", 0.0), ("x", 1.0)], [[], ["x"]])
    assert found["best_f1"] == 100 and found["best_f1_threshold"] == 1
    # Ties in the order given: twenty right ones before as many wrong ones.
    found = squad_v2([("x", 1.0)] * 40, [["x"]] * 20 + [[]] * 20)
    assert found["best_f1"] == 100
    found = squad_v2([("x", 1.0)] * 40, [["x"], []] * 20)
    assert found["best_f1"] == pytest.approx(100 * 21 / 40)


def test_normalisation_by_hand() -> None:
    assert squad(["The  U.S. Army!"], [["us army"]]) == {"exact_match": 100, "f1": 100}
    assert squad(["in the house"], [["house", "a big house"]]) == pytest.approx(
        {"exact_match": 0, "f1": 200 / 3}
    )
    # Articles are whole words, punctuation is ASCII's, and case folds no further than lower().
    assert squad(["theatre"], ["atre"])["exact_match"] == 0
    assert squad(["“x”"], ["x"])["exact_match"] == 0
    # Two answers of nothing but an article: only version 2 gives F1 for it.
    assert squad(["the"], ["a"]) == {"exact_match": 100, "f1": 0}
    assert squad_v2(["the"], ["a"])["f1"] == 100


# ------------------------------------------------------------------------------------------- CMRC


@quick
@given(
    st.lists(st.tuples(*[st.text("北京大学，。 ab1·-", max_size=8)] * 2), min_size=1, max_size=3)
)
def test_chinese(pairs: list[tuple[str, str]]) -> None:
    predictions, golds = map(list, zip(*pairs))
    exact, shared = [], []
    for prediction, gold in pairs:
        plain = [re.sub("[，。·-]", "", text.lower().strip()) for text in (prediction, gold)]
        exact.append(plain[0] == plain[1])
        found, wanted = (re.findall("[一-龥]|[a-z0-9]+", text) for text in plain)
        match = SequenceMatcher(None, found, wanted, autojunk=False).find_longest_match()
        precision, recall = match.size / max(len(found), 1), match.size / max(len(wanted), 1)
        shared.append(2 * precision * recall / (precision + recall) if match.size else 0)
    result = squad_chinese(predictions, golds)
    assert result["exact_match"] == pytest.approx(100 * np.mean(exact))
    assert result["f1"] == pytest.approx(100 * np.mean(shared))
    assert result["average"] == pytest.approx((result["exact_match"] + result["f1"]) / 2)


def test_chinese_by_hand() -> None:
    # The longest common stretch is unbroken: 北京 of 北京大学 (4) and 北京的大学 (5).
    assert squad_chinese(["北京的大学"], [["北京大学"]])["f1"] == pytest.approx(100 * 2 * 2 / 9)
    assert squad_chinese(["《北京》，"], [["上海", "北京"]]) == {
        "exact_match": 100, "f1": 100, "average": 100,
    }  # fmt: skip
    # ASCII's full stop and comma are not on the script's list, nor is a single ellipsis.
    assert squad_chinese(["1.5万"], ["15万"])["exact_match"] == 0
    assert squad_chinese(["好…"], ["好"])["exact_match"] == 0
    assert squad_chinese([""], ["，"]) == {"exact_match": 100, "f1": 0, "average": 50}


WESTERN = ["1,000.5米", "st. john (of) matha", "tim's", "net framework.", "a, b", "50％", "60–16"]


@pytest.mark.parametrize("text", WESTERN)
def test_western_words_as_nltk(text: str) -> None:
    nltk = pytest.importorskip("nltk.tokenize")
    western = re.sub("[一-龥]", "", text)
    chinese = re.findall("[一-龥]", text)
    assert mixed_tokens(text) == nltk.NLTKWordTokenizer().tokenize(western) + chinese


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("metric", "predictions", "references", "message"),
    [
        (squad, ["x"], [[]], r"references\[0\]: the question has no answer; squad_v2"),
        (squad_chinese, ["x"], [[]], "has no answer"),
        (squad, [], [], "no examples"),
        (squad_v2, ["x", "y"], [["x"]], "2 predictions for 1"),
        (squad, [None], [["x"]], r"predictions\[0\] must be a text, not None"),
        (squad, ["x"], [[1]], r"references\[0\]\[0\] must be a text"),
        (squad_v2, [("x", math.nan)], [[]], "finite"),
        (squad_v2, [("x", 1.0), "y"], [[], []], "must be a text"),
    ],
)
def test_what_cannot_be_measured(
    metric: Any, predictions: Any, references: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        metric(predictions, references)


def test_a_threshold_needs_scores() -> None:
    with pytest.raises(UserError, match="pairs of a text and a number"):
        squad_v2(["x"], [[]], threshold=0.5)
