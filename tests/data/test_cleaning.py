import pytest

from lm.config import CleanConfig
from lm.data.cleaning import CleanCounts, clean


def run(texts: list[str], config: CleanConfig) -> tuple[list[str], CleanCounts]:
    counts = CleanCounts()
    return [d["text"] for d in clean(({"text": t} for t in texts), config, counts)], counts


def test_nothing_but_empty_documents_is_touched_by_default() -> None:
    texts = ["a\r\n\x00b", "", " \n\t", "e\u0301", "a\r\n\x00b"]
    kept, counts = run(texts, CleanConfig())
    assert kept == ["a\r\n\x00b", "e\u0301", "a\r\n\x00b"]
    assert counts.as_dict() == {
        "documents_read": 5,
        "documents": 3,
        "empty": 2,
        "duplicates": 0,
        "characters_read": 15,
        "characters": 12,
        "bytes": 13,
        "characters_normalized": 0,
        "control_characters_removed": 0,
    }


@pytest.mark.parametrize(
    ("form", "text", "expected", "changed"),
    [
        ("NFC", "cafe\u0301 x", "caf\u00e9 x", 2),
        ("NFC", "\uff21\ufb01", "\uff21\ufb01", 0),
        ("NFKC", "\uff21\ufb01\u3000", "Afi ", 3),
        ("NFKC", "春眠，", "春眠,", 1),
    ],
)
def test_normalisation_and_its_count(form: str, text: str, expected: str, changed: int) -> None:
    kept, counts = run([text], CleanConfig(normalization=form))  # type: ignore[arg-type]
    assert kept == [expected]
    assert counts.characters_normalized == changed


def test_control_characters() -> None:
    kept, counts = run(
        ["a\r\nb\tc\x00\x1b\x7f\x85d\n", "\x00\x01"], CleanConfig(control_characters="remove")
    )
    assert kept == ["a\nb\tc\nd\n"]
    assert counts.control_characters_removed == 5 + 2
    assert counts.empty == 1  # what only control characters held is empty after their removal


def test_what_ends_a_line_or_page_does_not_join_two_words() -> None:
    kept, counts = run(["a\rb\x0bc\x0cd\x85e\r\r\nf"], CleanConfig(control_characters="remove"))
    assert kept == ["a\nb\nc\nd\ne\n\nf"]
    assert counts.control_characters_removed == 6


def test_duplicates_are_judged_after_the_other_steps_and_the_first_stays() -> None:
    config = CleanConfig(normalization="NFC", control_characters="remove", deduplicate=True)
    kept, counts = run(["b", "\u00e9", "e\u0301", "b\x00", "B"], config)
    assert kept == ["b", "\u00e9", "B"]
    assert (counts.documents_read, counts.documents, counts.duplicates) == (5, 3, 2)


def test_documents_of_several_fields() -> None:
    pairs = [
        {"source": "a", "target": "bc"},
        {"source": "ab", "target": "c"},
        {"source": "a", "target": "bc"},
        {"source": "a", "target": " "},
    ]
    counts = CleanCounts()
    kept = list(clean(pairs, CleanConfig(deduplicate=True), counts))
    assert kept == pairs[:2]
    assert (counts.duplicates, counts.empty) == (1, 1)
