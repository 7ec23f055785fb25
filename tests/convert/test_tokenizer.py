"""Tokenizers in and out of other programs' files: known ids, wrapping, round trips, messages."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer as Library

from lm.config import (
    BPETokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    DataConfig,
    HuggingFaceTokenizer,
    Learned,
    ModelConfig,
    SentencePieceTokenizer,
    TextFiles,
    TokenizerConfig,
    WordPieceTokenizer,
)
from lm.convert.tokenizer import (
    gguf_tokenizer_flags,
    tokenizer_config,
    tokenizer_flags,
    tokenizer_from_folder,
    tokenizer_from_gguf,
    tokenizer_from_llama2c,
    tokenizer_to_folder,
)
from lm.data.tokenizer import Tokenizer, load_any, load_tokenizer, train_tokenizer
from lm.data.tokenizers.sentence_piece import SentencePiece
from lm.errors import UserError

PROTOCOL: Any = sentencepiece_model_pb2
TEXTS = [
    "",
    " ",
    "Hello world! It's 3.14159 o'clock.",
    "  two  spaces   and more    ",
    "\n\n\r\n\tx\t",
    "床前明月光，疑是地上霜。",
    "🙂👩‍👩‍👧‍👦🇨🇳",
    "naïve cafe\u0301 résumé",
    "</s> <s><|endoftext|>[SEP] <extra_id_0> <0x0A><pad>",
    "\ufeffmark \u2581a",
]
Folder = Callable[..., Path]


@pytest.fixture
def folder(data_root: Path, tmp_path: Path) -> Folder:
    """`folder("t5", {"spiece.model": source}, ...)`: a Hugging Face folder, from published files
    (named below the tokenizers' folder) or contents."""

    def make(kind: str, files: dict[str, str | bytes], settings: dict | None = None) -> Path:
        place = tmp_path / f"folder{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        for name, source in files.items():
            if isinstance(source, bytes):
                (place / name).write_bytes(source)
            else:
                shutil.copyfile(data_root / "tokenizers" / source, place / name)
        (place / "config.json").write_text(json.dumps({"model_type": kind}))
        if settings is not None:
            (place / "tokenizer_config.json").write_text(json.dumps(settings))
        return place

    return make


@pytest.fixture(scope="module")
def t5_model(data_root: Path) -> bytes:
    """T5's spiece.model: its SentencePiece model without <s> and the sentinels."""
    path = data_root / "tokenizers/t5_sentencepiece/cc_all.32000.100extra.model"
    proto = PROTOCOL.ModelProto.FromString(path.read_bytes())
    del proto.pieces[32001:]
    del proto.pieces[2]
    return proto.SerializeToString()


@pytest.fixture(scope="module")
def real_lines(data_root: Path) -> list[str]:
    """English and Chinese."""
    docs = gzip.decompress((data_root / "pydocs_en_zh/pydocs_en_zh.tsv.gz").read_bytes())
    poems = gzip.decompress((data_root / "zh_poetry/poems_plain.txt.gz").read_bytes())
    return [*docs.decode()[:150_000].split("\n"), *poems.decode()[:20_000].split("\n"), *TEXTS]


GPT2 = {"vocab.json": "gpt2/encoder.json", "merges.txt": "gpt2/vocab.bpe"}
BERT = {"vocab.txt": "bert-base-uncased/vocab.txt"}


# ------------------------------------------------------------------------------------ folders in


@pytest.mark.parametrize(
    ("kind", "files", "settings", "ids", "flags", "special"),
    [
        # kind, files, settings, "Hello world", (add_bos, add_eos), (pad, bos, eos, unk, mask)
        (
            "bert",
            {"tokenizer.json": "bert-base-uncased/tokenizer.json"},
            None,
            [7592, 2088],
            (True, True),
            (0, 101, 102, 100, 103),
        ),
        ("bert", BERT, None, [7592, 2088], (True, True), (0, 101, 102, 100, 103)),
        (
            "bert",
            {"vocab.txt": "bert-base-chinese/vocab.txt"},
            {"do_lower_case": False},
            [100, 8572],
            (True, True),
            (0, 101, 102, 100, 103),
        ),
        ("gpt2", GPT2, None, [15496, 995], (False, False), (None, 50256, 50256, 50256, None)),
        (
            "roberta",
            {"tokenizer.json": "gpt2/tokenizer.json"},
            None,
            [31414, 232],
            (True, True),
            (1, 0, 2, 3, 50264),
        ),
        (
            "llama",
            {"tokenizer.model": "llama2/tokenizer.model"},
            {"tokenizer_class": "LlamaTokenizer"},
            [15043, 3186],
            (True, False),
            (None, 1, 2, 0, None),
        ),
        (
            "llama",
            {"tokenizer.model": "llama2/tokenizer.model"},
            {"add_bos_token": False, "add_eos_token": True},
            [15043, 3186],
            (False, True),
            (None, 1, 2, 0, None),
        ),
        ("t5", "t5", None, [8774, 296], (False, True), (0, None, 1, 2, None)),
    ],
)
def test_published_files(
    kind: str,
    files: Any,
    settings: dict | None,
    ids: list[int],
    flags: tuple[bool, bool],
    special: tuple[int | None, ...],
    folder: Folder,
    t5_model: bytes,
) -> None:
    place = folder(kind, {"spiece.model": t5_model} if files == "t5" else files, settings)
    tokenizer = tokenizer_from_folder(place)
    assert tokenizer.encode("Hello world") == ids
    assert tokenizer_flags(place) == {"add_bos": flags[0], "add_eos": flags[1]}
    found = (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id)
    assert (*found, tokenizer.mask_id) == special
    assert tokenizer.encode("") == []
    marks = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id} - {None}
    for text in TEXTS:
        assert not marks - {tokenizer.unk_id} & {*tokenizer.encode(text)}
    tokenizer.save(place / "saved")
    assert load_tokenizer(place / "saved").fingerprint == tokenizer.fingerprint


