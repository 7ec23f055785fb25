from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from lm.config import (
    BPETokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    SentencePieceTokenizer,
    WordPieceTokenizer,
)
from lm.config.data import TokenizerConfig
from lm.data.corruption.vocabulary import (
    Vocabulary,
    is_ideograph,
    surface,
    vocabulary_of,
    with_mask,
    with_sentinels,
)
from lm.data.tokenizer import Tokenizer, load_any, train_tokenizer
from lm.data.tokenizers.huggingface import HuggingFace
from lm.errors import ConfigError

TEXT = "the cat sat on the mat. Do you see?\nit is an unaffable cat! 中文的字。他在学习"
TRAINED = {
    "byte": ByteTokenizer(),
    "character": CharacterTokenizer(),
    "bpe": BPETokenizer(vocab_size=300),
    "wordpiece": WordPieceTokenizer(vocab_size=65),
    "sentencepiece": SentencePieceTokenizer(vocab_size=290, model_type="unigram"),
}


def train(config: TokenizerConfig) -> Tokenizer:
    return train_tokenizer(config, lambda: iter([TEXT] * 30))


def marked(tokenizer: Tokenizer, text: str) -> str:
    """The tokens of a text, those that begin a word after a bar, the others after a dot."""
    vocabulary, ids, shown, ended = vocabulary_of(tokenizer), tokenizer.encode(text), "", True
    for i in ids:
        bar = vocabulary.starts_word[i] or ended
        shown += ("|" if bar else "·") + vocabulary.pieces[i]
        ended = bool(vocabulary.ends_word[i])
    return shown


def model(size: int = 10, **changes: object) -> Vocabulary:
    special = np.arange(size) < 2
    return Vocabulary(size, 0, None, None, None, None, special, np.ones(size, bool), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("byte", "|s·e·e| ·i·t·?|<0x0A>|i·t|<0xE4>·<0xB8>·<0xAD>|<0xE6>·<0x96>·<0x87>"),
        ("character", "|s·e·e| ·i·t·?|\n|i·t|中|文"),
        ("wordpiece", "|see|it|?|it|中|文"),
    ],
)
def test_words_begin_where_each_kind_of_tokenizer_marks_it(kind: str, expected: str) -> None:
    assert marked(train(TRAINED[kind]), "see it?\nit中文") == expected


def test_a_piece_with_a_space_begins_a_word_and_one_without_does_not() -> None:
    for kind, space in (("bpe", " "), ("sentencepiece", "\u2581")):
        vocabulary = vocabulary_of(train(TRAINED[kind]))
        for piece, starts, special in zip(
            vocabulary.pieces, vocabulary.starts_word, vocabulary.special
        ):
            if piece.startswith(space):
                assert starts
            elif piece[:1].isalpha() and piece.isascii() and not special:
                assert not starts, piece


def test_wordpiece_continues_words_with_its_sign() -> None:
    vocabulary = vocabulary_of(train(TRAINED["wordpiece"]))
    for piece, starts in zip(vocabulary.pieces, vocabulary.starts_word):
        assert starts == (not piece.startswith("##") or piece == "##")


def test_a_tokenizer_json_with_signs_at_the_end_of_words() -> None:
    pieces = ["<unk>", "cat", "cat</w>", "s</w>", ".</w>"]
    backend = tokenizers.Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    vocabulary = vocabulary_of(HuggingFace(backend))
    assert not vocabulary.starts_word[1:].any()
    assert vocabulary.ends_word.tolist() == [False, False, True, True, True]
    assert vocabulary.ends_sentence.tolist() == [False, False, False, False, True]


def test_the_tokens_of_a_tokenizer_json_over_words_are_words() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "bc": 2}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert vocabulary_of(HuggingFace(backend)).starts_word.all()


@pytest.mark.parametrize("kind", TRAINED)
def test_special_tokens_are_special_and_begin_words(kind: str) -> None:
    tokenizer = train(TRAINED[kind])
    vocabulary = vocabulary_of(tokenizer)
    roles = ("pad_id", "bos_id", "eos_id", "unk_id", "mask_id")
    ids = {getattr(tokenizer, r) for r in roles} - {None}
    assert {getattr(vocabulary, r) for r in roles} - {None} == ids
    assert set(np.flatnonzero(vocabulary.special).tolist()) == ids
    assert vocabulary.starts_word[vocabulary.special].all()
    assert vocabulary.size == tokenizer.vocab_size == len(vocabulary.pieces)
    assert not vocabulary.special[tokenizer.encode("the cat")].any()
    assert sorted([*vocabulary.ordinary.tolist(), *ids]) == list(range(vocabulary.size))


