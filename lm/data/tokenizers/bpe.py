"""Byte-level BPE (Radford et al. 2019; Sennrich et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, pre_tokenizers, trainers

from lm.data.tokenizers.base import read_json, read_text
from lm.data.tokenizers.library import LibraryTokenizer, check_size, load_backend
from lm.errors import ConfigError, UserError

END_OF_TEXT = "<|endoftext|>"
# The spellings of RoBERTa, Llama 3 and GPT-2. In this order: RoBERTa's vocabulary has GPT-2's
# <|endoftext|> too, as an ordinary token.
BOS = ("<s>", "<|begin_of_text|>", END_OF_TEXT)
EOS = ("</s>", "<|end_of_text|>", END_OF_TEXT)
PAD = ("<pad>", "<|padding|>", "[PAD]")
UNK = ("<unk>",)
MASK = ("<mask>",)
# The vocabulary and the merges: GPT-2's names, then those of the same two files elsewhere.
FILE_PAIRS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))


class ByteLevelBPE(LibraryTokenizer):
    """Byte-level BPE. Lossless, unless a loaded tokenizer.json normalises or adds a space."""

    kind = "bpe"
    model_type = "BPE"

    def __init__(self, backend: tokenizers.Tokenizer, origin: str = "the tokenizer") -> None:
        super().__init__(backend, origin)
        if self.spec["model"].get("dropout"):
            raise UserError(f"{origin} has BPE dropout, which encodes a text differently each time")
        splitters = byte_level(self.spec["pre_tokenizer"])
        if not splitters:
            raise UserError(f"{origin} holds a BPE tokenizer over characters, not over bytes")
        added = {a["id"]: a["content"].encode() for a in self.spec["added_tokens"]}
        self._bytes = [added.get(i, token_bytes(t)) for i, t in enumerate(self.tokens)]
        missing = 256 - len({b for b in self._bytes if len(b) == 1})
        if missing:
            raise UserError(f"{origin}: the vocabulary lacks {missing} of the 256 bytes")
        self.set_special(pad=PAD, bos=BOS, eos=EOS, unk=UNK, mask=MASK)
        self.lossless = keeps_text(self.spec)
        # GPT-2's splitting and nothing before it.
        self.cuts_lines = (
            self.lossless
            and self.spec["pre_tokenizer"]["type"] == "ByteLevel"
            and splitters[0].get("use_regex", True)
            and all(a["special"] for a in self.spec["added_tokens"])
        )

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> ByteLevelBPE:
        """Merges of the most frequent pairs until there are `vocab_size` tokens, one of them
        <|endoftext|>; ties go to the pair with the smaller ids, so equal texts give equal files."""
        if vocab_size < 257:
            raise ConfigError(
                f"vocab_size={vocab_size} is too small for byte-level BPE: 256 bytes and "
                f"{END_OF_TEXT} make at least 257"
            )
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[AddedToken(END_OF_TEXT, special=True, normalized=False)],
            initial_alphabet=sorted(BYTE_TO_CHARACTER.values()),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        check_size(backend, vocab_size)
        return cls(backend)

    @classmethod
    def load(cls, path: Path) -> ByteLevelBPE:
        """From a tokenizer.json, or a folder with it or with encoder.json and vocab.bpe.

        A folder with the latter two is GPT-2's own release, whatever else it has; either of two
        files names both.
        """
        pairs = {name: pair for pair in FILE_PAIRS for name in pair}
        if path.is_file() and path.name not in pairs:
            return cls(load_backend(path), str(path))
        if path.is_file():
            return cls(from_pair(*(path.parent / n for n in pairs[path.name])), str(path.parent))
        for names in (FILE_PAIRS[0], (cls.FILE,), FILE_PAIRS[1]):
            files = [path / name for name in names]
            if not all(file.exists() for file in files):
                continue
            backend = load_backend(files[0]) if len(files) == 1 else from_pair(*files)
            return cls(backend, str(path))
        raise UserError(
            f"{path} has neither a tokenizer.json nor encoder.json and vocab.bpe for byte-level BPE"
        )

    def decoder(self) -> Callable[[int], bytes]:
        return self._bytes.__getitem__

    def piece(self, token_id: int) -> str:
        data = self._bytes[token_id]
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in data)


def byte_level(spec: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The ByteLevel steps of a pre-tokenizer or decoder, alone or in a sequence."""
    return [step for step in _steps(spec) if step["type"] == "ByteLevel"]


def keeps_text(spec: dict[str, Any]) -> bool:
    """Whether a tokenizer over bytes takes every text as it is: no change of it, nothing added."""
    splitters = byte_level(spec["pre_tokenizer"])
    return (
        spec["normalizer"] is None
        and bool(splitters)
        and not any(step["add_prefix_space"] for step in splitters)
        and not any(step.get("behavior") == "Removed" for step in _steps(spec["pre_tokenizer"]))
        and not any(a["lstrip"] or a["rstrip"] for a in spec["added_tokens"] if not a["special"])
    )


def _steps(spec: dict[str, Any] | None) -> list[dict[str, Any]]:
    if spec is None:
        return []
    if spec["type"] != "Sequence":
        return [spec]
    return spec["pretokenizers"] if "pretokenizers" in spec else spec["decoders"]


def from_pair(vocabulary: Path, merges: Path) -> tokenizers.Tokenizer:
    """GPT-2's splitting and merges, from its two files; its usual special tokens are special."""
    ids, pairs = read_pair(vocabulary, merges)
    backend = tokenizers.Tokenizer(merging(ids, pairs, f"{vocabulary} and {merges}"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    named = [name for name in dict.fromkeys((*BOS, *EOS, *PAD, *UNK, *MASK)) if name in ids]
    backend.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in named])
    return backend


def read_pair(vocabulary: Path, merges: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The ids and the merges of two files. Raises UserError where one is damaged."""
    lines = [line.rstrip("\r") for line in read_text(merges).split("\n")]
    first = 1 if lines[0].startswith("#version") else 0
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(lines[first:], first + 1):
        if not line:
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise UserError(f"{merges}, line {number}: expected two tokens, got {line!r}")
        pairs.append((left, right))
    ids = read_json(vocabulary)
    if not isinstance(ids, dict) or not all(isinstance(i, int) for i in ids.values()):
        raise UserError(f"{vocabulary} is not a JSON object from tokens to ids")
    return ids, pairs


def merging(
    ids: dict[str, int], pairs: list[tuple[str, str]], where: str, **options: Any
) -> models.BPE:
    """The library's BPE. Raises UserError where a merge makes no token."""
    try:
        return models.BPE(vocab=ids, merges=pairs, **options)
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{where} do not fit together: {error}") from None


def _byte_to_character() -> dict[int, str]:
    """GPT-2's spelling of bytes in a vocabulary: the printable ones of Latin-1 are themselves, the
    others, in order, the characters from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (b for b in range(256) if b not in printable)
    spelling = {b: chr(256 + n) for n, b in enumerate(others)}
    return {b: spelling.get(b, chr(b)) for b in range(256)}


BYTE_TO_CHARACTER = _byte_to_character()
_CHARACTER_TO_BYTE = {c: b for b, c in BYTE_TO_CHARACTER.items()}


def token_bytes(token: str) -> bytes:
    try:
        return bytes(_CHARACTER_TO_BYTE[c] for c in token)
    except KeyError:
        return token.encode()
