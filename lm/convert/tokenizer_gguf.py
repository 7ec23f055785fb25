"""The tokenizer that a GGUF file's metadata describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from lm.convert.pieces import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Piece, model_bytes
from lm.data.tokenizer import Tokenizer
from lm.data.tokenizers.bpe import merging
from lm.data.tokenizers.huggingface import LLAMA3_SPLIT, QWEN2_SPLIT, HuggingFace
from lm.data.tokenizers.sentence_piece import SentencePiece
from lm.data.tokenizers.settings import set_wrap
from lm.errors import UserError

_KEY = "tokenizer.ggml."
_IDS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "mask": "mask"}
# tokenizer.ggml.pre -> how a text is split.
_SPLITTINGS = {
    "default": "gpt2",
    "gpt-2": "gpt2",
    "gpt2": "gpt2",
    "llama-bpe": "llama3",
    "llama3": "llama3",
    "llama-v3": "llama3",
    "qwen2": "qwen2",
    "smollm": "smollm",
}


def tokenizer_from_gguf(fields: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of GGUF metadata (plain Python values): tokenizer.ggml.model is "llama",
    SentencePiece's BPE, or "gpt2", byte-level BPE with the splitting that tokenizer.ggml.pre names.

    Raises UserError: a key is missing or has no sense, or names what is not supported.
    """
    kind = fields.get(_KEY + "model")
    tokens = _list(fields, "tokens", str)
    kinds = _list(fields, "token_type", int, len(tokens)) or [NORMAL] * len(tokens)
    special = _special(fields, len(tokens))
    if kind == "llama":
        scores = _list(fields, "scores", float, len(tokens))
        if not scores:
            raise UserError(f"GGUF metadata: {_KEY}scores is missing, which a llama tokenizer has")
        return _llama(fields, [Piece(*p) for p in zip(tokens, scores, kinds)], special)
    if kind == "gpt2":
        return _gpt2(fields, tokens, kinds, special)
    raise UserError(
        f"GGUF metadata: {_KEY}model is {kind!r}, and only 'llama' and 'gpt2' are supported"
    )


def gguf_tokenizer_flags(fields: Mapping[str, Any]) -> dict[str, bool]:
    """{"add_bos": ..., "add_eos": ...} as the metadata say; without a word, a llama tokenizer puts
    bos before a text, as does gpt2 with Llama 3's splitting."""
    llama = fields.get(_KEY + "model") == "llama"
    llama3 = _SPLITTINGS.get(str(fields.get(_KEY + "pre"))) == "llama3"
    return {
        "add_bos": bool(fields.get(_KEY + "add_bos_token", llama or llama3)),
        "add_eos": bool(fields.get(_KEY + "add_eos_token", False)),
    }


def splitting(backend: Library, name: str) -> None:
    """Sets how byte-level BPE splits a text: "gpt2", "llama3", "qwen2" or "smollm"."""
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name == "gpt2":
        backend.pre_tokenizer = gpt2
    elif name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, gpt2])
    else:
        pattern = LLAMA3_SPLIT if name == "llama3" else QWEN2_SPLIT
        words = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([words, whole])
    if name == "qwen2":
        backend.normalizer = normalizers.NFC()


def _llama(
    fields: Mapping[str, Any], pieces: list[Piece], special: dict[str, int | None]
) -> SentencePiece:
    unknown = special["unk"]
    if unknown is None:
        unknown = next((i for i, piece in enumerate(pieces) if piece.kind == UNKNOWN), None)
    if unknown is None:
        raise UserError(f"GGUF metadata: no token is of the kind unknown, and no {_KEY}unknown_...")
    pieces[unknown] = pieces[unknown]._replace(kind=UNKNOWN)
    for name in ("bos", "eos", "pad"):
        token_id = special[name]
        if token_id is not None and pieces[token_id].kind not in (UNKNOWN, BYTE):
            pieces[token_id] = pieces[token_id]._replace(kind=CONTROL)
    seen = {piece.text for piece in pieces}
    if len(seen) != len(pieces):
        raise UserError(f"GGUF metadata: {_KEY}tokens has a token twice")
    model = model_bytes(
        pieces,
        {**special, "unk": unknown},
        add_space=bool(fields.get(_KEY + "add_space_prefix", True)),
        fold_spaces=bool(fields.get(_KEY + "remove_extra_whitespaces", False)),
    )
    return SentencePiece(model, "the tokenizer in the GGUF metadata")


def _gpt2(
    fields: Mapping[str, Any],
    tokens: list[str],
    kinds: list[int],
    special: dict[str, int | None],
) -> HuggingFace:
    pre = fields.get(_KEY + "pre", "default")
    if pre not in _SPLITTINGS:
        raise UserError(
            f"GGUF metadata: {_KEY}pre is {pre!r}, a splitting that is not supported; those that "
            f"are: {', '.join(_SPLITTINGS)}"
        )
    merges = []
    for merge in _list(fields, "merges", str):
        left, _, right = merge.partition(" ")
        merges.append((left, right))
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise UserError(f"GGUF metadata: {_KEY}tokens has a token twice")
    name = _SPLITTINGS[pre]
    where = f"GGUF metadata: {_KEY}tokens and {_KEY}merges"
    backend = Library(merging(ids, merges, where, ignore_merges=name == "llama3"))
    splitting(backend, name)
    backend.decoder = decoders.ByteLevel()
    named = {i for i in special.values() if i is not None}
    for i, (token, kind) in enumerate(zip(tokens, kinds)):
        if kind == CONTROL or i in named:
            backend.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == USER_DEFINED:
            backend.add_tokens([AddedToken(token, normalized=False)])
    settings = {f"{role}_token": None if i is None else tokens[i] for role, i in special.items()}
    flags = gguf_tokenizer_flags(fields)
    ends = [settings[f"{end}_token"] if flags[f"add_{end}"] else None for end in ("bos", "eos")]
    set_wrap(backend, *ends)
    return HuggingFace(backend, settings, "the tokenizer in the GGUF metadata")


def _special(fields: Mapping[str, Any], size: int) -> dict[str, int | None]:
    special: dict[str, int | None] = {}
    for role, name in _IDS.items():
        key = f"{_KEY}{name}_token_id"
        value = fields.get(key)
        if value is not None and not 0 <= int(value) < size:
            raise UserError(f"GGUF metadata: {key} is {value}, outside the {size} tokens")
        special[role] = None if value is None else int(value)
    return special


def _list(fields: Mapping[str, Any], name: str, kind: type, size: int | None = None) -> list[Any]:
    """A list of the metadata, of `size` values; [] for an optional one that is not there."""
    key = _KEY + name
    values = fields.get(key)
    if values is None and size is not None:
        return []
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise UserError(f"GGUF metadata: {key} is missing, or no list")
    if size is not None and len(values) != size:
        raise UserError(f"GGUF metadata: {key} has {len(values)} values for {size} tokens")
    if not all(isinstance(value, (kind, int) if kind is float else kind) for value in values):
        raise UserError(f"GGUF metadata: {key} is not a list of {kind.__name__}")
    return list(values)
