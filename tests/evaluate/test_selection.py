"""Which metrics measure what, and how a command line names them."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest

from lm.config import (
    Classification,
    Config,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    SequenceToSequence,
    TokenClassification,
    WordsTokenizer,
)
from lm.errors import ConfigError
from lm.evaluate import selection
from lm.evaluate.selection import Chosen, check, default, joined, parsed, values_of
from tests.predict.runs import ENCODER, JOINED, tiny_run

BASE = tiny_run("classification").config


def config(objective: Any, **settings: Any) -> Config:
    """A run's config with another objective, which its model need not fit: nothing looks at it."""
    found = copy.copy(BASE)
    model = JOINED if isinstance(objective, SequenceToSequence) else ENCODER
    for name, value in {"objective": objective, "model": model, **settings}.items():
        object.__setattr__(found, name, value)
    return found


TWO = config(Classification(labels=("bad", "good")))
THREE = config(Classification(labels=("a", "b", "c")))
PAIRS = config(SequenceToSequence())


def test_metrics_as_they_are_written() -> None:
    assert parsed(["rouge:stemmer=true:kinds=rouge1+rougeL", " chrf:word_order=2", "bleu"]) == [
        Chosen("rouge", {"stemmer": True, "kinds": ["rouge1", "rougeL"]}),
        Chosen("chrf", {"word_order": 2}),
        Chosen("bleu"),
    ]
    assert parsed(["calibration:bins=5"])[0].options == {"bins": 5}
    # Labels are texts, and a list may have one item.
    assert parsed(["f1:positive=1", "rouge:kinds=rouge1"]) == [
        Chosen("f1", {"positive": "1"}), Chosen("rouge", {"kinds": ["rouge1"]})
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="an option is written rouge:OPTION=VALUE, not 'stemmer'"):
        parsed(["rouge:stemmer"])
    with pytest.raises(ConfigError, match="names 'bleu' twice"):
        parsed(["bleu", "bleu:tokenize=zh"])


def names(given: Config, truths: list[dict[str, Any]]) -> list[str]:
    return [one.name for one in default(given, truths)[0]]


def test_defaults_are_what_papers_report() -> None:
    labels = ["accuracy", "f1_macro", "matthews", "calibration"]
    assert names(THREE, []) == labels
    assert names(TWO, []) == ["accuracy", "f1", *labels[1:]]
    many = config(Classification(labels=("a", "b"), multi_label=True))
    assert names(many, []) == ["multilabel"]
    assert names(config(Regression()), []) == ["pearson", "spearman", "mean_squared_error"]
    tags = config(TokenClassification(labels=("O", "B-X", "I-X")))
    assert names(tags, []) == ["entities", "word_accuracy"]
    assert names(config(TokenClassification(labels=("NN", "VB"))), []) == ["word_accuracy"]
    assert names(config(MultipleChoice()), []) == ["accuracy"]
    asked = config(QuestionAnswering())
    assert names(asked, [{"answers": ["Ada Lovelace"]}]) == ["squad"]
    assert names(asked, [{"answers": ["北京大学"]}, {"answers": ["1998"]}]) == ["squad_chinese"]
    assert names(config(QuestionAnswering(unanswerable=True)), []) == ["squad_v2"]


def test_defaults_of_texts_follow_their_script_and_tokens(monkeypatch: Any) -> None:
    monkeypatch.setattr(selection, "installed", lambda name: True)
    english, chinese = [{"texts": ["a fine film"]}], [{"texts": ["北京大学"]}]
    assert names(PAIRS, english) == ["chrf", "bleu", "rouge"]
    found, _ = default(PAIRS, chinese)
    assert found[1] == Chosen("bleu", {"tokenize": "zh"})
    assert found[2] == Chosen("rouge", {"tokenizer": "characters"})
    # One example in another script does not decide for the rest.
    mixed, _ = default(PAIRS, [*english, {"texts": ["Привет, Ada"]}])
    assert mixed[2] == Chosen("rouge", {"tokenizer": "script"})
    assert default(PAIRS, [{"texts": ["Ada Лавлейс, 1815"]}])[0][2].options == {
        "tokenizer": "characters"
    }
    assert default(PAIRS, [{"texts": ["naïve мир"]}, *english])[0][2] == Chosen("rouge")
    words = dataclasses.replace(BASE.data, tokenizer=WordsTokenizer())
    split = config(SequenceToSequence(), data=words)
    assert names(split, english) == ["chrf", "bleu_tokenised", "rouge"]
    monkeypatch.setattr(selection, "installed", lambda name: name not in ("bleu", "rouge"))
    found, lacking = default(PAIRS, english)
    assert [one.name for one in found] == ["chrf"] and lacking == ["bleu", "rouge"]


def test_metrics_that_measure_something_else() -> None:
    with pytest.raises(ConfigError, match="'bleu' is no metric of classification.*known:.*matth"):
        check(TWO, [Chosen("bleu")])
    with pytest.raises(ConfigError, match="did you mean 'matthews'"):
        check(TWO, [Chosen("mathews")])
    with pytest.raises(ConfigError, match="f1 is of the second of two labels, and here are 3"):
        check(THREE, [Chosen("f1")])
    with pytest.raises(ConfigError, match="'chrf' has no option 'words'"):
        check(PAIRS, [Chosen("chrf", {"words": 2})])
    for options, said in (("word_order=two", "a whole number"), ("lowercase=1", "true or false")):
        with pytest.raises(ConfigError, match=f"should be {said}"):
            check(PAIRS, parsed([f"chrf:{options}"]))
    check(TWO, [*parsed(["f1:positive=bad"]), Chosen("calibration", {"bins": 5})])


def test_subwords_are_joined_as_fairseq_does() -> None:
    assert joined("zwei män@@ ner ste@@ hen") == "zwei männer stehen"
    assert joined("ein ende mit@@") == "ein ende mit"
    assert joined("a @-@ b @") == "a @-@ b @"


def test_values_of_answers() -> None:
    answers = [{"label": "good", "probabilities": {"bad": 0.2, "good": 0.8}}]
    truths = [{"label": "bad"}]
    assert values_of(TWO, "accuracy", answers, truths) == (["good"], ["bad"])
    p, right = values_of(TWO, "calibration", answers, truths)
    np.testing.assert_array_equal(p, [[0.2, 0.8]])
    assert right.tolist() == [0]
    assert selection.options_of(TWO, Chosen("f1")) == {"positive": "good"}
    tags = config(TokenClassification(labels=("O", "B-X"), outside="O"))
    # Of a word that did not fit nothing is said.
    found, _ = values_of(tags, "entities", [{"tags": ["B-X", None]}], [{"tags": ["O", "B-X"]}])
    assert found == [["B-X", "O"]]
    # Choices that there are not cannot be right.
    some = [{"label": 0, "probabilities": [0.7, 0.3]}, {"label": 2, "probabilities": [0, 0, 1]}]
    p, _ = values_of(config(MultipleChoice()), "calibration", some, [{"label": 0}, {"label": 1}])
    np.testing.assert_array_equal(p, [[0.7, 0.3, 0], [0, 0, 1]])
    many = config(Classification(labels=("a", "b"), multi_label=True))
    found, wanted = values_of(many, "multilabel", [{"labels": ["b"]}], [{"labels": []}])
    assert found.tolist() == [[0, 1]] and wanted.tolist() == [[0, 0]]
