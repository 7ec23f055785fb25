"""Cleaned documents, written once as ArrayRecord through TFDS and read back at random.

A store is a folder of the cache named by the fingerprint of what it was made from.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lm import config as configs
from lm.config import Source
from lm.data import prepared
from lm.data.cache import build_folder, opening
from lm.data.cleaning import CleanCounts, clean
from lm.data.sources import Document, describe, documents, source_fingerprint, source_stamps
from lm.errors import UserError

# Raise when cleaning or the format of a store changes.
_VERSION = 3
_SPLIT = "all_documents"
# Read at a time: many documents, as a call costs much, but this many characters or one document.
_RECORDS, _CHARACTERS = 2048, 1 << 22
# Records written at a time, and to one file.
_BATCH, _SHARD = 1024, 1 << 20
# Half of what the format's serialisation can hold.
_LONGEST = 1 << 30


class DocumentStore:
    """The cleaned documents of one source, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with opening(folder):
            self.report: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
            # The characters up to the end of each document.
            self._ends = np.load(folder / "ends.npy")
            if self.report["characters"] != self._ends[-1]:
                raise ValueError(f"{self._ends[-1]} characters, not {self.report['characters']}")
            self.fields: list[str] = self.report.pop("fields")
        self.fingerprint: str = folder.name

    def slice(self, begin: float, end: float) -> Iterator[Document]:
        """The documents of the part [begin, end) of the characters; those on its edges are cut, or,
        where documents have several fields, are of the part in which they begin.

        The parts (a, b) and (b, c) hold together exactly the text of (a, c). Nothing before
        `begin` is read. UserError where the store is damaged.
        """
        total = self.report["characters"]
        first, last = int(begin * total), int(end * total)
        if first == last:
            return
        if len(self.fields) > 1:
            # Those that begin at `first` or later, and before `last`.
            edges = np.searchsorted(np.append(0, self._ends[:-1]), (first, last))
            yield from self._documents(*edges.tolist())
            return
        start = int(np.searchsorted(self._ends, first, side="right"))
        stop = int(np.searchsorted(self._ends, last, side="left")) + 1
        for number, document in zip(range(start, stop), self._documents(start, stop), strict=True):
            size = sum(map(len, document.values()))
            position = int(self._ends[number]) - size
            yield _cut(document, first - position, last - position, size)

    def _documents(self, start: int, stop: int) -> Iterator[Document]:
        with opening(self.folder):
            records = prepared.open_split(self.folder / "documents", _SPLIT)
            if len(records) != len(self._ends):
                raise ValueError(f"{len(records)} documents, not {len(self._ends)}")
        while start < stop:
            before = int(self._ends[start - 1]) if start else 0
            end = int(np.searchsorted(self._ends, before + _CHARACTERS, side="right"))
            numbers = list(range(start, min(max(end, start + 1), start + _RECORDS, stop)))
            start += len(numbers)
            with opening(self.folder):
                found = [
                    {name: value.decode("utf-8") for name, value in record.items()}
                    for record in records.__getitems__(numbers)
                ]
            yield from found


def _cut(document: Document, first: int, last: int, size: int) -> Document:
    if first <= 0 and last >= size:
        return document
    return {name: text[max(first, 0) : last] for name, text in document.items()}


def document_store(source: Source, data_root: Path, cache_dir: Path) -> DocumentStore:
    """The store of the cleaned source (all of it, whatever the fraction), made if there is none.

    UserError for what is wrong with the source, or with the cache folder; also for files that
    change while they are read, of which the cache would keep something that never was.
    """
    stamps = source_stamps(source, data_root)
    key = configs.fingerprint(
        {"version": _VERSION, "source": source_fingerprint(source, data_root)}
    )

    def build(partial: Path) -> None:
        _build(source, data_root, partial)
        now = source_stamps(source, data_root)
        if now != stamps:
            name, *_ = next(iter(set(now) ^ set(stamps)))
            raise UserError(f"{name} changed while it was read; start again when it is finished")

    folder = cache_dir / "documents" / key
    build_folder(folder, build)
    return DocumentStore(folder)


def _build(source: Source, data_root: Path, partial: Path) -> None:
    counts = CleanCounts()
    name = describe(source, data_root)
    read = tqdm(
        documents(source, data_root), desc=f"read {name}", unit="doc", unit_scale=True, delay=2,
        disable=not sys.stderr.isatty(), leave=False,
    )  # fmt: skip
    cleaned = clean(read, source.clean, counts)
    first = next(cleaned, None)
    if first is None:
        raise UserError(f"the source is empty: cleaning left no document of {name}")
    sizes = _write(chain([first], cleaned), list(first), partial / "documents")
    np.save(partial / "ends.npy", np.cumsum(np.frombuffer(sizes, np.int64)))
    report = {"source": configs.to_dict(source), "fields": list(first), **counts.as_dict()}
    (partial / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False), "utf-8")


def _write(documents: Iterable[Document], fields: list[str], folder: Path) -> array:
    """Writes a TFDS dataset, document by document; the characters of each."""
    import tensorflow_datasets as tfds

    folder.mkdir()
    info = tfds.core.DatasetInfo(
        builder=tfds.core.dataset_info.DatasetIdentity(
            name="documents", version=tfds.core.Version("1.0.0"), data_dir=str(folder),
            module_name="",
        ),
        features=tfds.features.FeaturesDict({name: tfds.features.Text() for name in fields}),
        disable_shuffling=True,
    )  # fmt: skip
    # Not a builder's download_and_prepare, which holds all records until it sorts them on disk,
    # and does that with TensorFlow.
    writer = tfds.core.SequentialWriter(info, _SHARD, file_format="array_record")
    writer.initialize_splits([_SPLIT])
    sizes = array("q")
    documents = iter(documents)
    while batch := list(_batch(documents, sizes)):
        writer.add_examples({_SPLIT: batch})
    writer.close_splits([_SPLIT])
    return sizes


def _batch(documents: Iterator[Document], sizes: array) -> Iterator[Document]:
    """Documents for one call of the writer; adds their characters to `sizes`."""
    characters = 0
    for document in islice(documents, _BATCH):
        sizes.append(sum(map(len, document.values())))
        if sizes[-1] > _LONGEST:
            raise UserError(
                f"document {len(sizes)} has {sizes[-1]:,} characters, but one document may have "
                f"{_LONGEST:,}: use document='line' or 'paragraph', or split the file"
            )
        yield document
        characters += sizes[-1]
        if characters >= _CHARACTERS:
            return
