"""What the two kinds built on the `tokenizers` library share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from lm.config import fingerprint
from lm.data.tokenizers.base import TokenizerBase, cut_lines, read_text, utf8
from lm.errors import ConfigError, UserError

Names = Sequence[str]


class LibraryTokenizer(TokenizerBase):
    """A `tokenizers.Tokenizer` whose post-processor, padding and truncation are left aside."""

    model_type: str | None
    """The library's name of the model; None for a kind that takes any."""
    FILE = "tokenizer.json"
    cuts_lines = False
    """Whether the ids of a text are those of its parts from `cut_lines`."""

    def __init__(self, backend: tokenizers.Tokenizer, origin: str) -> None:
        backend.no_padding()
        backend.no_truncation()
        # Without it "<|endoftext|>" inside a document would become the special token.
        backend.encode_special_tokens = True
        self.backend = backend
        self.encoder = backend
        self.spec: dict[str, Any] = json.loads(backend.to_str())
        if self.model_type not in (None, self.spec["model"]["type"]):
            raise UserError(
                f"{origin} holds a {self.spec['model']['type']} tokenizer, not {self.model_type}"
            )
        vocabulary = backend.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise UserError(f"{origin} has an empty vocabulary")
        self.vocab_size = max(vocabulary.values()) + 1
        self.tokens: list[str] = [""] * self.vocab_size
        for token, token_id in vocabulary.items():
            self.tokens[token_id] = token
        self.fingerprint = fingerprint(self._behaviour())

    def _behaviour(self) -> dict[str, Any]:
        """What decides ids: not offsets, decoders or post-processors, which are not used here."""
        model = {k: v for k, v in self.spec["model"].items() if v}
        split = {k: v for k, v in (self.spec["pre_tokenizer"] or {}).items() if k != "trim_offsets"}
        keys = ("id", "content", "special", "lstrip", "rstrip", "single_word")
        added = [{k: a[k] for k in keys} for a in self.spec["added_tokens"]]
        return {
            "kind": self.kind,
            "model": model,
            "normalizer": self.spec["normalizer"],
            "pre_tokenizer": split,
            "added_tokens": added,
        }

    def set_special(self, *, pad: Names, bos: Names, eos: Names, unk: Names, mask: Names) -> None:
        """Sets the special ids, each to the first of its names that is a special token here."""
        ids = {a["content"]: a["id"] for a in self.spec["added_tokens"] if a["special"]}
        self.pad_id, self.bos_id, self.eos_id, self.unk_id, self.mask_id = (
            next((ids[name] for name in names if name in ids), None)
            for names in (pad, bos, eos, unk, mask)
        )
        # What stands for some text stays visible.
        self.skipped = frozenset(ids.values()) - {self.unk_id, self.mask_id}

    def encode(self, text: str) -> list[int]:
        return self._encodings([text])[0].ids

    def encode_to_array(self, text: str) -> np.ndarray:
        return np.asarray(self.encode(text), np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._encodings(texts)]

    def encode_with_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        utf8(text)
        found = self.encoder.encode(text, add_special_tokens=False)
        return found.ids, found.offsets

    def _encodings(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        try:
            return self.encoder.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:
            # The library says no more than this of a lone surrogate; name it.
            for text in texts:
                utf8(text)
            raise

    def piece(self, token_id: int) -> str:
        return self.tokens[token_id]

    def parts(self, text: str) -> Iterator[str]:
        return cut_lines(text) if self.cuts_lines else iter((text,))

    def _write(self, directory: Path) -> None:
        # Not the library's `save`, of whose errors nothing but the text says what went wrong.
        (directory / self.FILE).write_text(self.backend.to_str(pretty=True), encoding="utf-8")


def load_backend(path: Path) -> tokenizers.Tokenizer:
    """A tokenizer.json. Raises UserError where it is missing or damaged."""
    try:
        return tokenizers.Tokenizer.from_str(read_text(path))
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{path} is damaged, or no tokenizer.json: {error}") from None


def check_size(backend: tokenizers.Tokenizer, wanted: int) -> None:
    """Raises ConfigError where training ended on another vocabulary than the one asked for."""
    size = backend.get_vocab_size(with_added_tokens=True)
    if size < wanted:
        raise ConfigError(
            f"the texts yield a vocabulary of {size}, not vocab_size={wanted}: set it to at most "
            f"{size}, or train on more text"
        )
    if size > wanted:
        raise ConfigError(
            f"the characters of the texts and the special tokens alone are {size} tokens, more "
            f"than vocab_size={wanted}: set it to at least {size}, or clean the texts"
        )
