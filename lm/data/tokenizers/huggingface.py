"""Any tokenizer.json, used as it is: Llama 3, Qwen, RoBERTa, T5, XLNet, BERT and others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from lm.config import fingerprint
from lm.data.tokenizers.base import read_text
from lm.data.tokenizers.bpe import byte_level, keeps_text, token_bytes
from lm.data.tokenizers.library import LibraryTokenizer, load_backend
from lm.data.tokenizers.settings import (
    SETTINGS,
    add_named,
    apply_wrap,
    read_settings,
    special_names,
    wrap,
)
from lm.data.tokenizers.wordpiece import join_words
from lm.errors import UserError

# The splitting of Llama 3 and of Qwen. Both have a boundary after the end of a line, as GPT-2's.
LLAMA3_SPLIT, QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    + numbers
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for numbers in (r"\p{N}{1,3}", r"\p{N}")
)
# No text holds it: stands for a special token in the vocabulary that texts are matched with.
_UNREACHABLE = "\0 {} \0"


class HuggingFace(LibraryTokenizer):
    """A tokenizer.json with the settings beside it. Encodes as transformers' fast tokenizers do,
    but for texts that spell a special token: it is text here.

    Its cls token is bos and its sep token eos, where it has no others (BERT). Lossless where it
    splits bytes and changes nothing before.
    """

    kind = "huggingface"
    model_type = None

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        settings: Mapping[str, Any] | None = None,
        origin: str = "the tokenizer",
    ) -> None:
        super().__init__(backend, origin)
        self.settings = dict(settings or {})
        if self.spec["model"].get("dropout"):
            raise UserError(f"{origin} has BPE dropout, which encodes a text differently each time")
        names = special_names(backend, self.settings)
        ids = {role: backend.token_to_id(name) for role, name in names.items()}
        self.pad_id, self.unk_id, self.mask_id = (ids.get(role) for role in ("pad", "unk", "mask"))
        self.bos_id = ids.get("bos", ids.get("cls"))
        self.eos_id = ids.get("eos", ids.get("sep"))
        special = {a["id"] for a in self.spec["added_tokens"] if a["special"]}
        # What stands for some text stays visible.
        self.skipped = frozenset(special) - {self.unk_id, self.mask_id}
        self.fingerprint = self._with_special_ids()
        before, after = wrap(backend)
        self.wrapping = (tuple(before), tuple(after))
        self._reading = _reading(self.spec, self.tokens, origin)
        self._bytes = self._reading.data
        self.encoder = _without_spelled_special(self.spec) or backend
        self.lossless = keeps_text(self.spec) and len({b for b in self._bytes if len(b) == 1}) > 255
        self.cuts_lines = _cuts_lines(self.spec)

    @classmethod
    def load(cls, path: Path) -> HuggingFace:
        """From a tokenizer.json, or a folder with it, and the settings beside it."""
        path = path / cls.FILE if path.is_dir() else path
        backend = load_backend(path)
        settings = read_settings(path.parent)
        add_named(backend, settings, path.parent)
        apply_wrap(backend, settings)
        return cls(backend, settings, str(path))

    @classmethod
    def load_saved(cls, folder: Path) -> HuggingFace:
        """What `save` wrote, whose settings are whole."""
        settings = json.loads(read_text(folder / SETTINGS))
        return cls(load_backend(folder / cls.FILE), settings, str(folder / cls.FILE))

    def _with_special_ids(self) -> str:
        roles = ("pad_id", "bos_id", "eos_id", "unk_id", "mask_id")
        return fingerprint({**self._behaviour(), **{role: getattr(self, role) for role in roles}})

    def _write(self, directory: Path) -> None:
        super()._write(directory)
        text = json.dumps(self.settings, indent=2, ensure_ascii=False)
        (directory / SETTINGS).write_text(text + "\n", encoding="utf-8")

    def decoder(self) -> Callable[[int], bytes]:
        data, strip, words, trailing = self._reading
        if words:
            return join_words(words)
        if not strip and not trailing:
            return data.__getitem__
        left, kept = strip, b""

        def add(token_id: int) -> bytes:
            nonlocal left, kept
            text = kept + data[token_id]
            while left and text.startswith(b" "):
                text, left = text[1:], left - 1
            left = left if not text else 0
            kept = b" " if trailing and text.endswith(b" ") else b""
            return text[:-1] if kept else text

        return add

    def piece(self, token_id: int) -> str:
        if byte_level(self.spec["pre_tokenizer"]) or byte_level(self.spec["decoder"]):
            data = self._bytes[token_id]
            try:
                return data.decode("utf-8")
            except UnicodeDecodeError:
                return "".join(f"<0x{byte:02X}>" for byte in data)
        return self.tokens[token_id]


def _steps(spec: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """The steps of a part of a tokenizer.json, alone or in a sequence."""
    if spec is None:
        return []
    return spec[name] if spec["type"] == "Sequence" else [spec]


class _Reading(NamedTuple):
    """How ids become text."""

    data: list[bytes]
    strip: int = 0
    """How many spaces go at the start."""
    words: Sequence[str] = ()
    """Instead of the bytes: the tokens, where spaces stand between words."""
    trailing: bool = False
    """Whether a space at the end waits for the next token."""


def _reading(spec: dict[str, Any], tokens: list[str], origin: str) -> _Reading:
    """What the tokenizer's own decoder does."""
    steps = _steps(spec["decoder"], "decoders")
    if not steps:
        # Without a decoder, the library puts a space between tokens.
        return _Reading([], words=tokens)
    added = {a["id"]: a["content"].encode() for a in spec["added_tokens"]}
    texts: list[str | bytes] = list(tokens)
    strip, trailing = 0, False
    for step in steps:
        kind = step["type"]
        if kind == "WordPiece":
            return _Reading([], words=tokens)
        if kind == "ByteLevel":
            texts = [token_bytes(t) if isinstance(t, str) else t for t in texts]
        elif kind == "ByteFallback":
            texts = [_fallback(t) if isinstance(t, str) else t for t in texts]
        elif kind == "BPEDecoder":
            texts = [_replaced(t, step["suffix"], " ") for t in texts]
            trailing = True
        elif kind == "Metaspace":
            texts = [_replaced(t, step["replacement"], " ") for t in texts]
            strip = int(step.get("prepend_scheme", "always") != "never")
        elif kind == "Replace" and "String" in step["pattern"]:
            texts = [_replaced(t, step["pattern"]["String"], step["content"]) for t in texts]
        elif kind == "Strip" and step["content"] == " " and not step["stop"]:
            strip = step["start"]
        elif kind != "Fuse":
            raise UserError(f"{origin}: its decoder has a step {kind!r} that is not supported")
    data = [t if isinstance(t, bytes) else t.encode() for t in texts]
    data = [added.get(i, text) for i, text in enumerate(data)]
    return _Reading(data, strip, trailing=trailing)