def test_t5_has_its_sentinels_on_top(folder: Folder, t5_model: bytes) -> None:
    tokenizer = tokenizer_from_folder(folder("t5", {"spiece.model": t5_model}))
    assert tokenizer.vocab_size == 32100
    assert tokenizer.pieces([32000, 32099]) == ["<extra_id_99>", "<extra_id_0>"]
    assert max(tokenizer.encode("a <extra_id_0> b")) < 32000
    few = folder("t5", {"spiece.model": t5_model}, {"extra_ids": 3})
    assert tokenizer_from_folder(few).vocab_size == 32003
    whole = {"spiece.model": "t5_sentencepiece/cc_all.32000.100extra.model"}
    assert tokenizer_from_folder(folder("t5", whole)).vocab_size == 32101


def test_case_and_accents_of_a_vocab_txt(folder: Folder) -> None:
    plain = tokenizer_from_folder(folder("bert", BERT))
    kept = tokenizer_from_folder(folder("bert", BERT, {"strip_accents": False}))
    assert plain.encode("Café") == plain.encode("cafe") != kept.encode("Café")
    cased = tokenizer_from_folder(folder("bert", BERT, {"do_lower_case": False}))
    assert cased.encode("Hello") != plain.encode("Hello") == plain.encode("hello")
    joined = tokenizer_from_folder(folder("bert", BERT, {"tokenize_chinese_chars": False}))
    assert plain.pieces(plain.encode("三一")) == ["三", "一"]
    assert joined.pieces(joined.encode("三一")) == ["三", "##一"]


def test_xlnet_splits_as_its_sentencepiece_model(tmp_path: Path, folder: Folder) -> None:
    model = _trained_xlnet()
    place = folder("xlnet", {"spiece.model": model})
    tokenizer, reference = tokenizer_from_folder(place), SentencePiece(model)
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id) == (5, 1, 2, 6)
    for text in ("the dog. (one, two) - lazy", " spaces   here "):
        assert tokenizer.encode(text) == reference.encode(text)
    # Besides, it takes accents off, and makes two marks one.
    assert tokenizer.encode("``dög''") == reference.encode('"dog"')
    assert not {1, 2, 3, 4, 5, 6} & {*tokenizer.encode("<s> </s> <cls> <sep> <pad> <mask>")}
    # It ends with two tokens, which is not one eos.
    assert tokenizer_flags(place) == {"add_bos": False, "add_eos": False}


def _trained_xlnet() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(['the lazy dog. (one, two) - "spaces" here & there'] * 20),
        model_writer=model,
        model_type="unigram",
        vocab_size=60,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        control_symbols="<cls>,<sep>,<pad>,<mask>,<eod>",
        user_defined_symbols="<eop>,.,(,),-",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


