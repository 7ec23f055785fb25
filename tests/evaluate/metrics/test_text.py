"""BLEU, chrF and ROUGE: as sacrebleu, rouge-score and multi-bleu.perl have them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.errors import ConfigError, UserError
from lm.evaluate.metrics.bootstrap import statistic_interval
from lm.evaluate.metrics.chrf import chrf
from lm.evaluate.metrics.text import (
    bleu,
    bleu_counts,
    bleu_of_counts,
    bleu_signature,
    bleu_tokenised,
    exact_match,
    rouge,
)

quick = settings(max_examples=40, deadline=None)
LINES = st.lists(st.sampled_from(["a", "b", "é", "北", ",", "a-b", "&amp;"]), max_size=9).map(
    " ".join
)
CORPORA = st.lists(
    st.tuples(LINES, st.lists(LINES, min_size=1, max_size=3)), min_size=1, max_size=4
)


@quick
@given(CORPORA)
def test_tokenised_bleu_as_sacrebleu_without_tokens_of_its_own(
    corpus: list[tuple[str, list[str]]],
) -> None:
    """No smoothing, tokenize="none": multi-bleu.perl's computation."""
    sacrebleu = pytest.importorskip("sacrebleu")
    predictions, references = map(list, zip(*corpus))
    most = max(map(len, references))
    streams = [[some[i] if i < len(some) else None for some in references] for i in range(most)]
    expected = sacrebleu.corpus_bleu(
        predictions, streams, tokenize="none", smooth_method="none", force=True
    )
    found = bleu_tokenised(predictions, references)
    assert found["bleu_tokenised"] == pytest.approx(expected.score, abs=1e-9)
    # Of no reference at all the script makes 0.
    assert found["brevity_penalty"] == pytest.approx(expected.bp if expected.ref_len else 0)
    assert found["length_ratio"] == pytest.approx(expected.ratio)


def test_tokenised_bleu_by_hand() -> None:
    """5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples; no shorter than the nearest
    reference."""
    found = bleu_tokenised(["the cat sat on the mat"], [["the cat lay on the mat"]])
    assert found["bleu_tokenised"] == 0  # no quadruple is right
    found = bleu_tokenised(["a cat sat on the mat"], ["the cat sat on the mat"])
    expected = 100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25
    assert found == pytest.approx(
        {"bleu_tokenised": expected, "brevity_penalty": 1, "length_ratio": 1}
    )
    # Shorter than the reference; words count no more often than in one reference.
    short = bleu_tokenised(["a b c d"], ["a b c d e f"])
    assert short["bleu_tokenised"] == pytest.approx(100 * math.exp(1 - 6 / 4))
    assert bleu_counts("a a a", ["a b", "a a"]).tolist() == [3, 2, 2, 1, 0, 0, 3, 2, 1, 0]
    # Of references equally near the shorter one's length counts.
    assert bleu_counts("a a a", ["a a a a", "a a"])[1] == 2
    assert bleu_tokenised([""], ["a"])["bleu_tokenised"] == 0


def test_tokens_stand_between_ascii_spaces() -> None:
    """Perl reads bytes: a no-break or ideographic space is part of a token. Hyphens on request."""
    assert bleu_counts("a\u00a0b\u3000c\td", ["x"])[0] == 2
    assert bleu_counts("well-known fact", ["x"])[0] == 2
    assert bleu_counts("well-known fact", ["x"], split_compounds=True)[0] == 4
    assert bleu_counts("- a -b", ["x"], split_compounds=True)[0] == 3


def test_counts_add_up_to_the_corpus() -> None:
    predictions = ["a b c d e", "b c d e f g", "x y z w"]
    references = ["a b c d f", "b c d e f", "x y z w"]
    rows = np.array([bleu_counts(p, [r]) for p, r in zip(predictions, references)])
    whole = bleu_tokenised(predictions, references)
    assert bleu_of_counts(rows.sum(0)) == whole
    interval = statistic_interval(
        rows, lambda sums: bleu_of_counts(sums)["bleu_tokenised"], resamples=50
    )
    assert interval.value == whole["bleu_tokenised"]
    assert interval.low < interval.value < interval.high


def test_bleu_and_chrf_as_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    predictions = ["The cat sat, on a mat.", "Nothing", ""]
    references = [["The cat sat on the mat.", "A cat, sitting on a mat."], ["Nothing else"], "x"]
    streams = [["The cat sat on the mat.", "Nothing else", "x"],
               ["A cat, sitting on a mat.", None, None]]  # fmt: skip
    expected = sacrebleu.corpus_bleu(predictions, streams)
    assert bleu(predictions, references)["bleu"] == pytest.approx(expected.score)
    assert expected.score > 0
    for order in (0, 2):
        expected = sacrebleu.corpus_chrf(predictions, streams, word_order=order)
        assert chrf(predictions, references, word_order=order)["chrf"] == expected.score
    assert bleu(["THE CAT SAT ON"], ["the cat sat on"], lowercase=True)["bleu"] > 99
    # Chinese needs its own tokens: as one word without spaces, half a sentence is worth nothing.
    chinese = (["我们去北京大学"], ["我们去北京大学吧"])
    assert bleu(*chinese, tokenize="zh")["bleu"] > 50 > bleu(*chinese)["bleu"]
    signature = bleu_signature([["x", "y"]], tokenize="zh")
    assert signature.startswith("nrefs:2|case:mixed|eff:no|tok:zh|smooth:exp|version:")


