"""Tokenizers: exact round trips, known ids, determinism, streaming, folders, messages."""

from __future__ import annotations

import functools
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lm.config import (
    BPETokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    SentencePieceTokenizer,
    TokenizerConfig,
    WordPieceTokenizer,
    WordsTokenizer,
)
from lm.data.tokenizer import (
    METADATA,
    Tokenizer,
    build_tokenizer,
    load_any,
    load_tokenizer,
    stream_decoder,
    train_tokenizer,
)
from lm.errors import ConfigError, UserError

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    "The quick brown fox jumps over the lazy dog.\nThe dog sleeps; the fox runs on and on.\n",
    "从前有座山，山里有座庙，庙里有个老和尚给小和尚讲故事。\n",
    "A programme's résumé: naïve coöperation, 3.14159, x_1 = y_2 + 42\tdone\r\n",
    "low lower lowest new newer newest wide wider widest slow slower slowest " * 4,
    "the theme of the thesis is that these others gather there together " * 4,
] * 3
CONFIGS: dict[str, TokenizerConfig] = {
    "byte": ByteTokenizer(),
    "character": CharacterTokenizer(),
    "words": WordsTokenizer(),
    "bpe": BPETokenizer(vocab_size=400),
    "wordpiece": WordPieceTokenizer(vocab_size=150),
    "unigram": SentencePieceTokenizer(vocab_size=350),
    "sentencepiece_bpe": SentencePieceTokenizer(vocab_size=350, model_type="bpe"),
}
TRICKY = [
    "",
    " ",
    "  two  spaces  ",
    "\n\n\r\n\t",
    "nul\0byte",
    "床前明月光，疑是地上霜。",
    "🙂👩‍👩‍👧‍👦🇨🇳",
    "\u0301 lone combining, e\u0301 and \u00e9",
    "<|endoftext|><pad></s>[SEP]",
    "\ufeffmark",
    "\U0010ffff\uffff\u2028\x85",
]
quick = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def trained() -> dict[str, Tokenizer]:
    return {name: train_tokenizer(config, lambda: iter(TEXTS)) for name, config in CONFIGS.items()}


@pytest.fixture(scope="module")
def real_texts(data_root: Path) -> list[str]:
    """English, Chinese and both: a few hundred kB."""
    docs = gzip.decompress((data_root / "pydocs_en_zh/pydocs_en_zh.tsv.gz").read_bytes())
    poems = gzip.decompress((data_root / "zh_poetry/poems_plain.txt.gz").read_bytes())
    plays = (data_root / "tinyshakespeare/input.txt").read_bytes()
    return [docs.decode()[:200_000], poems.decode()[:50_000], plays.decode()[:200_000]]


@functools.cache
def loaded(path: str, data_root: Path) -> Tokenizer:
    return load_any(data_root / "tokenizers" / path)


# ------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("kind", ["byte", "bpe"])
@quick
@given(text=st.text())
def test_byte_and_bpe_round_trip_any_text(
    kind: str, text: str, trained: dict[str, Tokenizer]
) -> None:
    tokenizer = trained[kind]
    assert tokenizer.lossless
    assert tokenizer.decode(tokenizer.encode(text)) == text