def test_m2m100_numbers_the_pieces_by_its_vocabulary(folder: Folder, data_root: Path) -> None:
    path = data_root / "tokenizers/llama2/tokenizer.model"
    proto = PROTOCOL.ModelProto.FromString(path.read_bytes())
    pieces = [p.piece for p in proto.pieces if p.type not in (2, 3)]
    names = ["<s>", "<pad>", "</s>", "<unk>", *reversed(pieces), "madeupword0000"]
    ids = {name: i for i, name in enumerate(names)}
    files: dict[str, Any] = {"sentencepiece.bpe.model": "llama2/tokenizer.model"}
    vocabulary = json.dumps(ids).encode()
    place = folder("m2m_100", {**files, "vocab.json": vocabulary})
    tokenizer, reference = tokenizer_from_folder(place), load_any(path)
    for text in TEXTS:
        assert tokenizer.encode(text) == [ids[p] for p in reference.pieces(reference.encode(text))]
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace("\u2581", " ")
    assert (tokenizer.bos_id, tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert tokenizer_flags(place) == {"add_bos": False, "add_eos": True}
    last = [len(ids), len(ids) + 99]
    assert tokenizer.pieces(last) == ["__af__", "__zu__"] and tokenizer.decode(last) == ""
    assert tokenizer.vocab_size == len(ids) + 100
    del ids["▁the"]
    gap = folder("m2m_100", {**files, "vocab.json": json.dumps(ids).encode()})
    with pytest.raises(UserError, match="are not 0 to"):
        tokenizer_from_folder(gap)
    ids = {name: i for i, name in enumerate(ids)}
    lost = folder("m2m_100", {**files, "vocab.json": json.dumps(ids).encode()})
    with pytest.raises(UserError, match="1 pieces .* not in vocab.json, the first of them '▁the'"):
        tokenizer_from_folder(lost)


def test_openai_gpt_has_words_of_characters(folder: Folder) -> None:
    ids = {c: i for i, c in enumerate(["<unk>", "d", "o", "g", "g</w>", "do", "dog</w>", "s</w>"])}
    merges = b"#version: 0.2\nd o\ndo g</w>\n"
    files = {"vocab.json": json.dumps(ids).encode(), "merges.txt": merges}
    tokenizer = tokenizer_from_folder(folder("openai-gpt", files))
    assert tokenizer.encode("Dog dogs Do") == [6, 5, 3, 7, 1, 0]
    assert tokenizer.decode([6, 5, 3, 7]) == "dog dogs"
    assert tokenizer.unk_id == 0 and tokenizer.bos_id is None


def test_added_tokens_on_top(folder: Folder) -> None:
    llama = {"tokenizer.model": "llama2/tokenizer.model"}
    added = json.dumps({"<extra>": 32001, "[PAD]": 32000}).encode()
    tokenizer = tokenizer_from_folder(folder("llama", {**llama, "added_tokens.json": added}))
    assert tokenizer.vocab_size == 32002
    assert tokenizer.pieces([32000, 32001]) == ["[PAD]", "<extra>"]
    assert max(tokenizer.encode("[PAD] <extra>")) < 32000
    gap = json.dumps({"[PAD]": 32005}).encode()
    with pytest.raises(UserError, match=r"'\[PAD\]' has the id 32005, but 32000 is the next"):
        tokenizer_from_folder(folder("llama", {**llama, "added_tokens.json": gap}))
    added = json.dumps({"<|user|>": 50257}).encode()
    tokenizer = tokenizer_from_folder(folder("gpt2", {**GPT2, "added_tokens.json": added}))
    assert tokenizer.pieces([50257]) == ["<|user|>"]
    gap = json.dumps({"<|user|>": 50300}).encode()
    with pytest.raises(UserError, match=r"'<\|user\|>' cannot have the id 50300"):
        tokenizer_from_folder(folder("gpt2", {**GPT2, "added_tokens.json": gap}))


def test_folders_that_are_refused(folder: Folder, tmp_path: Path) -> None:
    for place in (folder("bert", {}), tmp_path / "none"):
        with pytest.raises(UserError, match=r"has no tokenizer: looked for tokenizer\.json, "):
            tokenizer_from_folder(place)
    for kind, name in (("camembert", "sentencepiece.bpe.model"), ("marian", "source.spm")):
        with pytest.raises(UserError, match="not supported without a tokenizer.json"):
            tokenizer_from_folder(folder(kind, {name: "llama2/tokenizer.model"}))
    with pytest.raises(UserError, match="no SentencePiece model"):
        tokenizer_from_folder(folder("llama", {"tokenizer.model": b"no model"}))
    with pytest.raises(UserError, match="damaged, or no tokenizer.json"):
        tokenizer_from_folder(folder("llama", {"tokenizer.json": b'{"model": {'}))


# ------------------------------------------------------------------------------ llama2.c and GGUF


def test_llama2c_encodes_as_the_sentencepiece_model(data_root: Path, real_lines: list[str]) -> None:
    place = data_root / "tokenizers/llama2"
    tokenizer = tokenizer_from_llama2c(place / "tokenizer.bin", 32000)
    reference = load_any(place / "tokenizer.model")
    assert tokenizer.encode_batch(real_lines) == reference.encode_batch(real_lines)
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    ids = reference.encode(TEXTS[3])
    assert tokenizer.decode(ids) == reference.decode(ids) == TEXTS[3]


def test_stories260k(data_root: Path) -> None:
    tokenizer = tokenizer_from_llama2c(data_root / "weights/stories260K/tok512.bin", 512)
    assert tokenizer.encode("Once upon a time") == [403, 407, 261, 378]
    assert tokenizer.decode(tokenizer.encode("山\n")) == "山\n"
    assert tokenizer.encode("\n")[1:] == [3 + 10]


def test_llama2c_files_that_are_refused(data_root: Path, tmp_path: Path) -> None:
    path = data_root / "weights/stories260K/tok512.bin"
    with pytest.raises(UserError, match="has 512 tokens, the model's vocab_size is 32000"):
        tokenizer_from_llama2c(path, 32000)
    data = path.read_bytes()
    cut = tmp_path / "tok.bin"
    for content in (data[:-2], data[:10], data[:100] + b"\xff" * 50):
        cut.write_bytes(content)
        with pytest.raises(UserError, match=r"cut off|has \d+ tokens"):
            tokenizer_from_llama2c(cut, 512)
    cut.write_bytes(
        struct.pack("<i", 3) + b"".join(struct.pack("<fi", 0.0, 1) + b"a" for _ in "abc")
    )
    with pytest.raises(UserError, match="token 0 is not <unk>"):
        tokenizer_from_llama2c(cut, 3)


def llama_fields(data_root: Path) -> dict[str, Any]:
    path = data_root / "tokenizers/llama2/tokenizer.model"
    pieces = PROTOCOL.ModelProto.FromString(path.read_bytes()).pieces
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [p.piece for p in pieces],
        "tokenizer.ggml.scores": [p.score for p in pieces],
        "tokenizer.ggml.token_type": [p.type for p in pieces],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def gpt2_fields(data_root: Path, pre: str) -> dict[str, Any]:
    place = data_root / "tokenizers/gpt2"
    ids = json.loads((place / "encoder.json").read_text())
    merges = (place / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
    tokens = [*sorted(ids, key=ids.__getitem__), "<call>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 50256 + [3, 4],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 50256,
        "tokenizer.ggml.eos_token_id": 50256,
    }


def test_gguf_of_sentencepiece(data_root: Path, real_lines: list[str]) -> None:
    fields = llama_fields(data_root)
    tokenizer = tokenizer_from_gguf(fields)
    reference = load_any(data_root / "tokenizers/llama2/tokenizer.model")
    assert tokenizer.encode_batch(real_lines) == reference.encode_batch(real_lines)
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert gguf_tokenizer_flags(fields) == {"add_bos": True, "add_eos": False}
    fields["tokenizer.ggml.add_space_prefix"] = False
    assert tokenizer_from_gguf(fields).pieces(tokenizer_from_gguf(fields).encode("Hi")) == ["Hi"]


def test_gguf_of_byte_level_bpe(data_root: Path, real_lines: list[str]) -> None:
    fields = gpt2_fields(data_root, "gpt-2")
    tokenizer = tokenizer_from_gguf(fields)
    reference = load_any(data_root / "tokenizers/gpt2/encoder.json")
    assert tokenizer.encode_batch(real_lines) == reference.encode_batch(real_lines)
    assert tokenizer.bos_id == tokenizer.eos_id == 50256 and tokenizer.lossless
    assert tokenizer.encode("<call>") == [50257]
    assert 50256 not in tokenizer.encode("<|endoftext|>")
    assert gguf_tokenizer_flags(fields) == {"add_bos": False, "add_eos": False}


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("default", ["x", "12345", ")", "\n", "\n", "y", "\u00e9"]),
        ("llama-bpe", ["x", "123", "45", ")", "\n", "\n", "y", "\u00e9"]),
        ("qwen2", ["x", *"12345", ")", "\n", "\n", "y", "\u00e9"]),
        ("smollm", ["x", *"12345", ")", "\n", "\n", "y", "\u00e9"]),
    ],
)
def test_gguf_splittings(pre: str, pieces: list[str], data_root: Path) -> None:
    tokenizer = tokenizer_from_gguf(gpt2_fields(data_root, pre))
    text = "x12345)\n\ny\u00e9"
    found = tokenizer.pieces(tokenizer.encode(text))
    assert "".join(found) == text
    # Whatever is merged, numbers are cut as each does.
    numbers = [p for p in found if p.isdigit()]
    assert max(map(len, numbers)) <= max(len(p) for p in pieces if p.isdigit())
    assert (tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")) == (pre == "qwen2")
    assert gguf_tokenizer_flags(gpt2_fields(data_root, pre))["add_bos"] == (pre == "llama-bpe")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, "model is 'bert', and only"),
        ({"tokenizer.ggml.model": "llama"}, "scores is missing"),
        ({"tokenizer.ggml.pre": "deepseek-llm"}, "'deepseek-llm', a splitting that is not"),
        ({"tokenizer.ggml.tokens": None}, "tokens is missing, or no list"),
        ({"tokenizer.ggml.merges": "a b"}, "merges is missing, or no list"),
        ({"tokenizer.ggml.merges": ["a zzzzq"]}, "do not fit together"),
        ({"tokenizer.ggml.token_type": [1]}, "has 1 values for 50258 tokens"),
        ({"tokenizer.ggml.bos_token_id": 50258}, "bos_token_id is 50258, outside"),
    ],
)
def test_gguf_metadata_that_are_refused(
    change: dict[str, Any], message: str, data_root: Path
) -> None:
    with pytest.raises(UserError, match=message):
        tokenizer_from_gguf({**gpt2_fields(data_root, "gpt-2"), **change})


