"""What every tokenizer offers, streaming decoding, and the folder a tokenizer is saved in."""

from __future__ import annotations

import codecs
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lm.data.cache import new_beside, sync
from lm.errors import UserError

METADATA = "lm_tokenizer.json"
FORMAT = 1
# Characters of a part of a long text: enough to spread the costs of a call.
PART = 1 << 20
_LINE_START = re.compile(r"(?<=\S\n)(?=\S)")


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back.

    `encode` never adds special tokens (the data pipeline puts bos and eos between documents) and
    never reads their spelling in a text as special: a document may say "<|endoftext|>".
    """

    kind: str
    vocab_size: int
    """One more than the largest id."""
    pad_id: int | None
    bos_id: int | None
    eos_id: int | None
    unk_id: int | None
    mask_id: int | None
    lossless: bool
    """`decode(encode(text)) == text` for every text that `encode` accepts."""
    fingerprint: str
    """16 hex digits of the vocabulary and of how text is split; equal after `save` and load."""
    wrapping: tuple[Sequence[int], Sequence[int]]
    """The ids that the tokenizer's own files put before and after one text (XLNet: <sep> <cls>
    after it); both empty for a tokenizer that says nothing of it."""

    def encode(self, text: str) -> list[int]: ...

    def encode_to_array(self, text: str) -> np.ndarray:
        """int32 [n]; the quick way for long texts."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def parts(self, text: str) -> Iterator[str]:
        """A text in parts, as short as they may be for their ids, one after another, to be the
        text's: a way to encode a long one in little memory."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text; special tokens are skipped (unknown and mask are shown), bytes that are not
        UTF-8 become U+FFFD. Raises UserError for an id outside the vocabulary."""
        ...

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Each token as a reader recognises it, special tokens included; parts of a character as
        <0xE4>."""
        ...

    def decoder(self) -> Callable[[int], bytes]:
        """A fresh function from each next id of a sequence to the bytes it adds."""
        ...

    def save(self, directory: Path | str) -> None:
        """Writes a folder that `load_tokenizer` reads, whole or not at all; another tokenizer there
        is replaced. Raises UserError where it cannot be written."""
        ...


class TokenizerBase:
    """What the kinds share. A kind sets the attributes and implements `encode`, `decoder`,
    `piece` and `_write`, and `parts` where a text may be cut."""

    kind: str
    vocab_size: int
    pad_id: int | None = None
    bos_id: int | None = None
    eos_id: int | None = None
    unk_id: int | None = None
    mask_id: int | None = None
    lossless: bool = False
    fingerprint: str
    wrapping: tuple[Sequence[int], Sequence[int]] = ((), ())
    skipped: frozenset[int] = frozenset()
    """Ids that `decode` leaves out."""

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decoder(self) -> Callable[[int], bytes]:
        raise NotImplementedError

    def piece(self, token_id: int) -> str:
        raise NotImplementedError

    def _write(self, directory: Path) -> None:
        """Writes the native file, where the kind has one."""

    def encode_to_array(self, text: str) -> np.ndarray:
        return np.asarray(self.encode(text), np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def encode_with_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of `encode`, and the characters [begin, end) of the text that each is, or is a
        part of. (A space before a word may or may not be among them.) Here by the bytes that ids
        stand for: for kinds that keep all of them."""
        ids, add = self.encode(text), self.decoder()
        # The character that each byte is of, and at last the end.
        owners = [place for place, c in enumerate(text) for _ in c.encode("utf-8")]
        spans, begin = [], 0
        for token_id in ids:
            end = begin + len(add(token_id))
            spans.append((owners[begin], owners[end - 1] + 1))
            begin = end
        return ids, spans

    def parts(self, text: str) -> Iterator[str]:
        yield text

    def decode(self, ids: Iterable[int]) -> str:
        add = self.decoder()
        numbers = (self.checked(i) for i in ids)
        return b"".join(add(i) for i in numbers if i not in self.skipped).decode("utf-8", "replace")

    def pieces(self, ids: Iterable[int]) -> list[str]:
        return [self.piece(self.checked(i)) for i in ids]

    def checked(self, token_id: int) -> int:
        if not 0 <= token_id < self.vocab_size:
            raise UserError(
                f"token id {token_id} is outside the vocabulary of this {self.kind} tokenizer, "
                f"whose ids are 0 to {self.vocab_size - 1}"
            )
        return int(token_id)

    def save(self, directory: Path | str) -> None:
        directory = Path(directory)
        try:
            new = new_beside(directory)
            try:
                self.write(new)
                sync(new)
                _replace(new, directory)
            finally:
                shutil.rmtree(new, ignore_errors=True)
        except OSError as error:
            raise UserError(
                f"cannot write the tokenizer to {directory}: {error.strerror or error}"
            ) from None

    def write(self, directory: Path) -> None:
        """What `save` writes, into an empty folder. Raises OSError."""
        self._write(directory)
        text = json.dumps(self._metadata(), indent=2)
        (directory / METADATA).write_text(text + "\n", encoding="utf-8")

    def _metadata(self) -> dict[str, Any]:
        names = ("kind", "vocab_size", "pad_id", "bos_id", "eos_id", "unk_id", "mask_id")
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in names},
            "fingerprint": self.fingerprint,
        }


def _replace(new: Path, directory: Path) -> None:
    """Puts the files of `new` into `directory`, which has them all or no METADATA."""
    if not directory.exists() or not any(directory.iterdir()):
        os.replace(new, directory)
        return
    (directory / METADATA).unlink(missing_ok=True)
    for path in sorted(new.iterdir(), key=lambda path: path.name == METADATA):
        os.replace(path, directory / path.name)


class StreamDecoder:
    """Decodes ids one by one and gives only finished text: a character whose UTF-8 bytes are
    spread over tokens comes with its last byte. All pushes plus `finish` equal `decode` of all."""

    def __init__(self, tokenizer: TokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._start()

    def _start(self) -> None:
        self._add = self._tokenizer.decoder()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that this token completes, possibly none."""
        token_id = self._tokenizer.checked(token_id)
        if token_id in self._tokenizer.skipped:
            return ""
        return self._utf8.decode(self._add(token_id))

    def finish(self) -> str:
        """What is left (U+FFFD for an unfinished character), and back to the start."""
        rest = self._utf8.decode(b"", final=True)
        self._start()
        return rest


def cut(text: str, size: int = PART) -> Iterator[str]:
    """A text in parts of `size` characters."""
    for begin in range(0, max(len(text), 1), size):
        yield text[begin : begin + size]


def cut_lines(text: str, size: int = PART) -> Iterator[str]:
    """A text in parts of at least `size` characters that begin with a line.

    Cuts only where the end of line stands between two characters that are no white space. GPT-2's
    and BERT's splitting into words have a boundary there, and find the same ones on either side
    when the other is missing. (Beside more white space they do not: GPT-2's leaves the last
    character of a run to the next word, if there is one.)
    """
    begin = 0
    while place := _LINE_START.search(text, begin + size):
        yield text[begin : place.start()]
        begin = place.start()
    yield text[begin:]


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of a text. Raises UserError for a lone surrogate, which has none."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text has a lone surrogate U+{ord(text[error.start]):04X} at character "
            f"{error.start}, which is no Unicode character; decode the input as UTF-8"
        ) from None


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def read_text(path: Path) -> str:
    data = read_bytes(path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: byte {error.start} is not UTF-8; is this the right file?"
        ) from None


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged, or no JSON: {error}") from None
