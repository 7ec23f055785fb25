"""Tokenizers of other programs' checkpoints: what is read here travels with the weights.

A Hugging Face folder's tokenizer.json is used as it is (kind "huggingface"); a folder without one
has its files read as transformers reads them. See lm/convert/tokenizer_export.py for the way out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers import decoders, normalizers, pre_tokenizers, processors

from lm.config import (
    BPETokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    TokenizerConfig,
    WordPieceTokenizer,
    WordsTokenizer,
)
from lm.convert.pieces import read_llama2c, renumbered, with_added, with_sentinels, xlnet_tokenizer
from lm.convert.tokenizer_export import tokenizer_to_folder
from lm.convert.tokenizer_gguf import gguf_tokenizer_flags, splitting, tokenizer_from_gguf
from lm.data.tokenizer import Tokenizer
from lm.data.tokenizers.base import read_json
from lm.data.tokenizers.bpe import from_pair, merging, read_pair
from lm.data.tokenizers.huggingface import HuggingFace
from lm.data.tokenizers.sentence_piece import SentencePiece
from lm.data.tokenizers.settings import (
    add_named,
    apply_wrap,
    read_settings,
    set_wrap,
    special_names,
    tokenizer_class,
)
from lm.data.tokenizers.wordpiece import WordPiece
from lm.errors import UserError

__all__ = [
    "flags_of",
    "gguf_tokenizer_flags",
    "tokenizer_config",
    "tokenizer_flags",
    "tokenizer_from_folder",
    "tokenizer_from_gguf",
    "tokenizer_from_llama2c",
    "tokenizer_to_folder",
]

MODELS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
LOOKED_FOR = "tokenizer.json, tokenizer.model, spiece.model, vocab.txt, vocab.json with merges.txt"
# M2M-100's languages, in the order of their ids (Fan et al. 2020, Table 1; fairseq's order).
M2M100_LANGUAGES = (
    "af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu "
    "ha he hi hr ht hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms "
    "my ne nl no ns oc or pa pl ps pt ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur "
    "uz vi wo xh yi yo zh zu"
)
WMT21_LANGUAGES = "en ha is ja cs ru zh de"
# Numbered other than their SentencePiece models, or with two of them.
_UNSUPPORTED = ("XLMRoberta", "Camembert", "Marian", "MBart", "Barthez")


def tokenizer_from_folder(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder, as transformers would load it.

    Texts are encoded alike, but for the spelling of special tokens, which is never special here,
    and for spaces at the start of a text where a SentencePiece model of BPE is the only file:
    here they stay, as in SentencePiece itself.

    Raises UserError: there is none, or it is damaged, or of a kind that is not supported.
    """
    return _from_folder(Path(folder))[0]


def tokenizer_flags(folder: Path) -> dict[str, bool]:
    """{"add_bos": ..., "add_eos": ...}: whether the folder's tokenizer puts `bos_id` before and
    `eos_id` after one text. Both False for a wrapping of other tokens (XLNet ends with two).

    Raises UserError as `tokenizer_from_folder`.
    """
    tokenizer, flags = _from_folder(Path(folder))
    return flags_of(tokenizer) if isinstance(tokenizer, HuggingFace) else flags


def flags_of(tokenizer: Tokenizer) -> dict[str, bool]:
    """The same, from what the tokenizer itself says."""
    before, after = tokenizer.wrapping
    return {
        "add_bos": [*before] == [tokenizer.bos_id],
        "add_eos": [*after] == [tokenizer.eos_id],
    }


def tokenizer_from_llama2c(path: Path, vocab_size: int) -> Tokenizer:
    """llama2.c's tokenizer file, as a SentencePiece model. Its programs put bos before a text.

    Raises UserError for a file that is damaged, or has another number of tokens.
    """
    return SentencePiece(read_llama2c(Path(path), vocab_size), str(path))


def tokenizer_config(tokenizer: Tokenizer, path: str | None) -> TokenizerConfig:
    """The config (DataConfig.tokenizer) of a tokenizer that was saved in `path`."""
    if isinstance(tokenizer, WordPiece):
        return WordPieceTokenizer(path, lowercase=tokenizer.lowercase)
    kinds: dict[str, TokenizerConfig] = {
        "byte": ByteTokenizer(),
        "character": CharacterTokenizer(path),
        "words": WordsTokenizer(path),
        "bpe": BPETokenizer(path),
        "sentencepiece": SentencePieceTokenizer(path),
        "huggingface": HuggingFaceTokenizer(path),
    }
    return kinds[tokenizer.kind]


