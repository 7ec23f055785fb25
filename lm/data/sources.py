"""The kinds of source: each yields documents, dicts of named strings with the text under "text"."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from lm import config as configs
from lm.config import Source
from lm.data import embedded, prepared
from lm.data.files import file_hashes, file_stamps, find_files, no_such, read_lines, read_text
from lm.errors import ConfigError, UserError

Document = dict[str, str]

# Raise when what a source yields for the same files and config changes.
_VERSION = 1
_ARRAY = "; this looks like one JSON array: put each object on a line of its own"


def documents(source: Source, data_root: Path) -> Iterator[Document]:
    """The documents of `source` in their order, before cleaning and whatever its `fraction`.

    UserError for what is missing or damaged, with the file and the line; also for a source that
    yields no document with a character other than white space.
    """
    something = False
    for document in _documents(source, data_root):
        something = something or any(not text.isspace() for text in document.values() if text)
        yield document
    if not something:
        raise UserError(f"the source is empty: {describe(source, data_root)} holds no text")


def source_fingerprint(source: Source, data_root: Path) -> str:
    """16 hex digits that change when the source's config (but weight and fraction) or the contents
    of what it reads change; where the files lie, and which globs find them, does not matter."""
    settings = configs.to_dict(dataclasses.replace(source, weight=1.0, fraction=(0.0, 1.0)))
    settings.pop("paths", None)
    version = [_VERSION, embedded.VERSION] if isinstance(source, configs.Embedded) else _VERSION
    contents = file_hashes(_files(source, data_root))
    return configs.fingerprint({"version": version, "source": settings, "contents": contents})


def source_stamps(source: Source, data_root: Path) -> list[tuple[Path, int, int]]:
    """(file, size, time of change in ns) of all that the source reads, to see that it stays."""
    return file_stamps(_files(source, data_root))


def _files(source: Source, data_root: Path) -> list[Path]:
    if isinstance(source, configs.Embedded):
        return embedded.module_files()
    if isinstance(source, configs.TfdsDataset):
        return prepared.files(source, data_root)
    return find_files(source.paths, data_root)


def describe(source: Source, data_root: Path) -> str:
    """The source in a few words, for messages."""
    if isinstance(source, configs.Embedded):
        return "the documentation inside Python"
    if isinstance(source, configs.TfdsDataset):
        return f"TFDS dataset {source.name!r}, split {source.split!r}"
    return f"{', '.join(source.paths)} below {data_root}"


def _documents(source: Source, data_root: Path) -> Iterator[Document]:
    if isinstance(source, configs.Embedded):
        return ({"text": text} for text in embedded.texts())
    if isinstance(source, configs.TfdsDataset):
        return ({"text": text} for text in prepared.texts(source, data_root))
    files = find_files(source.paths, data_root)
    if isinstance(source, configs.TextFiles):
        return ({"text": text} for path in files for text in _text(path, source.document))
    if isinstance(source, configs.JsonlFiles):
        return ({"text": text} for path in files for text in _jsonl(path, source.field))
    if isinstance(source.column, str) and not source.header:
        raise ConfigError(
            f"column {source.column!r} is a header's name, so the tsv source needs header=True"
        )
    return ({"text": text} for path in files for text in _tsv(path, source))


def _text(path: Path, document: str) -> Iterator[str]:
    """The documents of a text file. A lone "\\r" ends no line."""
    if document == "file":
        yield read_text(path)
        return
    if document == "line":
        yield from (text for _, text in read_lines(path))
        return
    paragraph: list[str] = []
    for _, line in read_lines(path):
        if line and not line.isspace():
            paragraph.append(line)
        elif paragraph:
            yield "\n".join(paragraph)
            paragraph = []
    if paragraph:
        yield "\n".join(paragraph)


def _jsonl(path: Path, field: str) -> Iterator[str]:
    for number, line in read_lines(path):
        if not line or line.isspace():
            continue
        place = f"{path}:{number}"
        hint = _ARRAY if line.lstrip().startswith("[") else ""
        try:
            # Numbers are not read here, and very long ones Python refuses to convert.
            row = json.loads(line, parse_int=lambda digits: 0)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{place} is not JSON ({error}); each line must be a whole object: repair or "
                f"remove that line{hint}"
            ) from None
        if not isinstance(row, dict):
            raise UserError(
                f"{place} is a JSON {type(row).__name__}, not an object with {field!r}{hint}"
            )
        if field not in row:
            raise UserError(f"{place} has {no_such('field', field, row)}")
        text = row[field]
        if not isinstance(text, str):
            raise UserError(f"{place}: field {field!r} is {type(text).__name__}, not a string")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"{place}: field {field!r} holds half a surrogate pair at character "
                f"{error.start}, which is no text; repair or remove that line"
            ) from None
        yield text


def _tsv(path: Path, source: configs.TsvFiles) -> Iterator[str]:
    column = source.column
    for number, line in read_lines(path):
        cells = line.split("\t")
        if number == 1 and source.header:
            if isinstance(column, str):
                if column not in cells:
                    raise UserError(f"{path}:1 has {no_such('column', column, cells)}")
                column = cells.index(column)
            continue
        if not line:
            continue
        assert isinstance(column, int)
        if not 0 <= column < len(cells):
            raise UserError(
                f"{path}:{number} has no column {source.column!r}: {len(cells)} tab-separated "
                "columns there, numbered from 0"
            )
        yield cells[column]