@quick
@given(CORPORA, st.integers(0, 2), st.booleans())
def test_chrf_of_any_corpus_as_sacrebleu(
    corpus: list[tuple[str, list[str]]], order: int, lowercase: bool
) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    predictions, references = map(list, zip(*corpus))
    most = max(map(len, references))
    streams = [[some[i] if i < len(some) else None for some in references] for i in range(most)]
    theirs = sacrebleu.CHRF(word_order=order, lowercase=lowercase)
    expected = theirs.corpus_score(predictions, streams).score
    found = chrf(predictions, references, word_order=order, lowercase=lowercase)
    assert found["chrf"] == pytest.approx(expected)


def test_exact_matches() -> None:
    found = exact_match(["a b ", "x", "C"], ["a b", ["y", " x"], "c"])
    assert found == {"exact_match": pytest.approx(2 / 3)}


def test_rouge_as_rouge_score() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    predictions = ["the cats sat\non the mat", "Nothing at all"]
    references = [["the cat sat on a mat\nand slept", "cats on mats"], ["nothing"]]
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    for stemmer in (False, True):
        theirs = scorer.RougeScorer(kinds, use_stemmer=stemmer)
        each = [
            {kind: max(theirs.score(r, p)[kind].fmeasure for r in some) for kind in kinds}
            for p, some in zip(predictions, references)
        ]
        expected = {kind: np.mean([one[kind] for one in each]) for kind in kinds}
        assert rouge(predictions, references, stemmer=stemmer) == pytest.approx(expected)
    assert rouge(["x"], ["y"], kinds=["rouge3"]) == {"rouge3": 0}


def test_rouge_of_characters() -> None:
    """Of 4 and 5 characters 3 are in common, and of their pairs only 北京."""
    pytest.importorskip("rouge_score")
    found = rouge(["北京大 A"], ["北京的大学"], tokenizer="characters", kinds=["rouge1", "rouge2"])
    assert found == pytest.approx({"rouge1": 2 * 3 / 9, "rouge2": 2 * 1 / 7})
    assert rouge(["ÉA b"], ["éab"], tokenizer="characters")["rougeL"] == 1
    with pytest.raises(UserError, match=r"references\[1\] has no word.*tokenizer='characters'"):
        rouge(["x", "x"], ["x", "北京"])
    # Example by example: characters where most of the references' letters are not of a-z.
    script = rouge(["x y", "北大 A"], ["x z", "北京 A"], tokenizer="script", kinds=["rouge1"])
    alone = rouge(["北大 A"], ["北京 A"], tokenizer="characters", kinds=["rouge1"])
    assert script["rouge1"] == pytest.approx((1 / 2 + alone["rouge1"]) / 2)
    assert alone["rouge1"] == pytest.approx(2 / 3)
    assert rouge(["abc"], ["abcd"], tokenizer="script")["rouge1"] == 0
    # No letters at all is no reason to complain.
    assert rouge(["!"], ["?"])["rouge1"] == 0


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import lm.evaluate.metrics.common as common

    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])

    monkeypatch.setattr(common.importlib, "import_module", absent)
    for metric, package in ((bleu, "sacrebleu"), (rouge, "rouge-score")):
        with pytest.raises(ConfigError, match=rf"{package}.*pip install 'lm\[eval\]'"):
            metric(["x"], ["x"])
    assert bleu_tokenised(["a b c d"], ["a b c d"])["bleu_tokenised"] == 100
    assert chrf(["abcdef"], ["abcdef"])["chrf"] == 100


def test_what_cannot_be_measured() -> None:
    for metric in (bleu_tokenised, bleu, chrf, rouge):
        for predictions, references, words in (
            ([], [], "no examples"),
            (["x"], ["x", "y"], "1 predictions for 2"),
            (["x"], [[]], r"references\[0\]: there is no reference"),
            ([1], ["x"], "must be a text"),
        ):
            with pytest.raises(UserError, match=words):
                metric(predictions, references)


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="did you mean 'rougeLsum'"):
        rouge(["x"], ["x"], kinds=["rougelsum"])
    with pytest.raises(ConfigError, match="no tokenizer 'zh'; known: characters, script, words"):
        rouge(["x"], ["x"], tokenizer="zh")
    with pytest.raises(ConfigError, match="stems"):
        rouge(["x"], ["x"], tokenizer="characters", stemmer=True)
    with pytest.raises(ConfigError, match="0 or more"):
        chrf(["x"], ["x"], word_order=-1)
    pytest.importorskip("sacrebleu")
    with pytest.raises(ConfigError, match="no tokenizer '13b'; did you mean '13a'"):
        bleu(["x"], ["x"], tokenize="13b")