def test_added_special_tokens_and_numbers_without_a_token_are_special() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "bc": 9}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken("<zh>", special=True), AddedToken("<extra_id_10>")])
    backend.add_special_tokens([AddedToken("<extra_id_0>"), AddedToken("<extra_id_2>")])
    vocabulary = vocabulary_of(HuggingFace(backend))
    names = vocabulary.pieces
    assert {names[i] for i in vocabulary.ordinary} == {"a", "bc", "<unk>"}
    assert names[7:9] == ("", "")
    assert [names[i] for i in vocabulary.sentinels] == [f"<extra_id_{i}>" for i in (0, 2, 10)]


@pytest.mark.parametrize(
    ("piece", "text"),
    [("##ing", "ing"), ("##", "##"), ("\u2581the", "the"), (" the", "the"), ("cat</w>", "cat")],
)
def test_the_text_of_a_piece(piece: str, text: str) -> None:
    assert surface(piece) == text


def test_sentences_end_with_punctuation_alone() -> None:
    pieces = (".", "##?", "\u2581!", '."', "。", "！」", " ...", "\u25812.", "e.", ",", "", "中")
    expected = [True] * 7 + [False] * 5
    vocabulary = Vocabulary(
        12, None, None, None, None, None, np.zeros(12, bool), np.ones(12, bool), (), pieces
    )
    assert vocabulary.ends_sentence.tolist() == expected
    assert vocabulary.ideographs == ("",) * 11 + ("中",)
    assert vocabulary.ideographic.tolist() == [False] * 11 + [True]


def test_ideographs_are_not_kana_hangul_or_punctuation() -> None:
    assert all(map(is_ideograph, "中一龥㐀𠀀"))
    assert not any(map(is_ideograph, "aあア한。，Ａ"))


def test_the_last_ids_of_the_model_serve_as_sentinels() -> None:
    vocabulary = with_sentinels(model(10), 3, 16)
    assert vocabulary.sentinels == (15, 14, 13) and vocabulary.size == 16
    assert vocabulary.special[10:].all() and vocabulary.starts_word[10:].all()
    assert vocabulary.ordinary.tolist() == list(range(2, 10))
    assert vocabulary.ends_word.shape == vocabulary.ideographic.shape == (16,)
    assert len(vocabulary.ideographs) == 16
    with pytest.raises(ConfigError, match="at least 17"):
        with_sentinels(model(10), 7, 16)
    with pytest.raises(ConfigError, match="10 ids"):
        with_sentinels(model(10), 0, 8)


def test_the_tokenizers_own_sentinels_come_first() -> None:
    vocabulary = with_sentinels(model(10, sentinels=(9, 8)), 2, 16)
    assert vocabulary.sentinels == (9, 8) and vocabulary.size == 16
    with pytest.raises(ConfigError, match="at most 2"):
        with_sentinels(model(10, sentinels=(9, 8)), 3, 16)


def test_a_mask_token_above_the_tokenizers_ids() -> None:
    vocabulary = with_mask(model(10), 16)
    assert vocabulary.mask_id == 10 and vocabulary.special[10]
    both = with_sentinels(vocabulary, 5, 16)
    assert both.sentinels == (15, 14, 13, 12, 11) and both.mask_id == 10
    with pytest.raises(ConfigError, match="at least 17"):
        with_sentinels(vocabulary, 6, 16)
    with pytest.raises(ConfigError, match="at least 11"):
        with_mask(model(10), 10)
    own = vocabulary_of(train(TRAINED["wordpiece"]))
    assert with_mask(own, own.size) is own


def test_a_missing_token_is_named() -> None:
    vocabulary = vocabulary_of(train(TRAINED["byte"]))
    assert vocabulary.require("pad", "x") == 256
    with pytest.raises(ConfigError, match="masking needs a mask token"):
        vocabulary.require("mask", "masking")


@pytest.mark.parametrize("name", ["bert-base-uncased", "gpt2", "llama2", "t5_sentencepiece"])
def test_released_tokenizers(data_root: Path, name: str) -> None:
    path = data_root / "tokenizers" / name
    if not path.exists():
        pytest.skip(f"no {path}")
    vocabulary = vocabulary_of(load_any(path / "tokenizer.model" if name == "llama2" else path))
    counts = {"bert-base-uncased": 5, "gpt2": 1, "llama2": 3, "t5_sentencepiece": 104}
    assert vocabulary.special.sum() == counts[name]
    assert len(vocabulary.sentinels) == (100 if name.startswith("t5") else 0)
    starting = {"bert-base-uncased": 0.81, "gpt2": 0.66, "llama2": 0.54, "t5_sentencepiece": 0.69}
    assert vocabulary.starts_word.mean() == pytest.approx(starting[name], abs=0.01)
