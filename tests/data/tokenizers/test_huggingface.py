"""Any tokenizer.json: known ids, special tokens, decoding, parts, folders, messages."""

from __future__ import annotations

import json
import random
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from lm.config import HuggingFaceTokenizer
from lm.data.tokenizer import (
    build_tokenizer,
    load_any,
    load_tokenizer,
    stream_decoder,
    train_tokenizer,
)
from lm.data.tokenizers.base import cut_lines
from lm.data.tokenizers.huggingface import LLAMA3_SPLIT, QWEN2_SPLIT, HuggingFace
from lm.data.tokenizers.settings import wrap
from lm.errors import ConfigError, UserError

TEXTS = [
    "The quick brown fox jumps over the lazy dog's 1234567 bones.\nIt doesn't mind!\n",
    "从前有座山，山里有座庙。\n",
    "low lower lowest new newer newest wide wider widest " * 3,
] * 3
TRICKY = [
    "",
    " ",
    "  two  spaces  ",
    "\n\n\r\n\t",
    "床前明月光，疑是地上霜。",
    "🙂👩‍👩‍👧‍👦🇨🇳",
    "caf\u00e9 cafe\u0301",
    "a 12345 b\n \nc",
]


def byte_bpe(pre_tokenizer: Any, normalizer: Any = None) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    words = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([words, whole])


def unigram() -> Tokenizer:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("\u2581", -2.0), ("\u2581the", -3.0), ("dog", -4.0)]
    pieces += [(c, -6.0) for c in "thedogs</>"]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    signs = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), signs])
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    backend.add_special_tokens(["</s>", "<unk>"])
    return backend


def words(kind: str) -> Tokenizer:
    ids = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "dog": 3, "##s": 4, "the": 5}
    model = models.WordPiece(ids, unk_token="[UNK]") if kind == "WordPiece" else None
    backend = Tokenizer(model or models.WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    return backend


SPLITS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "llama3": split(LLAMA3_SPLIT),
    "qwen2": split(QWEN2_SPLIT),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    ),
}


@pytest.mark.parametrize(
    ("path", "text", "ids"),
    [
        ("bert-base-uncased", "Hello world! 世界", [7592, 2088, 999, 1745, 100]),
        # RoBERTa's vocabulary.
        ("gpt2/tokenizer.json", "Hello world 世界", [31414, 232, 1437, 46015, 25448, 49127, 14285]),
        ("gpt2/tokenizer.json", "", []),
        ("bert-base-uncased", "[SEP]", [1031, 19802, 1033]),
    ],
)
def test_known_ids(path: str, text: str, ids: list[int], data_root: Path) -> None:
    tokenizer = HuggingFace.load(data_root / "tokenizers" / path)
    assert tokenizer.encode(text)[: len(ids)] == ids
    assert load_any(data_root / "tokenizers" / path).encode(text) == tokenizer.encode(text)


def test_the_settings_name_the_special_ids(data_root: Path) -> None:
    bert = HuggingFace.load(data_root / "tokenizers/bert-base-uncased")
    # Its cls and sep.
    assert (bert.bos_id, bert.eos_id) == (101, 102)
    assert (bert.pad_id, bert.unk_id, bert.mask_id) == (0, 100, 103)
    assert wrap(bert.backend) == ([101], [102])
    alone = HuggingFace.load(data_root / "tokenizers/gpt2/tokenizer.json")
    assert (alone.bos_id, alone.eos_id, alone.pad_id, alone.mask_id) == (0, 2, 1, 50264)


# -------------------------------------------------------------------------------- special tokens


@pytest.mark.parametrize("name", ["Unigram", "WordPiece", "WordLevel", "BPE", "whole words"])
def test_no_text_spells_a_special_token(name: str) -> None:
    if name == "Unigram":
        tokenizer, special = HuggingFace(unigram()), "</s>"
    elif name in ("WordPiece", "WordLevel"):
        tokenizer, special = HuggingFace(words(name)), "[SEP]"
    else:
        ids = {"<": 0, "s": 1, ">": 2, "<s": 3, "<s>": 4, "a": 5, "aa": 6}
        merges = [("<", "s"), ("<s", ">"), ("a", "a")]
        backend = Tokenizer(models.BPE(ids, merges, ignore_merges=name == "whole words"))
        backend.add_special_tokens(["<s>"])
        tokenizer, special = HuggingFace(backend), "<s>"
    token_id = tokenizer.backend.token_to_id(special)
    # The library itself would read it, through the vocabulary.
    assert token_id in tokenizer.backend.encode(special, add_special_tokens=False).ids
    for text in (special, f"the dog {special} aa", f"{special}{special}"):
        assert not {*tokenizer.encode(text)} & (tokenizer.skipped - {tokenizer.unk_id})
    assert tokenizer.encode("the dog aa") == tokenizer.backend.encode("the dog aa").ids