# ----------------------------------------------------------------------------------- folders out

# With every character of "<0x0A>", which a Unigram model could else only take for the byte.
CORPUS = ["The quick brown fox; it's 42. A0x0A<A>\n", "从前有座山，山里有座庙。\n", *TEXTS] * 3
KINDS: dict[str, TokenizerConfig] = {
    "byte": ByteTokenizer(),
    "character": CharacterTokenizer(),
    "bpe": BPETokenizer(vocab_size=330),
    "wordpiece": WordPieceTokenizer(vocab_size=150),
    "unigram": SentencePieceTokenizer(vocab_size=340),
    "sentencepiece_bpe": SentencePieceTokenizer(vocab_size=340, model_type="bpe"),
}
PUBLISHED = {
    "gpt2": ("gpt2", GPT2),
    "bert": ("bert", BERT),
    "roberta": ("roberta", {"tokenizer.json": "gpt2/tokenizer.json"}),
    "llama": ("llama", {"tokenizer.model": "llama2/tokenizer.model"}),
    "t5": ("t5", {"spiece.model": "t5_sentencepiece/cc_all.32000.100extra.model"}),
}


def data(add_bos: bool, add_eos: bool) -> DataConfig:
    return DataConfig(
        train={"x": TextFiles(paths=("x",))},
        tokenizer=ByteTokenizer(),
        sequence_length=8,
        add_bos=add_bos,
        add_eos=add_eos,
    )