def _from_folder(folder: Path) -> tuple[Tokenizer, dict[str, bool]]:
    """The tokenizer, and how it wraps a text where that is no HuggingFace's own."""
    if (folder / HuggingFace.FILE).is_file():
        return HuggingFace.load(folder), {}
    settings = read_settings(folder)
    kind = tokenizer_class(settings, folder)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    model = next((name for name in MODELS if name in names), None)
    if kind in _UNSUPPORTED and names & {*MODELS, "source.spm"}:
        raise UserError(
            f"{folder}: the files of a {kind} tokenizer are not supported without a "
            "tokenizer.json; load it with transformers and save it with save_pretrained"
        )
    if model is not None:
        return _sentencepiece(folder, folder / model, kind, settings)
    if "vocab.txt" in names:
        backend = _wordpiece(folder / "vocab.txt", settings)
    elif {"vocab.json", "merges.txt"} <= names:
        backend = _pair(folder, kind, settings)
    else:
        raise UserError(f"{folder} has no tokenizer: looked for {LOOKED_FOR}")
    return _finished(backend, settings, folder), {}


def _finished(backend: Library, settings: dict[str, Any], folder: Path) -> HuggingFace:
    add_named(backend, settings, folder)
    more = _added(folder, settings)
    backend.add_special_tokens(sorted(more, key=more.__getitem__))
    for token, token_id in more.items():
        if backend.token_to_id(token) != token_id:
            raise UserError(f"{folder}: the added token {token!r} cannot have the id {token_id}")
    kind = settings.get("tokenizer_class")
    names = special_names(backend, settings)
    cls, sep = names.get("cls"), names.get("sep")
    if kind in ("BertTokenizer", "ElectraTokenizer", "DistilBertTokenizer"):
        set_wrap(backend, cls, sep, again=False)
    elif kind in ("RobertaTokenizer", "BartTokenizer") and cls and sep:
        number = backend.get_vocab(with_added_tokens=True)
        backend.post_processor = processors.RobertaProcessing(
            (sep, number[sep]), (cls, number[cls])
        )
    elif kind == "XLNetTokenizer" and cls and sep:
        backend.post_processor = processors.TemplateProcessing(
            single=f"$A:0 {sep}:0 {cls}:2",
            pair=f"$A:0 {sep}:0 $B:1 {sep}:1 {cls}:2",
            special_tokens=[(name, backend.token_to_id(name)) for name in (sep, cls)],
        )
    else:
        apply_wrap(backend, settings)
    return HuggingFace(backend, settings, str(folder))


def _added(folder: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    """Tokens on top of the vocabulary, from older folders' added_tokens.json and the settings."""
    path = folder / "added_tokens.json"
    added = read_json(path) if path.is_file() else {}
    if not isinstance(added, dict) or not all(isinstance(i, int) for i in added.values()):
        raise UserError(f"{path} is not a JSON object from tokens to ids")
    listed = settings.get("added_tokens_decoder") or {}
    return {**added, **{value["content"]: int(i) for i, value in listed.items()}}


def _sentencepiece(
    folder: Path, path: Path, kind: str, settings: dict[str, Any]
) -> tuple[Tokenizer, dict[str, bool]]:
    # Read once as it is, so that a damaged one is named.
    model = SentencePiece.load(path).model
    if kind == "XLNet":
        backend = xlnet_tokenizer(model, bool(settings.get("do_lower_case")))
        return _finished(backend, settings, folder), {}
    if (folder / "vocab.json").is_file():
        ids = read_json(folder / "vocab.json")
        if not isinstance(ids, dict) or not all(isinstance(i, int) for i in ids.values()):
            raise UserError(f"{folder / 'vocab.json'} is not a JSON object from tokens to ids")
        wmt = settings.get("language_codes") == "wmt21"
        languages = WMT21_LANGUAGES if wmt else M2M100_LANGUAGES
        tokens = [f"__{language}__" for language in languages.split()]
        model = renumbered(model, ids, tokens, str(folder))
        return SentencePiece(model, str(path)), {"add_bos": False, "add_eos": True}
    if kind == "T5":
        model = with_sentinels(model, int(settings.get("extra_ids", 100)))
        return SentencePiece(model, str(path)), {"add_bos": False, "add_eos": True}
    model = with_added(model, _added(folder, settings), str(folder))
    flags = {
        "add_bos": bool(settings.get("add_bos_token", True)),
        "add_eos": bool(settings.get("add_eos_token", False)),
    }
    return SentencePiece(model, str(path)), flags


def _wordpiece(path: Path, settings: Mapping[str, Any]) -> Library:
    backend = WordPiece.load(path, bool(settings.get("do_lower_case", True))).backend
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
        strip_accents=settings.get("strip_accents"),
        lowercase=bool(settings.get("do_lower_case", True)),
    )
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _pair(folder: Path, kind: str, settings: Mapping[str, Any]) -> Library:
    files = folder / "vocab.json", folder / "merges.txt"
    ids, pairs = read_pair(*files)
    where = f"{files[0]} and {files[1]}"
    if kind == "OpenAIGPT":
        options = {"unk_token": "<unk>", "end_of_word_suffix": "</w>"}
        backend = Library(merging(ids, pairs, where, **options))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.BPEDecoder(suffix="</w>")
        return backend
    if not kind:
        return from_pair(*files)
    backend = Library(merging(ids, pairs, where))
    space = bool(settings.get("add_prefix_space", False))
    if kind == "Qwen2":
        splitting(backend, "qwen2")
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    backend.decoder = decoders.ByteLevel()
    return backend
