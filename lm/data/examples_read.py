"""Examples of a task from files, from TFDS or from inside Python: named values, and their place."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm.config import (
    Arithmetic,
    Embedded,
    ExampleFiles,
    Fold,
    LinearFunctions,
    Roles,
    Source,
    TfdsDataset,
)
from lm.data import embedded, prepared
from lm.data.files import find_files, no_such, read_lines, read_text
from lm.data.sources import describe
from lm.errors import ConfigError, UserError

# A quoted cell of csv may be a whole document.
_LONGEST_CELL = 1 << 26
_SEPARATORS = {"tsv": "\t", "csv": ","}


@dataclass(frozen=True)
class Example:
    """Values by role, as an objective's config names them, and where they are from, for messages.

    An example to be answered has its inputs alone.
    """

    values: Mapping[str, Any]
    place: str


def read_examples(source: Source, roles: Roles, data_root: Path) -> list[Example]:
    """The examples of a source in their order, those of its `fraction` and `fold`.

    UserError for what is missing or damaged, with the file and the line.
    """
    if isinstance(source, Embedded):
        names = {*roles.inputs, *roles.targets}
        own = {"label": "choice"} if "choices" in names else {}
        found = [
            Example({n: values[own.get(n, n)] for n in names}, f"embedded example {number}")
            for number, values in enumerate(embedded.examples())
        ]
    elif isinstance(source, Arithmetic):
        found = _sums(source, roles)
    elif isinstance(source, LinearFunctions):
        raise ConfigError(
            "kind 'linear_functions' has numbers: it is for objective 'in_context_regression'"
        )
    elif isinstance(source, TfdsDataset):
        found = list(_records(source, roles, data_root))
    else:
        assert isinstance(source, ExampleFiles)
        reader = _READERS[source.format]
        files = find_files(source.paths, data_root)
        found = [example for path in files for example in reader(path, source, roles)]
    begin, end = (round(share * len(found)) for share in source.fraction)
    if begin == end:
        raise UserError(
            f"{describe(source, data_root)} has no examples"
            + (f" in the fraction {source.fraction} of its {len(found)}" if found else "")
        )
    found = found[begin:end]
    return found if source.fold is None else _of_fold(found, source.fold, roles)


def _sums(source: Arithmetic, roles: Roles) -> list[Example]:
    """All sums in the order of the lot."""
    if roles.inputs != ("text",) or roles.targets != ("label",):
        raise ConfigError("kind 'arithmetic' has texts with a label: objective 'classification'")
    order = np.random.default_rng(source.seed).permutation(source.modulus**2)
    found = []
    for number in order.tolist():
        a, b = divmod(number, source.modulus)
        values = {"text": f"{a} {b} =", "label": str((a + b) % source.modulus)}
        found.append(Example(values, f"the sum of {a} and {b}"))
    return found


def _of_fold(examples: Sequence[Example], fold: Fold, roles: Roles) -> list[Example]:
    """Those that a fold holds out, or the others. Parts differ by at most one in size, and of a
    classification's labels also by at most one in how many examples each label has."""
    if len(examples) < fold.of:
        raise UserError(f"{len(examples)} examples cannot be divided into {fold.of} folds")
    order = np.random.default_rng([fold.seed, fold.of]).permutation(len(examples))
    if roles.targets == ("label",) and "choices" not in roles.inputs:
        # Dealt out label after label; several labels of an example are one of their own.
        labels = np.array([str(example.values["label"]) for example in examples])
        order = order[np.argsort(labels[order], kind="stable")]
    part = np.empty(len(examples), np.int64)
    part[order] = np.arange(len(examples)) % fold.of
    return [
        example
        for example, own in zip(examples, part, strict=True)
        if (own == fold.index) == fold.held_out
    ]


def columns_of(fields: Mapping[str, Any], roles: Roles) -> dict[str, Any]:
    """Role to column: as named, else a needed role by its own name."""
    needed = (*roles.inputs, *roles.targets)
    return {role: fields.get(role, role) for role in dict.fromkeys([*needed, *fields])}


def _jsonl(path: Path, source: ExampleFiles, roles: Roles) -> Iterator[Example]:
    columns = columns_of(source.fields, roles)
    for number, line in read_lines(path, source.encoding):
        if not line or line.isspace():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{place} is not JSON ({error}); each line must be a whole object: repair or "
                "remove that line"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{place} is a JSON {type(row).__name__}, not an object")
        yield Example(_picked(row, columns, place), place)


def _picked(row: Mapping[str, Any], columns: Mapping[str, Any], place: str) -> dict[str, Any]:
    for role, key in columns.items():
        if key not in row:
            hint = "" if role != key else f"; fields says which one is the {role}"
            raise UserError(f"{place} has {no_such('field', key, row)}{hint}")
    return {role: row[key] for role, key in columns.items()}