MODEL = ModelConfig(
    vocab_size=100, num_layers=1, d_model=8, num_heads=2, d_ff=8, position=Learned(64)
)


def written(tokenizer: Tokenizer, place: Path, add_bos: bool, add_eos: bool) -> Library:
    place.mkdir()
    names = tokenizer_to_folder(tokenizer, place, MODEL, data(add_bos, add_eos))
    assert {*names} == {path.name for path in place.iterdir()}
    backend = Library.from_file(str(place / "tokenizer.json"))
    assert backend.padding is None and backend.truncation is None
    return backend


@pytest.mark.parametrize("kind", [*KINDS, *PUBLISHED])
def test_a_folder_encodes_as_its_tokenizer(kind: str, tmp_path: Path, folder: Folder) -> None:
    if kind in KINDS:
        tokenizer = train_tokenizer(KINDS[kind], lambda: iter(CORPUS))
    else:
        tokenizer = tokenizer_from_folder(folder(*PUBLISHED[kind]))
    for add_bos, add_eos in ((True, True), (False, True), (False, False))[
        : 3 if kind in KINDS else 2
    ]:
        if (add_bos and tokenizer.bos_id is None) or (add_eos and tokenizer.eos_id is None):
            continue
        place = tmp_path / f"{kind}_{add_bos}_{add_eos}"
        backend = written(tokenizer, place, add_bos, add_eos)
        before = [tokenizer.bos_id] if add_bos else []
        after = [tokenizer.eos_id] if add_eos else []
        # As its users have it: special tokens in a text are special.
        for text in (t for t in TEXTS if "<s>" not in t):
            assert backend.encode(text).ids == before + tokenizer.encode(text) + after
        back = tokenizer_from_folder(place)
        assert tokenizer_flags(place) == {"add_bos": add_bos, "add_eos": add_eos}
        if kind != "character":
            assert back.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
        for role in ("pad_id", "bos_id", "eos_id", "unk_id", "mask_id"):
            assert getattr(back, role) == getattr(tokenizer, role)
        settings = json.loads((place / "tokenizer_config.json").read_text())
        assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert settings["model_input_names"] == ["input_ids", "attention_mask"]
        assert settings["model_max_length"] == 64