@quick
@given(text=st.text(alphabet=sorted(set("".join(TEXTS)))))
def test_character_round_trips_known_characters(text: str, trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained["character"]
    assert tokenizer.lossless
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", ["unigram", "sentencepiece_bpe"])
@quick
@given(text=st.text())
@example(text="\u2581a")
def test_trained_sentencepiece_loses_only_its_own_sign_for_a_space(
    kind: str, text: str, trained: dict[str, Tokenizer]
) -> None:
    tokenizer = trained[kind]
    assert not tokenizer.lossless
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace("\u2581", " ")


@pytest.mark.parametrize("text", TRICKY)
@pytest.mark.parametrize("kind", ["byte", "bpe", "unigram", "sentencepiece_bpe"])
def test_tricky_texts_round_trip(kind: str, text: str, trained: dict[str, Tokenizer]) -> None:
    assert trained[kind].decode(trained[kind].encode(text)) == text


@pytest.mark.parametrize("path", ["gpt2", "gpt2/tokenizer.json"])
def test_loaded_bpe_round_trips_real_and_tricky_text(
    path: str, data_root: Path, real_texts: list[str]
) -> None:
    tokenizer = loaded(path, data_root)
    assert tokenizer.lossless
    for text in [*real_texts, *TRICKY]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_wordpiece_keeps_words_and_not_case_accents_or_space(
    trained: dict[str, Tokenizer],
) -> None:
    tokenizer = trained["wordpiece"]
    assert not tokenizer.lossless
    assert tokenizer.decode(tokenizer.encode("The  R\u00e9sum\u00e9\n low")) == "the resume low"
    assert tokenizer.decode(tokenizer.encode("山里有座 the 庙")) == "山里有座 the 庙"
    assert tokenizer.decode(tokenizer.encode("the \U0001f642")) == "the [UNK]"


# -------------------------------------------------------------------------------------- known ids


def test_byte_ids() -> None:
    tokenizer = build_tokenizer(ByteTokenizer(), data_root=Path(), cache_dir=Path())
    assert tokenizer.encode("A\u00e9\0") == [65, 0xC3, 0xA9, 0]
    assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (
        259, 256, 257, 258,
    )  # fmt: skip
    assert tokenizer.decode([257, 72, 105, 258, 256]) == "Hi"
    assert tokenizer.decode([0xE4, 0xB8]) == "\ufffd"


def test_character_ids_follow_code_points() -> None:
    tokenizer = train_tokenizer(CharacterTokenizer(), lambda: iter(["ba", "中a\n"]))
    assert tokenizer.encode("\nab中") == [0, 1, 2, 3]
    assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (
        4, None, None, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "text", "ids"),
    [
        ("gpt2", "Hello world", [15496, 995]),
        ("gpt2/encoder.json", "Hello world", [15496, 995]),
        ("gpt2", "<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]),
        ("bert-base-uncased", "Hello world", [7592, 2088]),
        ("bert-base-uncased/vocab.txt", "unaffable", [14477, 20961, 3468]),
        ("bert-base-chinese", "我爱北京", [2769, 4263, 1266, 776]),
        ("llama2", "Hello world", [15043, 3186]),
    ],
)
def test_published_ids(path: str, text: str, ids: list[int], data_root: Path) -> None:
    assert loaded(path, data_root).encode(text) == ids


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("gpt2", (50257, None, 50256, 50256, None, None)),
        ("gpt2/tokenizer.json", (50265, 1, 0, 2, 3, 50264)),
        ("bert-base-uncased", (30522, 0, 101, 102, 100, 103)),
        ("bert-base-chinese", (21128, 0, 101, 102, 100, 103)),
        ("llama2", (32000, None, 1, 2, 0, None)),
    ],
)
def test_published_special_ids(
    path: str, expected: tuple[int | None, ...], data_root: Path
) -> None:
    t = loaded(path, data_root)
    assert (t.vocab_size, t.pad_id, t.bos_id, t.eos_id, t.unk_id, t.mask_id) == expected


def test_gpt2_files_and_a_tokenizer_json_with_its_merges_split_alike(
    data_root: Path, real_texts: list[str], tmp_path: Path
) -> None:
    pair = loaded("gpt2/encoder.json", data_root)
    # The same merges with RoBERTa's numbering of the tokens.
    renumbered = loaded("gpt2/tokenizer.json", data_root)
    pair.save(tmp_path)
    saved = load_any(tmp_path / "tokenizer.json")
    for text in real_texts:
        ids = pair.encode(text)
        assert renumbered.pieces(renumbered.encode(text)) == pair.pieces(ids)
        assert saved.encode(text) == ids
    assert saved.fingerprint == pair.fingerprint != renumbered.fingerprint