def _tsv(path: Path, source: ExampleFiles, roles: Roles) -> Iterator[Example]:
    separator = source.separator or _SEPARATORS["tsv"]
    most = -1 if source.most_columns is None else source.most_columns - 1
    rows = (
        (number, line.split(separator, most))
        for number, line in read_lines(path, source.encoding)
        if line
    )
    return _table(path, source, roles, rows)


def _csv(path: Path, source: ExampleFiles, roles: Roles) -> Iterator[Example]:
    return _table(path, source, roles, csv_rows(path, source))


def csv_rows(path: Path, source: ExampleFiles) -> Iterator[tuple[int, list[str]]]:
    """The rows of a csv file, and the line that each begins in: a cell may have several lines.

    Raises:
      UserError: a row that is none, with its line.
    """
    separator = source.separator or _SEPARATORS["csv"]
    text = io.StringIO(read_text(path, source.encoding), newline="")
    reader = csv.reader(text, delimiter=separator, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            with _long_cells():
                cells = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{path}:{first} is no csv ({error}); repair that row, or read the file as "
                "format='tsv' where nothing is quoted"
            ) from None
        if cells is None:
            return
        if cells:
            yield first, cells


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """The module's limit is everybody's: it is another one only while a row is read."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _table(
    path: Path, source: ExampleFiles, roles: Roles, rows: Iterator[tuple[int, list[str]]]
) -> Iterator[Example]:
    columns = columns_of(source.fields, roles)
    if source.header:
        first = next(rows, None)
        if first is None:
            return
        number, names = first
        for role, column in columns.items():
            if isinstance(column, str):
                if column not in names:
                    hint = "" if role in source.fields else f"; fields says which is the {role}"
                    raise UserError(f"{path}:{number} has {no_such('column', column, names)}{hint}")
                columns[role] = names.index(column)
    unknown = [role for role, column in columns.items() if isinstance(column, str)]
    if unknown:
        raise ConfigError(
            f"fields must say which column (from 0) is {' and '.join(unknown)}: the source has no "
            "header"
        )
    for number, cells in rows:
        place = f"{path}:{number}"
        if max(columns.values()) >= len(cells):
            role = max(columns, key=lambda name: columns[name])
            raise UserError(
                f"{place} has {len(cells)} columns, and the {role} should be number "
                f"{columns[role]}, counted from 0"
            )
        yield Example({role: cells[column] for role, column in columns.items()}, place)


def _columns(path: Path, source: ExampleFiles, roles: Roles) -> Iterator[Example]:
    columns = columns_of(source.fields, roles)
    unknown = [role for role, column in columns.items() if isinstance(column, str)]
    if unknown:
        raise ConfigError(f"fields must say which column (from 0) is {' and '.join(unknown)}")
    sentence: list[list[str]] = []
    begin = 1

    def example() -> Example:
        values = {role: [cells[column] for cells in sentence] for role, column in columns.items()}
        return Example(values, f"{path}:{begin}")

    for number, line in read_lines(path, source.encoding):
        cells = line.split()
        if cells and cells[0] == "-DOCSTART-":
            continue
        if not cells:
            if sentence:
                yield example()
            sentence = []
            continue
        if max(columns.values()) >= len(cells):
            raise UserError(
                f"{path}:{number} has {len(cells)} columns, and fields names column "
                f"{max(columns.values())}, counted from 0"
            )
        begin = begin if sentence else number
        sentence.append(cells)
    if sentence:
        yield example()


def _squad(path: Path, source: ExampleFiles, roles: Roles) -> Iterator[Example]:
    try:
        content = json.loads(read_text(path, source.encoding))
        paragraphs = [p for article in content["data"] for p in article["paragraphs"]]
        for paragraph in paragraphs:
            for question in paragraph["qas"]:
                place = f"{path}: question {question.get('id')!r}"
                values = {
                    "id": question.get("id"),
                    "question": question["question"],
                    "context": paragraph["context"],
                }
                # What is only to be answered, as a test set, has none.
                if question.get("is_impossible", False):
                    values["answers"] = []
                elif "answers" in roles.targets or "answers" in question:
                    values["answers"] = question["answers"]
                yield Example(values, place)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"{path} is not SQuAD's json ({what}): it should have data, a list of articles with "
            "paragraphs, of a context and qas each"
        ) from None


_READERS = {"jsonl": _jsonl, "tsv": _tsv, "csv": _csv, "columns": _columns, "squad": _squad}


def _records(source: TfdsDataset, roles: Roles, data_root: Path) -> Iterator[Example]:
    folder = prepared.find(source, data_root)
    columns = columns_of(source.fields, roles)
    names = prepared.class_names(folder)
    for number, record in enumerate(prepared.records(folder, source.split)):
        place = f"{folder}, record {number} of {source.split!r}"
        values = _picked(record, columns, place)
        yield Example(
            {role: _plain(v, names.get(columns[role])) for role, v in values.items()}, place
        )


def _plain(value: Any, names: Sequence[str] | None = None) -> Any:
    """TFDS's values as JSON has them; class labels by their names. A sequence of features is a
    mapping of lists there, and stays one."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, names) for v in value]
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return value