def _replaced(text: str | bytes, old: str, new: str) -> str | bytes:
    return text.replace(old, new) if isinstance(text, str) else text


def _fallback(token: str) -> str | bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            return token
    return token


def _without_spelled_special(spec: dict[str, Any]) -> tokenizers.Tokenizer | None:
    """A tokenizer that cannot find the special tokens in a text; None where that one cannot either.

    The library passes over special tokens where they are added tokens, but most vocabularies have
    them too: a Unigram model, or merges that end in one, would still read "</s>" as the token.
    """
    model, special = spec["model"], {a["content"] for a in spec["added_tokens"] if a["special"]}
    kind, vocabulary = model["type"], model["vocab"]
    hidden = {s: _UNREACHABLE.format(s) for s in special}
    if kind == "Unigram":
        if not any(piece in special for piece, _ in vocabulary):
            return None
        vocabulary = [[hidden.get(piece, piece), score] for piece, score in vocabulary]
    else:
        present = special & vocabulary.keys()
        merges = [_pair(m) for m in model.get("merges", ())]
        kept = [m for m in merges if not special & {*m, "".join(m)}]
        whole = kind != "BPE" or model.get("ignore_merges")
        if not present or (len(kept) == len(merges) and not whole):
            return None
        vocabulary = {hidden.get(token, token): i for token, i in vocabulary.items()}
    changed = {**model, "vocab": vocabulary}
    if model.get("unk_token") in special:
        changed["unk_token"] = hidden[model["unk_token"]]
    if kind == "BPE":
        changed["merges"] = kept
    tokens = [
        {**a, "content": hidden.get(a["content"], a["content"])} for a in spec["added_tokens"]
    ]
    text = json.dumps({**spec, "model": changed, "added_tokens": tokens, "post_processor": None})
    return tokenizers.Tokenizer.from_str(text)


def _pair(merge: Any) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else list(merge)


def _cuts_lines(spec: dict[str, Any]) -> bool:
    """Whether a text may be cut between two lines (see `cut_lines`) and keep its ids."""
    if not all(a["special"] for a in spec["added_tokens"]):
        return False
    steps = _steps(spec["pre_tokenizer"], "pretokenizers")
    kinds = [step["type"] for step in steps]
    normalizers = [s["type"] for s in _steps(spec["normalizer"], "normalizers")]
    if byte_level(spec["pre_tokenizer"]):
        if any(step.get("add_prefix_space") for step in steps) or {*normalizers} - {"NFC"}:
            return False
        if kinds == ["Split", "ByteLevel"]:
            split = steps[0]["pattern"].get("Regex")
            return split in (LLAMA3_SPLIT, QWEN2_SPLIT) and steps[0]["behavior"] == "Isolated"
        return kinds[-1:] == ["ByteLevel"] and {*kinds[:-1]} <= {"Digits"} and _by_gpt2(steps[-1])
    if kinds == ["BertPreTokenizer"]:
        return normalizers == ["BertNormalizer"]
    # T5 and XLNet: words by white space, each with its own sign for a space.
    return (
        kinds == ["WhitespaceSplit", "Metaspace"]
        and steps[1].get("prepend_scheme") == "always"
        and {*normalizers} <= {"Precompiled", "Replace", "NFKD", "StripAccents", "Lowercase"}
    )


def _by_gpt2(step: dict[str, Any]) -> bool:
    return bool(step.get("use_regex", True))