def test_a_pair_named_vocab_json_and_merges_txt(data_root: Path, tmp_path: Path) -> None:
    full = loaded("gpt2/tokenizer.json", data_root)
    full.save(tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    pair = tmp_path / "pair"
    pair.mkdir()
    (pair / "vocab.json").write_text(json.dumps(spec["vocab"]))
    merges = "\n".join(" ".join(merge) for merge in spec["merges"])
    (pair / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    tokenizer = load_any(pair)
    # RoBERTa's own tokens are meant, not the <|endoftext|> that its vocabulary has too.
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (1, 0, 2)
    assert tokenizer.encode("Hello <s> 世界") == full.encode("Hello <s> 世界")


def test_bert_vocab_txt_and_tokenizer_json_are_the_same(
    data_root: Path, real_texts: list[str]
) -> None:
    plain, full = (
        loaded(f"bert-base-uncased/{name}", data_root) for name in ("vocab.txt", "tokenizer.json")
    )
    assert plain.fingerprint == full.fingerprint
    assert plain.encode_batch(real_texts) == full.encode_batch(real_texts)


def test_bert_splits_chinese_into_characters(data_root: Path) -> None:
    tokenizer = loaded("bert-base-chinese", data_root)
    text = "白日依山尽"
    assert tokenizer.pieces(tokenizer.encode(text)) == list(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


# ------------------------------------------------------------------- encoding is of plain text only


@pytest.mark.parametrize("kind", [k for k in CONFIGS if k != "character"])
def test_spelled_special_tokens_are_text(kind: str, trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained[kind]
    special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id} - {None}
    assert special
    spelled = ["a<|endoftext|>b", "[CLS] a [SEP] [PAD]", "<s>a</s><pad><0x41>", *TRICKY]
    for ids in [*map(tokenizer.encode, spelled), *tokenizer.encode_batch(spelled)]:
        assert not special & set(ids)


def test_t5_sentinels_are_not_read_from_text(data_root: Path) -> None:
    tokenizer = loaded("t5_sentencepiece/cc_all.32000.100extra.model", data_root)
    text = "a <extra_id_0> b"
    sentinel = tokenizer.vocab_size - 1
    assert tokenizer.pieces([sentinel]) == ["\u2581<extra_id_0>"]
    assert sentinel not in tokenizer.encode(text)
    assert tokenizer.decode([sentinel]) == "<extra_id_0>"


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_batch_and_array_equal_encode(kind: str, trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained[kind]
    texts = [*TEXTS[:5], ""]
    single = [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts) == single
    for text, ids in zip(texts, single, strict=True):
        array = tokenizer.encode_to_array(text)
        assert array.dtype == np.int32 and array.tolist() == ids
    assert tokenizer.decode(tokenizer.encode_to_array(texts[0])) == tokenizer.decode(single[0])


# -------------------------------------------------------------------------------------- streaming


@pytest.mark.parametrize("kind", list(CONFIGS))
@quick
@given(data=st.data())
def test_stream_of_any_ids_equals_decode(
    kind: str, data: st.DataObject, trained: dict[str, Tokenizer]
) -> None:
    tokenizer = trained[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    stream = stream_decoder(tokenizer)
    assert "".join(map(stream.push, ids)) + stream.finish() == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["byte", "bpe", "unigram", "sentencepiece_bpe"])
def test_stream_gives_whole_characters_only(kind: str, trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained[kind]
    text = "诗🙂é"
    stream = stream_decoder(tokenizer)
    pushed = [stream.push(i) for i in tokenizer.encode(text)]
    assert len(pushed) > 3 and "" in pushed
    assert [p for p in pushed if p] == list(text)
    assert stream.finish() == ""


def test_stream_starts_anew_after_finish(trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained["unigram"]
    stream = stream_decoder(tokenizer)
    for text in ("the fox", "the dog"):
        assert "".join(map(stream.push, tokenizer.encode(text))) + stream.finish() == text
    byte = stream_decoder(trained["byte"])
    assert byte.push(0xE4) == "" and byte.finish() == "\ufffd" and byte.push(65) == "A"


@pytest.mark.parametrize(
    "path", ["llama2/tokenizer.model", "t5_sentencepiece/cc_all.32000.100extra.model"]
)
def test_sentencepiece_decodes_like_its_library(
    path: str, data_root: Path, real_texts: list[str]
) -> None:
    tokenizer = loaded(path, data_root)
    library = sentencepiece.SentencePieceProcessor(model_file=str(data_root / "tokenizers" / path))
    for text in [*real_texts, *TRICKY]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == library.decode(ids)
    space, word = library.piece_to_id("\u2581"), library.piece_to_id("\u2581the")
    for ids in ([space], [space, word], [space, space, word], [word, space, word]):
        assert tokenizer.decode(ids) == library.decode(ids)
        assert tokenizer.decode([library.eos_id(), *ids]) == library.decode(ids)
    rng = np.random.default_rng(0)
    for _ in range(200):
        ids = rng.integers(0, tokenizer.vocab_size, rng.integers(1, 12)).tolist()
        ids = [i for i in ids if not library.is_byte(i)]
        assert tokenizer.decode(ids) == library.decode(ids)


# ---------------------------------------------------------------------------- determinism and cache

TRAIN = """
import json, sys
from lm.config import BPETokenizer, SentencePieceTokenizer, WordPieceTokenizer, WordsTokenizer
from lm.data.tokenizer import train_tokenizer
texts = json.loads(sys.stdin.read())
for config in (WordsTokenizer(), BPETokenizer(vocab_size=400), WordPieceTokenizer(vocab_size=150),
               SentencePieceTokenizer(vocab_size=350),
               SentencePieceTokenizer(vocab_size=350, model_type="bpe")):
    print(train_tokenizer(config, lambda: iter(texts)).fingerprint)
"""


def test_training_is_the_same_in_every_process(trained: dict[str, Tokenizer]) -> None:
    expected = [t.fingerprint for n, t in trained.items() if n not in ("byte", "character")]
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", TRAIN],
            input=json.dumps(TEXTS),
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == expected


def test_trained_wordpiece_has_only_the_five_special_tokens(
    trained: dict[str, Tokenizer],
) -> None:
    tokenizer = trained["wordpiece"]
    assert tokenizer.vocab_size == 150
    assert tokenizer.pieces(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = tokenizer.encode("xylophone low")
    assert any(piece.startswith("##") for piece in tokenizer.pieces(ids))
    assert tokenizer.decode(ids) == "xylophone low"


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_sentencepiece_trains_on_lines_that_its_trainer_would_drop(model_type: str) -> None:
    # Its own limit is 4192 bytes a line; a tab or U+2047 anywhere drops the line.
    texts = ["plain " * 9, "zyxw " * 3000, "tab\tqrst " * 200, "odd\u2047mnop " * 200]
    config = SentencePieceTokenizer(vocab_size=277, model_type=model_type)  # type: ignore[arg-type]
    tokenizer = train_tokenizer(config, lambda: iter(texts))
    for word in ("zyxw", "qrst", "mnop"):
        pieces = tokenizer.pieces(tokenizer.encode(word))
        assert not [p for p in pieces if p.startswith("<0x")], pieces


def counting(texts: list[str]) -> tuple[Callable[[], Iterator[str]], list[int]]:
    calls: list[int] = []

    def open_texts() -> Iterator[str]:
        calls.append(1)
        return iter(texts)

    return open_texts, calls


@pytest.mark.parametrize("kind", [k for k in CONFIGS if k != "byte"])
def test_a_trained_tokenizer_is_found_again(kind: str, tmp_path: Path) -> None:
    texts, calls = counting(TEXTS)

    def build(key: str | None) -> Tokenizer:
        return build_tokenizer(
            CONFIGS[kind], data_root=tmp_path, cache_dir=tmp_path, texts=texts,
            texts_fingerprint=key,
        )  # fmt: skip

    first = build("key")
    passes = len(calls)
    again = build("key")
    assert len(calls) == passes
    assert again.fingerprint == first.fingerprint
    assert again.encode(TEXTS[0]) == first.encode(TEXTS[0])
    build("another key")
    assert len(calls) == 2 * passes
    folders = list((tmp_path / "tokenizers").iterdir())
    assert len(folders) == 2 and not [f for f in folders if f.name.startswith(".")]


def test_another_process_may_be_first(tmp_path: Path) -> None:
    def build(texts: Callable[[], Iterator[str]]) -> Tokenizer:
        return build_tokenizer(
            CharacterTokenizer(),
            data_root=tmp_path,
            cache_dir=tmp_path,
            texts=texts,
            texts_fingerprint="key",
        )

    def slow() -> Iterator[str]:
        # While this one trains, the other finishes.
        build(lambda: iter(["abc"]))
        yield "abc"

    assert build(slow).vocab_size == 3
    assert len(list((tmp_path / "tokenizers").iterdir())) == 1


def test_without_a_fingerprint_the_text_decides(tmp_path: Path) -> None:
    def build(*texts: str) -> int:
        build_tokenizer(
            CharacterTokenizer(), data_root=tmp_path, cache_dir=tmp_path, texts=lambda: iter(texts)
        )
        return len(list((tmp_path / "tokenizers").iterdir()))

    assert [build("ab", "c"), build("ab", "c"), build("a", "bc"), build("abd")] == [1, 1, 2, 3]


def test_a_damaged_cache_says_what_to_delete(tmp_path: Path) -> None:
    def build() -> Tokenizer:
        return build_tokenizer(
            CharacterTokenizer(), data_root=tmp_path, cache_dir=tmp_path,
            texts=lambda: iter(["abc"]),
        )  # fmt: skip

    build()
    (folder,) = (tmp_path / "tokenizers").iterdir()
    (folder / "characters.json").write_text('["a", "b"]')
    with pytest.raises(UserError, match=f"fingerprint.*delete {folder} to train it again"):
        build()


# ------------------------------------------------------------------------------------ save and load


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_save_and_load(kind: str, trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    tokenizer = trained[kind]
    tokenizer.save(tmp_path / "a" / "b")
    back = load_tokenizer(tmp_path / "a" / "b")
    names = ("kind", "vocab_size", "pad_id", "bos_id", "eos_id", "unk_id", "mask_id", "lossless",
             "fingerprint")  # fmt: skip
    assert {n: getattr(back, n) for n in names} == {n: getattr(tokenizer, n) for n in names}
    assert back.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert back.decode(range(back.vocab_size)) == tokenizer.decode(range(back.vocab_size))
    config = CONFIGS[kind]
    if not isinstance(config, ByteTokenizer):
        named = type(config)(path="a/b")
        built = build_tokenizer(named, data_root=tmp_path, cache_dir=tmp_path)
        assert built.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("path", ["gpt2", "bert-base-chinese", "llama2"])
def test_a_loaded_tokenizer_survives_save(path: str, data_root: Path, tmp_path: Path) -> None:
    tokenizer = loaded(path, data_root)
    tokenizer.save(tmp_path)
    back = load_tokenizer(tmp_path)
    assert back.fingerprint == tokenizer.fingerprint
    assert back.encode("Hello 世界") == tokenizer.encode("Hello 世界")
    assert (back.bos_id, back.eos_id) == (tokenizer.bos_id, tokenizer.eos_id)


def test_fingerprints_tell_vocabularies_apart(trained: dict[str, Tokenizer]) -> None:
    fingerprints = {t.fingerprint for t in trained.values()}
    fingerprints.add(train_tokenizer(CharacterTokenizer(), lambda: iter(["abc"])).fingerprint)
    cased = WordPieceTokenizer(vocab_size=150, lowercase=False)
    fingerprints.add(train_tokenizer(cased, lambda: iter(TEXTS)).fingerprint)
    assert len(fingerprints) == len(trained) + 2


@pytest.mark.parametrize("kind", [k for k in CONFIGS if k != "byte"])
@pytest.mark.parametrize("damage", ["missing", "cut", "garbage"])
def test_a_damaged_folder_is_a_user_error(
    kind: str, damage: str, trained: dict[str, Tokenizer], tmp_path: Path
) -> None:
    trained[kind].save(tmp_path)
    (file,) = (p for p in tmp_path.iterdir() if p.name != METADATA)
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if damage == "cut" else b"\xff\x00garbage")
    with pytest.raises(UserError, match=str(tmp_path)):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no lm_tokenizer.json"),
        ("{", "damaged, or no JSON"),
        ("[]", "expected format 1"),
        ('{"format": 2}', "expected format 1"),
        ('{"format": 1, "kind": "morse"}', "no such kind of tokenizer: 'morse'"),
        ('{"format": 1, "kind": "byte", "fingerprint": "0"}', "fingerprint"),
    ],
)
def test_damaged_metadata(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / METADATA).write_text(text)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


# ----------------------------------------------------------------------------------------- messages


def test_unknown_character(trained: dict[str, Tokenizer]) -> None:
    with pytest.raises(UserError, match=r"'龍' \(U\+9F8D\) at position 4 "):
        trained["character"].encode("fox 龍")
    with pytest.raises(UserError, match=r"U\+10FFFF\) at position 0 "):
        trained["character"].encode("\U0010ffff")


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_lone_surrogates_and_foreign_ids(kind: str, trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained[kind]
    with pytest.raises(UserError, match=r"U\+D800.*(at character|at position) 1"):
        tokenizer.encode("a\ud800")
    with pytest.raises(UserError, match=r"U\+D800"):
        tokenizer.encode_batch(["a", "a\ud800"])
    for wrong in (tokenizer.vocab_size, -1):
        with pytest.raises(UserError, match=f"id {wrong} .* 0 to {tokenizer.vocab_size - 1}"):
            tokenizer.decode([0, wrong])
        with pytest.raises(UserError, match=f"id {wrong} "):
            stream_decoder(tokenizer).push(wrong)


@pytest.mark.parametrize("kind", [k for k in CONFIGS if k != "byte"])
def test_training_refuses_no_text_and_surrogates(kind: str) -> None:
    for texts in ([], ["", ""]):
        with pytest.raises(UserError, match=r"no text to train|at least one character"):
            train_tokenizer(CONFIGS[kind], lambda texts=texts: iter(texts))
    with pytest.raises(UserError, match=r"U\+DC80"):
        train_tokenizer(CONFIGS[kind], lambda: iter(["a\udc80"]))


def test_neither_path_nor_text(tmp_path: Path) -> None:
    for config in (CharacterTokenizer(), BPETokenizer(vocab_size=300)):
        with pytest.raises(ConfigError, match=r"tokenizer\.path .*text to train on"):
            build_tokenizer(config, data_root=tmp_path, cache_dir=tmp_path)
    for config in (BPETokenizer(), WordPieceTokenizer(), SentencePieceTokenizer()):
        with pytest.raises(ConfigError, match=r"tokenizer\.vocab_size .*is required"):
            build_tokenizer(
                config, data_root=tmp_path, cache_dir=tmp_path, texts=lambda: iter(TEXTS)
            )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BPETokenizer(vocab_size=256), "at least 257"),
        (BPETokenizer(vocab_size=100_000), r"vocabulary of \d+, not vocab_size=100000"),
        (WordPieceTokenizer(vocab_size=20), r"more than vocab_size=20: set it to at least \d+"),
        (WordPieceTokenizer(vocab_size=100_000), "not vocab_size=100000"),
        (SentencePieceTokenizer(vocab_size=260), "from 261 on"),
        (SentencePieceTokenizer(vocab_size=100_000), r"vocab_size=100000 .*too high"),
        (SentencePieceTokenizer(vocab_size=262), "vocab_size=262"),
    ],
)
def test_sizes_that_cannot_be_had(config: TokenizerConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_tokenizer(config, lambda: iter(TEXTS))


def test_a_missing_path_names_the_place_and_how_to_move_it(tmp_path: Path) -> None:
    for path in ("no/such", str(tmp_path / "no/such")):
        with pytest.raises(UserError) as raised:
            build_tokenizer(BPETokenizer(path=path), data_root=tmp_path, cache_dir=tmp_path)
        message = str(raised.value)
        assert str(tmp_path / "no/such") in message and f"now {tmp_path};" in message
        assert "--data_root" in message and "LM_DATA" in message


def test_path_and_config_must_agree(data_root: Path, tmp_path: Path) -> None:
    def build(config: TokenizerConfig) -> Tokenizer:
        return build_tokenizer(config, data_root=data_root, cache_dir=tmp_path)

    assert build(BPETokenizer(path="tokenizers/gpt2", vocab_size=50257)).vocab_size == 50257
    with pytest.raises(ConfigError, match=r"vocab_size is 50304, but .*gpt2 has 50257 tokens"):
        build(BPETokenizer(path="tokenizers/gpt2", vocab_size=50304))
    with pytest.raises(ConfigError, match=r"lowercase is False, but .*lowercase=True"):
        build(WordPieceTokenizer(path="tokenizers/bert-base-uncased", lowercase=False))
    with pytest.raises(UserError, match=r"neither a tokenizer.json nor encoder.json"):
        build(BPETokenizer(path="tokenizers/llama2"))
    with pytest.raises(UserError, match="holds a WordPiece tokenizer, not BPE"):
        build(BPETokenizer(path="tokenizers/bert-base-uncased"))
    with pytest.raises(UserError, match="no SentencePiece model"):
        build(SentencePieceTokenizer(path="tokenizers/gpt2/vocab.bpe"))
    with pytest.raises(UserError, match=r"no line is \[UNK\]"):
        build(WordPieceTokenizer(path="tinyshakespeare/input.txt"))
    with pytest.raises(UserError, match="is no tokenizer: expected"):
        load_any(data_root / "tinyshakespeare")


def test_kind_of_a_saved_folder_must_agree(trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    trained["character"].save(tmp_path / "c")
    with pytest.raises(ConfigError, match=r"kind is 'bpe', but .* holds a character tokenizer"):
        build_tokenizer(BPETokenizer(path="c"), data_root=tmp_path, cache_dir=tmp_path)


def test_case_of_a_saved_folder_must_agree(tmp_path: Path) -> None:
    cased = WordPieceTokenizer(vocab_size=150, lowercase=False)
    train_tokenizer(cased, lambda: iter(TEXTS)).save(tmp_path / "w")
    for lowercase in (False, True):
        config = WordPieceTokenizer(path="w", lowercase=lowercase)
        if lowercase:
            with pytest.raises(ConfigError, match=r"lowercase is True, but .*lowercase=False"):
                build_tokenizer(config, data_root=tmp_path, cache_dir=tmp_path)
        else:
            tokenizer = build_tokenizer(config, data_root=tmp_path, cache_dir=tmp_path)
            assert tokenizer.decode(tokenizer.encode("The")) == "The"


def test_damaged_gpt2_files(data_root: Path, tmp_path: Path) -> None:
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(data_root / "tokenizers/gpt2" / name, tmp_path / name)
        (tmp_path / name).chmod(0o644)
    merges = (tmp_path / "vocab.bpe").read_text(encoding="utf-8")
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\na b c\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"vocab.bpe, line 2: expected two tokens, got 'a b c'"):
        load_any(tmp_path)
    (tmp_path / "vocab.bpe").write_text(merges + "zzzz qqqq\n", encoding="utf-8")
    with pytest.raises(UserError, match="do not fit together"):
        load_any(tmp_path)
    (tmp_path / "vocab.bpe").unlink()
    with pytest.raises(UserError, match=r"cannot read .*vocab.bpe"):
        load_any(tmp_path / "encoder.json")


def test_duplicate_line_in_vocab_txt(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\na\nb\na\n")
    with pytest.raises(UserError, match="the token 'a' is there twice"):
        load_any(tmp_path)


def test_words() -> None:
    texts = ["b a@@ b <pad>", "a@@  b\tc", "é"]
    tokenizer = train_tokenizer(WordsTokenizer(), lambda: iter(texts))
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    # By their counts, then by code points; a special token's spelling is a word like others.
    assert tokenizer.pieces(range(9)) == [*special, "b", "a@@", "<pad>", "c", "é"]
    assert tokenizer.vocab_size == 9
    assert tokenizer.encode(" é\n<pad>  <eos> b ") == [8, 6, 3, 4]
    assert tokenizer.decode([1, 8, 6, 3, 4, 2, 0]) == "é <pad> <unk> b"
    stream = stream_decoder(tokenizer)
    assert [stream.push(i) for i in (1, 5, 4, 2)] == ["", "a@@", " b", ""]
    smaller = train_tokenizer(WordsTokenizer(vocab_size=6), lambda: iter(texts))
    assert smaller.pieces([4, 5]) == ["b", "a@@"] and smaller.encode("c a@@") == [3, 5]


@pytest.mark.parametrize("size", [4, 10])
def test_words_that_there_are_not(size: int) -> None:
    message = f"have 5 words, .* are 9 tokens: vocab_size must be from 5 to 9, not {size}"
    with pytest.raises(ConfigError, match=message):
        train_tokenizer(WordsTokenizer(vocab_size=size), lambda: iter(["a b c d e"]))


@pytest.mark.parametrize("contents", ['{"a": 1}', '["a b"]', '["a", "a"]', '[""]', "[1]"])
def test_a_damaged_list_of_words(contents: str, tmp_path: Path) -> None:
    (tmp_path / "words.json").write_text(contents)
    config = WordsTokenizer(path="words.json")
    with pytest.raises(UserError, match="is not a JSON list of different words"):
        build_tokenizer(config, data_root=tmp_path, cache_dir=tmp_path)