def test_sentencepiece_models_go_along(data_root: Path, tmp_path: Path) -> None:
    path = data_root / "tokenizers/llama2/tokenizer.model"
    written(load_any(path), tmp_path / "llama", True, False)
    assert (tmp_path / "llama/tokenizer.model").read_bytes() == path.read_bytes()


def test_berts_pairs_and_a_chat_template_survive(tmp_path: Path, folder: Folder) -> None:
    settings = {"tokenizer_class": "BertTokenizer", "chat_template": "{{ x }}"}
    tokenizer = tokenizer_from_folder(folder("bert", BERT, settings))
    backend = written(tokenizer, tmp_path / "out", True, True)
    assert backend.encode("a", "b").ids == [101, 1037, 102, 1038, 102]
    assert backend.encode("a", "b").type_ids == [0, 0, 0, 1, 1]
    saved = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert saved["chat_template"] == "{{ x }}" and saved["cls_token"] == "[CLS]"
    trained = train_tokenizer(KINDS["wordpiece"], lambda: iter(CORPUS))
    backend = written(trained, tmp_path / "trained", True, True)
    bos, eos = trained.bos_id, trained.eos_id
    a, b = trained.encode("a"), trained.encode("b")
    assert backend.encode("a", "b").ids == [bos, *a, eos, *b, eos]


def test_unknown_characters_are_refused_there_too(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(KINDS["character"], lambda: iter(["ab\n "]))
    backend = written(tokenizer, tmp_path / "out", False, False)
    assert backend.encode("ba\n a").ids == tokenizer.encode("ba\n a")
    with pytest.raises(Exception, match="UNK"):
        backend.encode("c")


def test_the_config_of_each_kind(data_root: Path) -> None:
    assert tokenizer_config(train_tokenizer(ByteTokenizer(), lambda: iter([])), None).kind == "byte"
    bert = load_any(data_root / "tokenizers/bert-base-uncased")
    assert tokenizer_config(bert, "x") == WordPieceTokenizer("x", lowercase=True)
    gguf = tokenizer_from_gguf(gpt2_fields(data_root, "gpt-2"))
    assert tokenizer_config(gguf, "x") == HuggingFaceTokenizer("x")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(ByteTokenizer(), lambda: iter([]))
    with pytest.raises(UserError, match="cannot write .*tokenizer.json: No such file"):
        tokenizer_to_folder(tokenizer, tmp_path / "none", MODEL, data(False, True))