def test_added_tokens_keep_their_ids_where_special_ones_are_hidden() -> None:
    backend = unigram()
    backend.add_special_tokens(["<pad>"])
    backend.add_tokens([AddedToken("<call>", normalized=False)])
    tokenizer = HuggingFace(backend)
    assert tokenizer.encoder is not backend
    assert tokenizer.encode("the <call>")[-1] == tokenizer.vocab_size - 1
    assert tokenizer.tokens[-2:] == ["<pad>", "<call>"]


def test_settings_add_tokens_and_choose_the_wrap(tmp_path: Path) -> None:
    backend = byte_bpe(SPLITS["gpt2"])
    size = backend.get_vocab_size()
    backend.save(str(tmp_path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin|>",
        "eos_token": {"content": "<|end|>", "lstrip": False},
        "pad_token": "<|pad|>",
        "add_bos_token": True,
        "added_tokens_decoder": {str(size + 1): {"content": "<tool>", "special": False}},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = HuggingFace.load(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 1)
    assert wrap(tokenizer.backend) == ([0], [])
    # As transformers: those with an id first.
    assert tokenizer.encode("<tool>") == [size] and tokenizer.pad_id == size + 1
    assert tokenizer.encode("<|pad|><|end|>")[0] == tokenizer.encode("<")[0]
    tokenizer.save(tmp_path / "saved")
    saved = load_tokenizer(tmp_path / "saved")
    assert saved.fingerprint == tokenizer.fingerprint
    assert (saved.pad_id, saved.encode("a <tool>")) == (size + 1, tokenizer.encode("a <tool>"))


def test_the_fingerprint_tells_special_ids_apart(tmp_path: Path) -> None:
    backend = byte_bpe(SPLITS["gpt2"])
    one = HuggingFace(backend, {"eos_token": "<|end|>"})
    other = HuggingFace(backend, {"eos_token": "<|begin|>"})
    assert one.fingerprint != other.fingerprint and one.eos_id != other.eos_id
    assert (
        one.fingerprint == HuggingFace(backend, {"eos_token": {"content": "<|end|>"}}).fingerprint
    )


# -------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("name", list(SPLITS))
def test_bytes_round_trip_and_stream(name: str) -> None:
    tokenizer = HuggingFace(byte_bpe(SPLITS[name]))
    assert tokenizer.lossless
    for text in [*TRICKY, *TEXTS, "<|end|>"]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        stream = stream_decoder(tokenizer)
        assert "".join(map(stream.push, ids)) + stream.finish() == text
    assert tokenizer.decode([0, *tokenizer.encode("a"), 1]) == "a"
    assert tokenizer.pieces(tokenizer.encode("山")[:1])[0].startswith(("<0xE5>", "山"))


def test_what_changes_a_text_is_not_lossless() -> None:
    assert not HuggingFace(byte_bpe(SPLITS["qwen2"], normalizers.NFC())).lossless
    assert not HuggingFace(byte_bpe(pre_tokenizers.ByteLevel(add_prefix_space=True))).lossless
    dropping = pre_tokenizers.Split(" ", behavior="removed")
    dropping = pre_tokenizers.Sequence([dropping, pre_tokenizers.ByteLevel(False)])
    assert not HuggingFace(byte_bpe(dropping)).lossless
    assert not HuggingFace(unigram()).lossless


def test_decoders_of_pieces_bytes_and_words() -> None:
    tokenizer = HuggingFace(unigram())
    assert tokenizer.decode(tokenizer.encode("the dog  the")) == "the dog the"
    pieces = {"<unk>": 0, "<0xE5>": 1, "<0xB1>": 2, "<0xB1B>": 3, "\u2581a": 4, "\u2581": 5}
    backend = Tokenizer(models.BPE(pieces, [], unk_token="<unk>"))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    bytes_too = HuggingFace(backend)
    assert bytes_too.decode([4, 4, 1, 2, 2]) == backend.decode([4, 4, 1, 2, 2]) == "a a山"
    assert bytes_too.decode([4, 1, 2]) == "a\ufffd"
    assert bytes_too.decode([5, 4]) == " a" and bytes_too.decode([3]) == "<0xB1B>"
    ends = {"<unk>": 0, "the</w>": 1, "do": 2, "g</w>": 3}
    backend = Tokenizer(models.BPE(ends, [], unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    assert HuggingFace(backend).decode([1, 2, 3, 1]) == "the dog the"
    assert HuggingFace(words("WordPiece")).decode([5, 3, 4, 3]) == "the dogs dog"


# ---------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("name", [*SPLITS, "qwen2 nfc", "unigram"])
def test_the_ids_of_a_text_are_those_of_its_lines(name: str) -> None:
    if name == "unigram":
        tokenizer = HuggingFace(unigram())
    else:
        normalizer = normalizers.NFC() if name.endswith("nfc") else None
        tokenizer = HuggingFace(byte_bpe(SPLITS[name.removesuffix(" nfc")], normalizer))
    assert tokenizer.cuts_lines
    parts_of_words = [
        "the",
        "dog's",
        "12",
        "345",
        "--",
        "山",
        "é",
        "e\u0301",
        "\u0301",
        "!",
        "</s>",
    ]
    spaces = [" ", "  ", "\n", "\n", "\n", "\n\n", "\r\n", "\n ", " \n", "\t", "\xa0", "\u2028", ""]
    for seed in range(50):
        choose = random.Random(seed).choice
        text = "".join(choose(parts_of_words) + choose(spaces) for _ in range(200))
        parts = list(cut_lines(text, 1))
        assert len(parts) > 5
        assert [*chain(*tokenizer.encode_batch(parts))] == tokenizer.encode(text)


def test_other_splittings_are_not_cut() -> None:
    for pattern in ("[a-z\n]+", r"\s+"):
        assert not HuggingFace(byte_bpe(split(pattern))).cuts_lines
    backend = byte_bpe(SPLITS["gpt2"])
    backend.add_tokens(["a\nb"])
    assert not HuggingFace(backend).cuts_lines
    assert not HuggingFace(byte_bpe(pre_tokenizers.ByteLevel(add_prefix_space=True))).cuts_lines


# ------------------------------------------------------------------------------------- messages


def test_a_config_names_a_path(tmp_path: Path) -> None:
    byte_bpe(SPLITS["llama3"]).save(str(tmp_path / "tokenizer.json"))
    config = HuggingFaceTokenizer(path="tokenizer.json")
    built = build_tokenizer(config, data_root=tmp_path, cache_dir=tmp_path)
    assert built.kind == "huggingface"
    for texts in (None, lambda: iter(TEXTS)):
        with pytest.raises(ConfigError, match=r"loaded, never trained: set tokenizer\.path"):
            build_tokenizer(
                HuggingFaceTokenizer(), data_root=tmp_path, cache_dir=tmp_path, texts=texts
            )
    with pytest.raises(ConfigError, match="never trained"):
        train_tokenizer(HuggingFaceTokenizer(), lambda: iter(TEXTS))
    wrong = HuggingFaceTokenizer(path="tokenizer.json", vocab_size=7)
    with pytest.raises(ConfigError, match="vocab_size is 7"):
        build_tokenizer(wrong, data_root=tmp_path, cache_dir=tmp_path)


def test_what_is_refused(tmp_path: Path) -> None:
    backend = byte_bpe(SPLITS["gpt2"])
    backend.model.dropout = 0.1
    with pytest.raises(UserError, match="BPE dropout"):
        HuggingFace(backend)
    backend = byte_bpe(SPLITS["gpt2"])
    backend.decoder = decoders.CTC()
    with pytest.raises(UserError, match="a step 'CTC' that is not supported"):
        HuggingFace(backend)
    byte_bpe(SPLITS["gpt2"]).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UserError, match=r"tokenizer_config.json is not a JSON object"):
        HuggingFace.load(tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        HuggingFace.load(tmp_path / "none")


def test_padding_truncation_and_post_processors_add_nothing() -> None:
    backend = byte_bpe(SPLITS["gpt2"])
    before = HuggingFace(backend).encode("the dog")
    backend.enable_padding(length=50)
    backend.enable_truncation(2)
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
    )
    assert HuggingFace(backend).encode("the dog") == before
