"""Long texts in parts, and the saved folder."""

import functools
import os
import random
from itertools import chain
from pathlib import Path

import pytest

from lm.config import BPETokenizer, SentencePieceTokenizer, TokenizerConfig, WordPieceTokenizer
from lm.data import tokenizer as tokenizer_module
from lm.data.tokenizer import Tokenizer, load_any, load_tokenizer, train_tokenizer
from lm.data.tokenizers.base import METADATA, cut, cut_lines
from lm.data.tokenizers.simple import Bytes, Characters
from lm.errors import ConfigError, UserError

WORDS = [
    "the",
    "Don't",
    "we'll",
    "12",
    "3.5",
    "--",
    "春天",
    "é",
    "e\u0301",
    "\u0301",
    "<|endoftext|>",
]
SPACES = [
    " ",
    "  ",
    "\n",
    "\n",
    "\n",
    "\n\n",
    "\r\n",
    "\n ",
    " \n",
    "\t",
    "\xa0",
    "\u2028",
    "\x1c",
    "",
]


def mixed(seed: int, words: int = 300) -> str:
    """Words of all sorts between white space of all sorts."""
    choose = random.Random(seed).choice
    return "".join(choose(WORDS) + choose(SPACES) for _ in range(words))


@functools.cache
def trained(kind: str) -> Tokenizer:
    config: TokenizerConfig = BPETokenizer(vocab_size=330)
    if kind == "wordpiece":
        config = WordPieceTokenizer(vocab_size=60)
    return train_tokenizer(config, lambda: (mixed(seed) for seed in range(20)))


@pytest.mark.parametrize("size", [1, 7, 100])
def test_cut_lines(size: int) -> None:
    for seed in range(20):
        text = mixed(seed)
        parts = list(cut_lines(text, size))
        assert "".join(parts) == text
        assert all(len(part) >= size for part in parts[:-1])
        assert len(parts) > 3 or size == 100
        for before, after in zip(parts, parts[1:], strict=False):
            assert before[-1] == "\n" and not before[-2].isspace() and not after[0].isspace()
    assert list(cut_lines("", 5)) == [""]


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "gpt2"])
def test_the_ids_of_a_text_are_those_of_its_lines(
    kind: str, request: pytest.FixtureRequest
) -> None:
    if kind == "gpt2":
        tokenizer = load_any(request.getfixturevalue("data_root") / "tokenizers" / "gpt2")
    else:
        tokenizer = trained(kind)
    assert getattr(tokenizer, "cuts_lines")  # noqa: B009  (no part of the protocol)
    for seed in range(100):
        text = mixed(seed)
        parts = list(cut_lines(text, 1))
        assert [*chain(*tokenizer.encode_batch(parts))] == tokenizer.encode(text)


def test_parts_of_bytes_and_characters_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    text = mixed(0) + "\n" * 3_000_000
    for tokenizer in (Bytes(), Characters(text)):
        parts = list(tokenizer.parts(text))
        assert "".join(parts) == text
        assert max(map(len, parts)) <= 1 << 20
        assert list(tokenizer.parts("")) == [""]
        ids = tokenizer.encode_batch(list(cut(text[:2000], 7)))
        assert [*chain(*ids)] == tokenizer.encode(text[:2000])


def test_a_tokenizer_that_may_not_be_cut_is_not(tmp_path: Path) -> None:
    trained("bpe").save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace('"use_regex": true', '"use_regex": false'))
    text = "a\nb" * 1_000_000
    assert len(list(trained("bpe").parts(text))) > 1
    assert list(load_any(file).parts(text)) == [text]


@pytest.mark.parametrize(
    "config",
    [
        BPETokenizer(vocab_size=330),
        WordPieceTokenizer(vocab_size=60),
        SentencePieceTokenizer(vocab_size=300, model_type="bpe"),
    ],
)
def test_training_on_parts_is_training_on_the_whole(
    config: TokenizerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [mixed(seed) for seed in range(20)]
    whole = train_tokenizer(config, lambda: iter(texts))
    seen: list[str] = []

    def small(text: str) -> list[str]:
        parts = list(cut_lines(text, 1))
        seen.extend(parts)
        return parts

    monkeypatch.setattr(tokenizer_module, "cut_lines", small)
    assert train_tokenizer(config, lambda: iter(texts)).fingerprint == whole.fingerprint
    assert len(seen) > 100


@pytest.mark.parametrize("size", [-1, 0, (1 << 24) + 1, 2**31 - 1, 2**70])
@pytest.mark.parametrize("kind", [BPETokenizer, WordPieceTokenizer, SentencePieceTokenizer])
def test_sizes_that_no_vocabulary_has(kind: type, size: int) -> None:
    with pytest.raises(ConfigError, match=rf"vocab_size.* must be from 1 to 16777216, not {size}"):
        train_tokenizer(kind(vocab_size=size), lambda: iter(["text"]))


def test_saving_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run" / "tokenizer"
    Characters("ab").save(folder)
    before = load_tokenizer(folder).fingerprint

    def cut_off(self: Characters, directory: Path) -> None:
        (directory / Characters.FILE).write_text("[")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Characters, "_write", cut_off)
        for place in (folder, tmp_path / "run" / "new"):
            with pytest.raises(KeyboardInterrupt):
                Characters("abc").save(place)
    assert load_tokenizer(folder).fingerprint == before
    assert [path.name for path in folder.parent.iterdir()] == ["tokenizer"]


def test_saving_over_another_leaves_other_files_alone(tmp_path: Path) -> None:
    Characters("ab").save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    Characters("abc").save(tmp_path)
    assert load_tokenizer(tmp_path).vocab_size == 3
    names = {METADATA, Characters.FILE, "notes.txt"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_replacing_that_is_cut_off_leaves_no_tokenizer_rather_than_a_mixed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Characters("ab").save(tmp_path)
    replace = os.replace

    def cut_off(old: Path, new: Path) -> None:
        if Path(new).name == METADATA:
            raise KeyboardInterrupt
        replace(old, new)

    monkeypatch.setattr(os, "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        Characters("abc").save(tmp_path)
    with pytest.raises(UserError, match="no tokenizer in"):
        load_tokenizer(tmp_path)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"cannot write the tokenizer to {place}: Not a dir"):
            Bytes().save(place)
