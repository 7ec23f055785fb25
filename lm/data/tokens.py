"""Documents as tokens: one flat memory-mapped array, and where each text begins in it."""

from __future__ import annotations

import json
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from lm import config as configs
from lm.data.cache import build_folder, opening
from lm.data.store import DocumentStore
from lm.data.tokenizer import Tokenizer
from lm.errors import ConfigError, UserError

_VERSION = 3
# What the tokenizer gets at once, unless one document is longer.
_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 1024, 1 << 20
# Characters that a tokenizer gets at once: some take 150 bytes of memory for each.
_LONGEST = 1 << 26


class TokenStore:
    """The tokens of a source's fraction. `offsets` int64 [texts + 1] bound the texts in `tokens`
    (uint16 or uint32, memory-mapped); `bytes` int64 [texts] are their UTF-8 lengths and
    `characters` the number of all their characters. `fields` are what a document has: "text", or
    "text" and "target", which are then two texts on end, 2n and 2n + 1 of document n."""

    def __init__(self, folder: Path) -> None:
        self.fingerprint: str = folder.name
        with opening(folder):
            about = json.loads((folder / "report.json").read_text("utf-8"))
            self.characters: int = about["characters"]
            self.fields: list[str] = about["fields"]
            # A plain view, because slicing a np.memmap costs several times as much.
            self.tokens = np.asarray(
                np.memmap(folder / "tokens.bin", mode="r", dtype=about["dtype"])
            )
            self.offsets: np.ndarray = np.load(folder / "offsets.npy")
            self.bytes: np.ndarray = np.load(folder / "bytes.npy")
            if len(self.tokens) != self.offsets[-1]:
                raise ValueError(f"{len(self.tokens)} tokens, not {self.offsets[-1]}")
            checksum = 0
            for numbers in (self.tokens, self.offsets, self.bytes):
                checksum = zlib.crc32(numbers.data, checksum)
            if checksum != about["crc32"]:
                raise ValueError("its contents are not those that were written")

    @property
    def lengths(self) -> np.ndarray:
        """int64 [texts]: tokens of each text, with bos and eos."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        """Documents."""
        return len(self.bytes) // len(self.fields)

    def report(self) -> dict[str, Any]:
        """Counts of the fraction: documents, characters, bytes, tokens; of these, the targets'."""
        counts = {
            "documents": len(self),
            "characters": self.characters,
            "bytes": int(self.bytes.sum()),
            "tokens": int(self.offsets[-1]),
        }
        if "target" in self.fields:
            counts["target_tokens"] = int(self.lengths[1::2].sum())
        return counts


def boundary_tokens(
    tokenizer: Tokenizer, *, add_bos: bool, add_eos: bool
) -> tuple[list[int], list[int]]:
    """What goes before and after every document; ConfigError where the tokenizer has no such id."""
    found: list[list[int]] = []
    for wanted, name, token in (
        (add_bos, "bos", tokenizer.bos_id),
        (add_eos, "eos", tokenizer.eos_id),
    ):
        if wanted and token is None:
            raise ConfigError(
                f"data.add_{name}=True, but the tokenizer has no {name} token: "
                f"set data.add_{name}=False, or use a tokenizer that has one"
            )
        found.append([token] if wanted and token is not None else [])
    return found[0], found[1]


def token_store(
    documents: DocumentStore,
    fraction: tuple[float, float],
    tokenizer: Tokenizer,
    *,
    add_bos: bool,
    add_eos: bool,
    cache_dir: Path,
    name: str,
) -> TokenStore:
    """The tokens of `fraction` of `documents`, made if the cache has none. `name` is the source's,
    for messages. UserError if the fraction holds no text."""
    before, after = boundary_tokens(tokenizer, add_bos=add_bos, add_eos=add_eos)
    key = configs.fingerprint(
        {
            "version": _VERSION,
            "documents": documents.fingerprint,
            "fraction": list(fraction),
            "tokenizer": tokenizer.fingerprint,
            "around": [before, after],
        }
    )

    def build(partial: Path) -> None:
        _build(partial, documents, fraction, tokenizer, before, after, name)

    folder = cache_dir / "tokens" / key
    build_folder(folder, build)
    return TokenStore(folder)


def texts(documents: DocumentStore, fraction: tuple[float, float]) -> Iterator[str]:
    """The texts of the documents of the fraction, a target after its text."""
    fields = documents.fields
    return (document[name] for document in documents.slice(*fraction) for name in fields)


def _build(
    partial: Path,
    documents: DocumentStore,
    fraction: tuple[float, float],
    tokenizer: Tokenizer,
    before: list[int],
    after: list[int],
    name: str,
) -> None:
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    offsets, sizes, characters, checksum = array("q", [0]), array("q"), 0, 0
    total = int((fraction[1] - fraction[0]) * documents.report["characters"])
    bar = tqdm(
        total=total, desc=f"tokenise {name}", unit="char", unit_scale=True, delay=2,
        disable=not sys.stderr.isatty(), leave=False,
    )  # fmt: skip
    with open(partial / "tokens.bin", "wb") as stream, bar:
        for batch in _batches(texts(documents, fraction)):
            for text, encoded in zip(batch, _encode(tokenizer, batch, name), strict=True):
                begin = stream.tell()
                for ids in chain([before], encoded, [after]):
                    data = np.asarray(ids, dtype).tobytes()
                    checksum = zlib.crc32(data, checksum)
                    stream.write(data)
                offsets.append(offsets[-1] + (stream.tell() - begin) // dtype.itemsize)
                sizes.append(len(text.encode("utf-8")))
                characters += len(text)
            bar.update(sum(map(len, batch)))
    if not offsets[-1]:
        raise UserError(
            f"source {name!r} is empty in its fraction {fraction}: it has "
            f"{documents.report['characters']} characters in all; widen the fraction"
        )
    for name, numbers in (("offsets", offsets), ("bytes", sizes)):
        np.save(partial / f"{name}.npy", np.frombuffer(numbers, np.int64))
        checksum = zlib.crc32(numbers, checksum)
    about = {
        "dtype": dtype.str,
        "fields": documents.fields,
        "characters": characters,
        "crc32": checksum,
    }
    (partial / "report.json").write_text(json.dumps(about), "utf-8")


def _batches(items: Iterator[str]) -> Iterator[list[str]]:
    """The texts in groups, a long one by itself."""
    batch: list[str] = []
    characters = 0
    for text in items:
        if batch and characters + len(text) > _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
        if len(batch) == _BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode(tokenizer: Tokenizer, batch: list[str], name: str) -> Iterator[Iterable[ArrayLike]]:
    """The ids of each text, those of a text by itself part by part."""
    if len(batch) > 1:
        yield from ([ids] for ids in tokenizer.encode_batch(batch))
        return
    yield (_encode_part(tokenizer, part, name) for part in tokenizer.parts(batch[0]))


def _encode_part(tokenizer: Tokenizer, text: str, name: str) -> np.ndarray:
    if len(text) > _LONGEST:
        raise UserError(
            f"source {name!r} has a document of {len(text):,} characters in one piece, and a "
            f"{tokenizer.kind} tokenizer takes at most {_LONGEST:,}: use document='line' or "
            "'paragraph', or split the file"
        )
    return tokenizer.encode_to_array(text)
