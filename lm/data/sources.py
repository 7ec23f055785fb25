"""The kinds of source: each yields documents, dicts of named strings: the text under "text" and,
where the source has targets, its target under "target"."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

from lm import config as configs
from lm.config import Source
from lm.data import embedded, markov, prepared
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
    for name in ("paths", "target_paths"):
        settings.pop(name, None)
    if source.fold is None:
        # As it was before there were folds: caches and runs of that time stay good.
        settings.pop("fold")
    version = [_VERSION, embedded.VERSION] if isinstance(source, configs.Embedded) else _VERSION
    contents = [file_hashes(files) for files in _files(source, data_root)]
    return configs.fingerprint({"version": version, "source": settings, "contents": contents})


def source_stamps(source: Source, data_root: Path) -> list[tuple[Path, int, int]]:
    """(file, size, time of change in ns) of all that the source reads, to see that it stays."""
    texts, targets = _files(source, data_root)
    return file_stamps([*texts, *targets])


def _files(source: Source, data_root: Path) -> tuple[list[Path], list[Path]]:
    """The files of the texts, and those that have nothing but their targets."""
    if isinstance(source, configs.Embedded):
        return embedded.module_files(), []
    if isinstance(source, (configs.Arithmetic, configs.MarkovChains, configs.LinearFunctions)):
        return [], []
    if isinstance(source, configs.TfdsDataset):
        return prepared.files(source, data_root), []
    texts = find_files(source.paths, data_root)
    if not isinstance(source, configs.TextFiles) or not source.has_target:
        return texts, []
    targets = find_files(source.target_paths, data_root)
    if len(texts) != len(targets):
        raise UserError(
            f"paths are {len(texts)} files and target_paths {len(targets)}, and each file needs "
            f"the one with its targets: {_names(texts)} against {_names(targets)}"
        )
    return texts, targets


def _names(files: list[Path]) -> str:
    return ", ".join(path.name for path in files[:5]) + (" ..." if len(files) > 5 else "")


def describe(source: Source, data_root: Path) -> str:
    """The source in a few words, for messages."""
    if isinstance(source, configs.Embedded):
        return "the documentation inside Python"
    if isinstance(source, configs.Arithmetic):
        return f"the {source.modulus**2} sums modulo {source.modulus}"
    if isinstance(source, configs.MarkovChains):
        return f"{source.chains} Markov chains of {source.states} states"
    if isinstance(source, configs.LinearFunctions):
        return f"linear functions of {source.dims} coordinates"
    if isinstance(source, configs.TfdsDataset):
        return f"TFDS dataset {source.name!r}, split {source.split!r}"
    paths = [*source.paths, *getattr(source, "target_paths", ())]
    return f"{', '.join(paths)} below {data_root}"


def _documents(source: Source, data_root: Path) -> Iterator[Document]:
    if isinstance(source, configs.Embedded):
        if source.pairs:
            return (pair for text in embedded.texts() for pair in _successive(text))
        return ({"text": text} for text in embedded.texts())
    if isinstance(source, configs.MarkovChains):
        return ({"text": text} for text in markov.texts(source))
    if isinstance(source, configs.TfdsDataset):
        return ({"text": text} for text in prepared.texts(source, data_root))
    files, targets = _files(source, data_root)
    if isinstance(source, configs.TextFiles):
        if source.has_target:
            both = zip(files, targets)
            return (document for one, other in both for document in _aligned(one, other))
        return ({"text": text} for path in files for text in _text(path, source.document))
    if isinstance(source, configs.JsonlFiles):
        return (document for path in files for document in _jsonl(path, source))
    assert isinstance(source, configs.TsvFiles)
    for column in (source.column, source.target_column):
        if isinstance(column, str) and not source.header:
            raise ConfigError(
                f"column {column!r} is a header's name, so the tsv source needs header=True"
            )
    return (document for path in files for document in _tsv(path, source))


def _successive(text: str) -> Iterator[Document]:
    """Each line of text and the one after it."""
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    return ({"text": line, "target": after} for line, after in pairwise(lines))


def _aligned(path: Path, target: Path) -> Iterator[Document]:
    """The lines of two files that go together; UserError where they do not have as many."""
    for line, other in zip_longest(read_lines(path), read_lines(target)):
        if line is None or other is None:
            ours, theirs = (sum(1 for _ in read_lines(file)) for file in (path, target))
            raise UserError(
                f"{path} has {ours} lines and {target}, which should have their targets, {theirs}: "
                "line n of one goes with line n of the other"
            )
        yield {"text": line[1], "target": other[1]}


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


def _jsonl(path: Path, source: configs.JsonlFiles) -> Iterator[Document]:
    fields = {"text": source.field}
    if source.target_field is not None:
        fields["target"] = source.target_field
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
                f"{place} is a JSON {type(row).__name__}, not an object with {source.field!r}{hint}"
            )
        yield {name: _string(row, name, field, place) for name, field in fields.items()}


def _string(row: dict[str, Any], name: str, field: str, place: str) -> str:
    if field not in row:
        raise UserError(f"{place} has {no_such('field', field, row)}")
    text = row[field]
    if isinstance(text, list) and text and all(isinstance(part, str) for part in text):
        text = " ".join(text) if name == "text" else text[0]
    if not isinstance(text, str):
        raise UserError(f"{place}: field {field!r} is {type(text).__name__}, not a string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place}: field {field!r} holds half a surrogate pair at character "
            f"{error.start}, which is no text; repair or remove that line"
        ) from None
    return text


def _tsv(path: Path, source: configs.TsvFiles) -> Iterator[Document]:
    wanted = {"text": source.column}
    if source.target_column is not None:
        wanted["target"] = source.target_column
    # Names are known once the header is read.
    columns = {name: column if isinstance(column, int) else -1 for name, column in wanted.items()}
    for number, line in read_lines(path):
        cells = line.split("\t")
        if number == 1 and source.header:
            for name, column in wanted.items():
                if isinstance(column, str):
                    if column not in cells:
                        raise UserError(f"{path}:1 has {no_such('column', column, cells)}")
                    columns[name] = cells.index(column)
            continue
        if not line:
            continue
        for name, column in columns.items():
            if not 0 <= column < len(cells):
                raise UserError(
                    f"{path}:{number} has no column {wanted[name]!r}: {len(cells)} tab-separated "
                    "columns there, numbered from 0"
                )
        yield {name: cells[column] for name, column in columns.items()}
