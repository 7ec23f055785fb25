"""Tokenizers against transformers: a folder's, read here, and one of ours, read there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import sentencepiece_model_pb2

from lm.config import (
    BPETokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    DataConfig,
    Learned,
    ModelConfig,
    SentencePieceTokenizer,
    TextFiles,
    TokenizerConfig,
    WordPieceTokenizer,
)
from lm.convert.tokenizer import (
    M2M100_LANGUAGES,
    WMT21_LANGUAGES,
    tokenizer_flags,
    tokenizer_from_folder,
    tokenizer_from_llama2c,
    tokenizer_to_folder,
)
from lm.data.tokenizer import Tokenizer, train_tokenizer

transformers = pytest.importorskip("transformers")
PROTOCOL: Any = sentencepiece_model_pb2
# Without spaces at the start of a text or beside others: see test_spaces_of_a_llama_model.
WORDS = [
    "",
    "Hello world! It's 3.14159 o'clock.",
    "line\nline\n\n\tx\r\n",
    "床前明月光，疑是地上霜。",
    "🙂👩‍👩‍👧‍👦🇨🇳 x",
    "naïve cafe\u0301 résumé",
    "nul\0byte",
    "\ufeffmark",
]
SPACES = ["a \u2581b", " ", "  two  spaces   and more    ", "   \n\n  x\n  \t y"]
CORPUS = [
    *WORDS,
    *SPACES,
    "the theme of the thesis: these others gather there together; " * 3,
    "low lower lowest new newer newest wide wider widest slow slower slowest quickly jump ",
]
GPT2 = {"vocab.json": "gpt2/encoder.json", "merges.txt": "gpt2/vocab.bpe"}
# model type, files, tokenizer_config.json
FOLDERS: dict[str, tuple[str, dict[str, str], dict | None]] = {
    "bert": (
        "bert",
        {
            "tokenizer.json": "bert-base-uncased/tokenizer.json",
            "tokenizer_config.json": "bert-base-uncased/tokenizer_config.json",
        },
        None,
    ),
    "bert_vocabulary": ("bert", {"vocab.txt": "bert-base-uncased/vocab.txt"}, None),
    "bert_chinese": (
        "bert",
        {"vocab.txt": "bert-base-chinese/vocab.txt"},
        {"do_lower_case": False},
    ),
    "electra": ("electra", {"vocab.txt": "bert-base-uncased/vocab.txt"}, None),
    "gpt2": ("gpt2", GPT2, None),
    "qwen2": ("qwen2", GPT2, {"tokenizer_class": "Qwen2Tokenizer"}),
    "roberta": ("roberta", {"tokenizer.json": "gpt2/tokenizer.json"}, None),
    "bart": ("bart", {"tokenizer.json": "gpt2/tokenizer.json"}, None),
    "llama": (
        "llama",
        {"tokenizer.model": "llama2/tokenizer.model"},
        {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False},
    ),
    "t5": ("t5", {}, {"tokenizer_class": "T5Tokenizer"}),
}
KINDS: dict[str, TokenizerConfig] = {
    "byte": ByteTokenizer(),
    "character": CharacterTokenizer(),
    "bpe": BPETokenizer(vocab_size=330),
    "wordpiece": WordPieceTokenizer(vocab_size=150),
    "wordpiece_cased": WordPieceTokenizer(vocab_size=150, lowercase=False),
    "unigram": SentencePieceTokenizer(vocab_size=340),
    "sentencepiece_bpe": SentencePieceTokenizer(vocab_size=340, model_type="bpe"),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def published(name: str, data_root: Path, place: Path) -> Path:
    kind, files, settings = FOLDERS[name]
    place.mkdir()
    for file, source in files.items():
        shutil.copyfile(data_root / "tokenizers" / source, place / file)
    if name == "t5":
        source_file = data_root / "tokenizers/t5_sentencepiece/cc_all.32000.100extra.model"
        proto = PROTOCOL.ModelProto.FromString(source_file.read_bytes())
        # Its <s> and its sentinels, which T5's spiece.model has not.
        del proto.pieces[32001:]
        del proto.pieces[2]
        (place / "spiece.model").write_bytes(proto.SerializeToString())
    if settings is not None:
        (place / "tokenizer_config.json").write_text(json.dumps(settings))
    (place / "config.json").write_text(json.dumps({"model_type": kind}))
    return place


def encoded(reference: Any, text: str) -> list[int]:
    return reference.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("name", list(FOLDERS))
def test_a_folder_is_read_as_transformers_reads_it(
    name: str, data_root: Path, tmp_path: Path
) -> None:
    place = published(name, data_root, tmp_path / "in")
    reference = transformers.AutoTokenizer.from_pretrained(place)
    tokenizer, flags = tokenizer_from_folder(place), tokenizer_flags(place)
    assert tokenizer.vocab_size == len(reference)
    for text in WORDS if name == "llama" else [*WORDS, *SPACES]:
        assert tokenizer.encode(text) == encoded(reference, text), text
    before = [tokenizer.bos_id] if flags["add_bos"] else []
    after = [tokenizer.eos_id] if flags["add_eos"] else []
    assert [*before, *tokenizer.encode("a b"), *after] == reference.encode("a b")
    for role in ("pad", "unk", "mask"):
        assert getattr(tokenizer, f"{role}_id") == getattr(reference, f"{role}_token_id")
    eos = reference.sep_token_id if reference.eos_token_id is None else reference.eos_token_id
    assert tokenizer.eos_id == eos


def test_spaces_of_a_llama_model(data_root: Path, tmp_path: Path) -> None:
    """transformers 5 ranks the merges of a bare tokenizer.model by id. Llama's own scores put runs
    of spaces last, as SentencePiece does here, and there too with the tokenizer.json from here."""
    place = published("llama", data_root, tmp_path / "in")
    tokenizer = tokenizer_from_folder(place)
    reference = transformers.AutoTokenizer.from_pretrained(place)
    assert tokenizer.pieces(tokenizer.encode("a.  If")) == ["▁a", ".", "▁", "▁If"]
    assert encoded(reference, "a.  If") != tokenizer.encode("a.  If")
    there = exported(tokenizer, tmp_path / "out", "llama", True, False)
    for text in SPACES:
        assert encoded(there, text) == tokenizer.encode(text)


def test_t5s_sentinels_are_the_checkpoints(data_root: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_from_folder(published("t5", data_root, tmp_path / "in"))
    assert tokenizer.pieces([32099, 32000]) == ["<extra_id_0>", "<extra_id_99>"]
    there = exported(tokenizer, tmp_path / "out", "t5", False, True)
    assert there.convert_tokens_to_ids("<extra_id_0>") == 32099
    assert encoded(there, "a <extra_id_0>")[-1] == 32099


def test_m2m100s_languages() -> None:
    from transformers.models.m2m_100 import tokenization_m2m_100

    codes = tokenization_m2m_100.FAIRSEQ_LANGUAGE_CODES
    assert codes["m2m100"] == M2M100_LANGUAGES.split()
    assert codes["wmt21"] == WMT21_LANGUAGES.split()


def test_m2m100(data_root: Path, tmp_path: Path) -> None:
    source = data_root / "tokenizers/llama2/tokenizer.model"
    proto = PROTOCOL.ModelProto.FromString(source.read_bytes())
    names = [p.piece for p in proto.pieces if p.type not in (2, 3)]
    ids = {n: i for i, n in enumerate(["<s>", "<pad>", "</s>", "<unk>", *reversed(names)])}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "m2m_100"}))
    shutil.copyfile(source, tmp_path / "sentencepiece.bpe.model")
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path, src_lang="en")
    tokenizer = tokenizer_from_folder(tmp_path)
    for text in [*WORDS, *SPACES]:
        assert tokenizer.encode(text) == encoded(reference, text)
    language = reference.get_lang_id("zh")
    assert tokenizer.pieces([language]) == ["__zh__"]
    there = exported(tokenizer, tmp_path / "out", "m2m_100", False, True)
    for text in [*WORDS, *SPACES]:
        assert tokenizer.encode(text) == encoded(there, text)
    assert there.convert_tokens_to_ids("__zh__") == language


def exported(tokenizer: Tokenizer, place: Path, kind: str, add_bos: bool, add_eos: bool) -> Any:
    bert = kind == "bert"
    model = ModelConfig(
        architecture="encoder" if bert else "decoder",
        vocab_size=100,
        num_layers=1,
        d_model=8,
        num_heads=2,
        d_ff=8,
        position=Learned(64),
        token_types=2 if bert else 0,
    )
    data = DataConfig(
        train={"x": TextFiles(paths=("x",))},
        tokenizer=ByteTokenizer(),
        sequence_length=8,
        add_bos=add_bos,
        add_eos=add_eos,
    )
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"model_type": kind}))
    tokenizer_to_folder(tokenizer, place, model, data)
    return transformers.AutoTokenizer.from_pretrained(place)


@pytest.mark.parametrize("name", [*KINDS, *FOLDERS, "stories260K"])
def test_transformers_reads_what_is_written(name: str, data_root: Path, tmp_path: Path) -> None:
    texts = [*WORDS, *SPACES]
    if name in KINDS:
        tokenizer = train_tokenizer(KINDS[name], lambda: iter(CORPUS * 3))
        kind = "bert" if name.startswith("wordpiece") else "llama"
    elif name in FOLDERS:
        tokenizer = tokenizer_from_folder(published(name, data_root, tmp_path / "in"))
        kind = FOLDERS[name][0]
    else:
        file = data_root / "weights/stories260K/tok512.bin"
        tokenizer, kind = tokenizer_from_llama2c(file, 512), "llama"
    for add_bos in (False, True):
        for add_eos in (False, True):
            bos, eos = tokenizer.bos_id if add_bos else None, tokenizer.eos_id if add_eos else None
            if (add_bos and bos is None) or (add_eos and eos is None):
                continue
            place = tmp_path / f"{add_bos}_{add_eos}"
            there = exported(tokenizer, place, kind, add_bos, add_eos)
            assert len(there) == tokenizer.vocab_size
            for text in texts:
                ids = tokenizer.encode(text)
                assert encoded(there, text) == ids
                wrapped = [i for i in (bos, *ids, eos) if i is not None]
                assert there.encode(text) == wrapped
                if tokenizer.lossless:
                    assert there.decode(wrapped, skip_special_tokens=True) == text
            assert there.pad_token_id == tokenizer.pad_id
            assert there.mask_token_id == tokenizer.mask_id
            assert ("token_type_ids" in there("a")) == (kind == "bert")
