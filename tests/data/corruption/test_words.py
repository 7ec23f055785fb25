import sys

import numpy as np
import pytest

from lm.data.corruption.vocabulary import Vocabulary
from lm.data.corruption.words import chinese_segmenter, word_ids
from lm.errors import ConfigError

ORDINARY = "una ##ff ##able the ! 我 们 在 学 习 机 器 翻 译 翻译 。 cat"
PIECES = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *ORDINARY.split()]
WORDS = {piece: i for i, piece in enumerate(PIECES)}


def vocabulary(pieces: list[str] = PIECES, special: int = 5) -> Vocabulary:
    size = len(pieces)
    starts = np.array([not p.startswith("##") for p in pieces])
    return Vocabulary(size, 0, 1, 2, 3, 4, np.arange(size) < special, starts, pieces=tuple(pieces))


def ids(text: str) -> np.ndarray:
    return np.array([WORDS[p] for p in text.split()], np.int32)


def of_two(text: str) -> list[str]:
    """A segmenter into words of two characters."""
    return [text[i : i + 2] for i in range(0, len(text), 2)]


def test_pieces_of_a_word_have_its_number() -> None:
    row = ids("[CLS] the una ##ff ##able ! [SEP] ##ff ##able the [PAD] [PAD]")
    words = word_ids(row, vocabulary())
    assert words.tolist() == [-1, 0, 1, 1, 1, 2, -1, 3, 3, 4, -1, -1]
    assert words.dtype == np.int32


def test_a_row_may_begin_inside_a_word_or_be_empty() -> None:
    assert word_ids(ids("##ff ##able the"), vocabulary()).tolist() == [0, 0, 1]
    assert word_ids(np.zeros(0, np.int32), vocabulary()).tolist() == []
    assert word_ids(ids("[CLS] [PAD]"), vocabulary()).tolist() == [-1, -1]


def test_the_end_of_a_line_ends_a_word() -> None:
    pieces = ["a", "b", "\n", " c"]
    lines = Vocabulary(
        4, None, None, None, None, None, np.zeros(4, bool),
        np.array([False, False, True, True]), pieces=tuple(pieces),
    )  # fmt: skip
    assert word_ids(np.array([0, 1, 2, 0, 1, 3, 1]), lines).tolist() == [0, 0, 1, 2, 2, 3, 3]


def test_ideographs_are_words_until_a_segmenter_joins_them() -> None:
    row = ids("[CLS] 我 们 学 习 机 。 the 器 翻 译 cat [SEP] 在 [SEP]")
    alone = word_ids(row, vocabulary())
    assert alone.tolist() == [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, -1, 11, -1]
    joined = word_ids(row, vocabulary(), of_two)
    assert joined.tolist() == [-1, 0, 0, 1, 1, 2, 3, 4, 5, 5, 6, 7, -1, 8, -1]


def test_a_token_of_several_ideographs_stays_whole() -> None:
    # 我|翻译|器 in twos is 我翻|译器: a boundary inside 翻译 is none.
    assert word_ids(ids("我 翻译 器"), vocabulary(), of_two).tolist() == [0, 0, 0]
    assert word_ids(ids("我 们 翻译 器"), vocabulary(), of_two).tolist() == [0, 0, 1, 2]


def test_the_row_is_left_as_it_is() -> None:
    row, known = ids("我 们 the ##ff"), vocabulary()
    before = known.starts_word.copy()
    word_ids(row, known, of_two)
    assert row.tolist() == ids("我 们 the ##ff").tolist()
    assert np.array_equal(known.starts_word, before)


def test_jieba_finds_the_words_of_a_sentence() -> None:
    pytest.importorskip("jieba")
    segment = chinese_segmenter()
    row = ids("[CLS] 我 们 在 学 习 机 器 翻 译 。 cat [SEP]")
    # 我们 | 在 | 学习 | 机器翻译
    expected = [-1, 0, 0, 1, 2, 2, 3, 3, 3, 3, 4, 5, -1]
    assert word_ids(row, vocabulary(), segment).tolist() == expected
    assert word_ids(row, vocabulary(), segment).tolist() == expected
    assert "".join(segment("我们在学习")) == "我们在学习"


def test_without_jieba_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(ConfigError, match=r"pip install 'lm\[chinese\]'"):
        chinese_segmenter.__wrapped__()
