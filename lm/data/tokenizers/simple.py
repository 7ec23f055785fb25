"""Tokenizers that learn no splitting: UTF-8 bytes, the characters of a text, or its words."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from lm.config import fingerprint
from lm.data.tokenizers.base import TokenizerBase, cut, cut_lines, read_json, utf8
from lm.errors import ConfigError, UserError


class Bytes(TokenizerBase):
    """UTF-8 bytes 0-255, then <pad> 256, <bos> 257, <eos> 258. Lossless for every text."""

    kind = "byte"
    vocab_size = 259
    pad_id: int | None = 256
    bos_id: int | None = 257
    eos_id: int | None = 258
    lossless = True
    skipped = frozenset((256, 257, 258))
    fingerprint = fingerprint({"kind": "byte", "vocab_size": 259})
    _bytes = tuple(bytes([i]) for i in range(256))

    def encode(self, text: str) -> list[int]:
        return list(utf8(text))

    def encode_to_array(self, text: str) -> np.ndarray:
        return np.frombuffer(utf8(text), np.uint8).astype(np.int32)

    def parts(self, text: str) -> Iterator[str]:
        return cut(text)

    def decoder(self) -> Callable[[int], bytes]:
        return self._bytes.__getitem__

    def piece(self, token_id: int) -> str:
        if token_id >= 256:
            return ("<pad>", "<bos>", "<eos>")[token_id - 256]
        return chr(token_id) if 32 <= token_id < 127 else f"<0x{token_id:02X}>"


class Characters(TokenizerBase):
    """One token a Unicode character, in code-point order; no special tokens.

    Lossless: a text with a character outside the vocabulary is refused, not changed.
    """

    kind = "character"
    lossless = True
    FILE = "characters.json"

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = sorted(set(characters))
        utf8("".join(self.characters))
        if not self.characters:
            raise UserError("a character tokenizer needs a text with at least one character")
        self._code_points = np.array([ord(c) for c in self.characters], np.uint32)
        self._bytes = [c.encode() for c in self.characters]
        self.vocab_size = len(self.characters)
        self.fingerprint = fingerprint({"kind": self.kind, "characters": self.characters})

    @classmethod
    def train(cls, texts: Iterable[str]) -> Characters:
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        return cls(seen)

    @classmethod
    def load(cls, path: Path) -> Characters:
        """From what `save` wrote: a list of the characters."""
        characters = read_json(path)
        if not isinstance(characters, list) or not all(
            isinstance(c, str) and len(c) == 1 for c in characters
        ):
            raise UserError(f"{path} is not a JSON list of single characters")
        return cls(characters)

    def _write(self, directory: Path) -> None:
        (directory / self.FILE).write_text(json.dumps(self.characters) + "\n", encoding="utf-8")

    def encode_to_array(self, text: str) -> np.ndarray:
        code_points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        ids = np.searchsorted(self._code_points, code_points)
        known = self._code_points[np.minimum(ids, self.vocab_size - 1)] == code_points
        if not known.all():
            position = int(np.argmin(known))
            raise UserError(
                f"character {text[position]!r} (U+{ord(text[position]):04X}) at position "
                f"{position} is not among the {self.vocab_size} characters of this tokenizer; "
                "train on a text that has it, or use the byte tokenizer"
            )
        return ids.astype(np.int32)

    def encode(self, text: str) -> list[int]:
        return self.encode_to_array(text).tolist()

    def parts(self, text: str) -> Iterator[str]:
        return cut(text)

    def decoder(self) -> Callable[[int], bytes]:
        return self._bytes.__getitem__

    def piece(self, token_id: int) -> str:
        return self.characters[token_id]


class Words(TokenizerBase):
    """One token a word, where white space separates words: <pad> 0, <bos> 1, <eos> 2, <unk> 3, then
    the words, from the most frequent on. Not lossless: `decode` puts one space between words, and
    words outside the vocabulary become <unk>.
    """

    kind = "words"
    pad_id: int | None = 0
    bos_id: int | None = 1
    eos_id: int | None = 2
    unk_id: int | None = 3
    skipped = frozenset((0, 1, 2))
    FILE = "words.json"
    _SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")

    def __init__(self, words: Iterable[str]) -> None:
        self.words = list(words)
        utf8("".join(self.words))
        if not self.words:
            raise UserError("a words tokenizer needs a text with at least one word")
        first = len(self._SPECIAL)
        self._ids = {word: number for number, word in enumerate(self.words, first)}
        self._spellings = [*self._SPECIAL, *self.words]
        self.vocab_size = len(self._spellings)
        self.fingerprint = fingerprint({"kind": self.kind, "words": self.words})

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int | None) -> Words:
        """The `vocab_size` - 4 most frequent words, those as frequent in code-point order; all of
        them for None. Raises ConfigError where there are fewer."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text.split())
        words = sorted(counts, key=lambda word: (-counts[word], word))
        most = len(words) + len(cls._SPECIAL)
        if vocab_size is not None and not len(cls._SPECIAL) < vocab_size <= most:
            raise ConfigError(
                f"the texts have {len(words)} words, and with {', '.join(cls._SPECIAL)} these are "
                f"{most} tokens: vocab_size must be from {len(cls._SPECIAL) + 1} to {most}, not "
                f"{vocab_size}; without it all words are taken"
            )
        return cls(words if vocab_size is None else words[: vocab_size - len(cls._SPECIAL)])

    @classmethod
    def load(cls, path: Path) -> Words:
        """From what `save` wrote: a list of the words."""
        words = read_json(path)
        if (
            not isinstance(words, list)
            or not all(isinstance(word, str) and word.split() == [word] for word in words)
            or len(set(words)) != len(words)
        ):
            raise UserError(f"{path} is not a JSON list of different words without white space")
        return cls(words)

    def _write(self, directory: Path) -> None:
        text = json.dumps(self.words, ensure_ascii=False, indent=0)
        (directory / self.FILE).write_text(text + "\n", encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        utf8(text)
        return [self._ids.get(word, 3) for word in text.split()]

    def encode_with_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        return self.encode(text), [found.span() for found in re.finditer(r"\S+", text)]

    def parts(self, text: str) -> Iterator[str]:
        return cut_lines(text)

    def decoder(self) -> Callable[[int], bytes]:
        started = False

        def add(token_id: int) -> bytes:
            nonlocal started
            space, started = b" " * started, True
            return space + self._spellings[token_id].encode()

        return add

    def piece(self, token_id: int) -> str:
        return self._spellings[token_id]
