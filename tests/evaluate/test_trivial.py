"""Answers that need no model, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lm.config import (
    Classification,
    Instruction,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    SequenceToSequence,
    TokenClassification,
)
from lm.data.examples_read import Example
from lm.evaluate.trivial import Trivial, sentences, trivial
from tests.evaluate.test_selection import config


def made(objective: Any, learned: list[Any], asked: list[Any]) -> Trivial:
    """Examples and truths are given as pairs of mappings."""
    training = [(Example(values, "t"), truth) for values, truth in learned]
    examples = [Example(values, "e") for values, _ in asked]
    return trivial(config(objective), training, examples, [truth for _, truth in asked])


def test_the_most_frequent_label_with_its_frequency() -> None:
    """Of 2, 1 and 0 examples, and half a one more each: 2.5, 1.5 and 0.5 of 4.5."""
    learned = [({}, {"label": name}) for name in ("b", "b", "a")]
    found = made(Classification(labels=("a", "b", "c")), learned,
                 [({}, {"label": "b"}), ({}, {"label": "c"})])  # fmt: skip
    assert [answer["label"] for answer in found.answers] == ["b", "b"]
    p = found.answers[0]["probabilities"]
    assert p == pytest.approx({"a": 1.5 / 4.5, "b": 2.5 / 4.5, "c": 0.5 / 4.5})
    assert found.loss == pytest.approx(-(math.log(2.5 / 4.5) + math.log(0.5 / 4.5)) / 2)
    assert found.what == "always 'b', the most frequent label"


def test_labels_that_most_examples_have() -> None:
    learned = [({}, {"labels": some}) for some in (["a"], ["a", "b"], ["a"])]
    objective = Classification(labels=("a", "b"), multi_label=True)
    found = made(objective, learned, [({}, {"labels": ["b"]})])
    assert found.answers == [{"labels": ["a"], "probabilities": {"a": 3.5 / 4, "b": 1.5 / 4}}]
    assert found.loss == pytest.approx(-(math.log(0.5 / 4) + math.log(1.5 / 4)) / 2)


def test_the_mean_number() -> None:
    learned = [({}, {"value": value}) for value in (1.0, 2.0, 6.0)]
    found = made(Regression(), learned, [({}, {"value": 5.0}), ({}, {"value": 1.0})])
    assert found.answers == [{"value": 3.0}] * 2 and found.loss == 4.0


def test_every_words_most_frequent_tag() -> None:
    learned = [({"words": ["Ada", "is", "Ada"]}, {"tags": ["N", "O", "N"]}),
               ({"words": "Ada so it was"}, {"tags": ["O", "O", "O", "O"]})]  # fmt: skip
    found = made(TokenClassification(labels=("O", "N")), learned,
                 [({"words": ["Bob", "Ada"]}, {"tags": ["N", "N"]})])  # fmt: skip
    assert found.answers[0]["tags"] == ["O", "N"] and "'O'" in found.what


def test_the_sentence_with_most_words_of_the_question() -> None:
    context = "It rained. Ada wrote the first program. Bob wrote nothing!"
    asked = [({"question": "Who wrote the program?", "context": context}, {"answers": ["Ada"]}),
             ({"question": "北京在哪？", "context": "上海很大。北京在北方。"}, {"answers": ["x"]}),
             ({"question": "Zzz?", "context": "One. Two."}, {"answers": ["One"]})]  # fmt: skip
    found = made(QuestionAnswering(), [], asked)
    said = [answer["answer"] for answer in found.answers]
    assert said == ["Ada wrote the first program.", "北京在北方。", "One."]


def test_no_answer_where_that_is_the_better_one() -> None:
    context = "It rained. Ada wrote it."
    asked = [({"question": "Who wrote it?", "context": context}, {"answers": []})]
    sentence = ({"question": "Who wrote it?", "context": context}, {"answers": ["Ada wrote it."]})
    objective = QuestionAnswering(unanswerable=True)
    found = made(objective, [*asked, sentence], asked)
    # On the training data both are right half the time.
    assert found.answers == [{"answer": "", "score": None}] and "no answer" in found.what
    for learned in ([*asked, sentence, sentence], [sentence]):
        found = made(objective, learned, asked)
        assert found.answers[0]["answer"] == "Ada wrote it." and "sentence" in found.what


def test_of_equally_frequent_ones_the_first_by_name() -> None:
    objectives: dict[Any, list[Any]] = {
        Classification(labels=("b", "a")): [({}, {"label": "b"}), ({}, {"label": "a"})],
        Instruction(): [({}, {"texts": ["b"]}), ({}, {"texts": ["a"]})],
        TokenClassification(labels=("b", "a")): [
            ({"words": ["x"]}, {"tags": ["b"]}), ({"words": ["x"]}, {"tags": ["a"]}),
        ],
    }  # fmt: skip
    for objective, learned in objectives.items():
        asked = [({"words": ["x", "y"]}, {"label": "a", "tags": ["a", "a"], "texts": ["a"]})]
        one, other = (made(objective, some, asked) for some in (learned, learned[::-1]))
        assert one == other
        assert "'a'" in one.what
        assert one.answers[0].get("tags", ["a", "a"]) == ["a", "a"]


def test_the_place_where_choices_are_mostly_right() -> None:
    learned = [({}, {"label": label}) for label in (1, 1, 0, 2)]
    found = made(MultipleChoice(), learned, [({"choices": ["x", "y"]}, {"label": 0})])
    # Of places 0 and 1 alone: 1.5 and 2.5.
    assert found.answers == [{"label": 1, "probabilities": [1.5 / 4, 2.5 / 4]}]
    assert found.loss == pytest.approx(-math.log(1.5 / 4))


def test_a_copy_of_the_source_or_its_first_sentence() -> None:
    asked = [({"text": "Ein Hund. Er rennt."}, {"texts": ["A dog. It runs."]})]
    alike = [({"text": "abcdef"}, {"texts": ["uvwxy"]})]
    assert made(SequenceToSequence(), alike, asked).answers == [{"text": "Ein Hund. Er rennt."}]
    short = [({"text": "abcdefghijkl"}, {"texts": ["abcd", "much longer than that"]})]
    found = made(SequenceToSequence(), short, asked)
    assert found.answers == [{"text": "Ein Hund."}] and "first sentence" in found.what


def test_the_most_frequent_reply() -> None:
    learned = [({}, {"texts": [text]}) for text in ("yes", "no", "yes")]
    assert made(Instruction(), learned, [({}, {"texts": ["no"]})]).answers == [{"text": "yes"}]


def test_sentences() -> None:
    assert sentences("One. Two? Three") == ["One.", "Two?", "Three"]
    assert sentences("3.14 is pi") == ["3.14 is pi"]
    assert sentences("今天。明天！") == ["今天。", "明天！"]
    assert sentences(" ") == [" "]
