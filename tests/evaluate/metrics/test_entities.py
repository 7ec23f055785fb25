"""Entities from tags: seqeval's default rules, by example and by random tags."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.errors import UserError
from lm.evaluate.metrics.entities import entities, spans

TAGS = st.sampled_from(["O", *(f"{letter}-{kind}" for letter in "BIES" for kind in "XY"), "B", "I"])
SENTENCES = st.lists(
    st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=7), min_size=1, max_size=3
)


@settings(max_examples=100, deadline=None)
@given(SENTENCES)
def test_as_seqeval(sentences: list[list[tuple[str, str]]]) -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    finder = pytest.importorskip("seqeval.metrics.sequence_labeling")
    predictions = [[pair[0] for pair in sentence] for sentence in sentences]
    references = [[pair[1] for pair in sentence] for sentence in sentences]
    for tags in predictions:
        expected = [(kind, begin, last + 1) for kind, begin, last in finder.get_entities(tags)]
        assert spans(tags) == expected
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for average in ("micro", "macro", "weighted"):
            # Its mean over no types at all is nan; ours is 0.
            if average != "micro" and not any(map(spans, predictions + references)):
                continue
            expected = (
                seqeval.precision_recall_fscore_support(references, predictions, average=average)[
                    :3
                ]
                if hasattr(seqeval, "precision_recall_fscore_support")
                else [
                    getattr(seqeval, f"{name}_score")(references, predictions, average=average)
                    for name in ("precision", "recall", "f1")
                ]
            )
            found = entities(predictions, references, average=average)
            assert list(found.values()) == pytest.approx(list(expected))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-X I-X O B-X", [("X", 0, 2), ("X", 3, 4)]),
        ("B-X B-X I-Y", [("X", 0, 1), ("X", 1, 2), ("Y", 2, 3)]),
        ("I-X I-X O", [("X", 0, 2)]),
        ("B-X I-X E-X E-X S-X S-X", [("X", 0, 3), ("X", 3, 4), ("X", 4, 5), ("X", 5, 6)]),
        ("O O", []),
        ("B I O I", [("_", 0, 2), ("_", 3, 4)]),
        ("B-geo-loc I-geo-loc", [("geo-loc", 0, 2)]),
        ("", []),
    ],
)
def test_spans(tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert spans(tags.split()) == expected


def test_by_hand() -> None:
    """Of 3 predicted entities 1 is right (one is too short, one of another type), of 2."""
    references = [["B-X", "I-X", "O", "B-X"]]
    predictions = [["B-X", "O", "B-Y", "B-X"]]
    assert entities(predictions, references) == pytest.approx(
        {"entity_precision": 1 / 3, "entity_recall": 1 / 2, "entity_f1": 2 / 5}
    )
    # Sentences do not run into each other, and none may have an entity.
    assert entities([["B-X"], ["I-X"]], [["B-X"], ["I-X"]])["entity_f1"] == 1
    assert entities([["O"]], [["O"]])["entity_f1"] == 0
    assert entities([["O"]], [["O"]], average="macro")["entity_f1"] == 0


def test_what_cannot_be_measured() -> None:
    for predictions, references, words in (
        ([["O"]], [["O", "O"]], "sentence 0 has 2 tags"),
        ([["X-Y"]], [["O"]], "'X-Y' is no tag"),
        ([["BX"]], [["O"]], "no tag"),
        ([["O-X"]], [["O"]], "no tag"),
        ([[3]], [["O"]], "must be a text"),
        (["O"], ["O"], "must be a sequence"),
        ([], [], "no examples"),
    ):
        with pytest.raises(UserError, match=words):
            entities(predictions, references)
