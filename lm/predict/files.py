"""Examples to be answered, from files: what is where says the data the run was trained on, or
whoever asks, or else the roles' own names."""

from __future__ import annotations

import dataclasses
import glob
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from lm.config import (
    Config,
    ExampleFiles,
    JsonlFiles,
    QuestionAnswering,
    Roles,
    Source,
    TfdsDataset,
    TsvFiles,
)
from lm.data.examples_read import Example, csv_rows, read_examples
from lm.data.files import read_lines
from lm.errors import ConfigError, UserError, did_you_mean
from lm.predict.roles import ID, Forms, forms_of, single, words

Format = Literal["lines", "jsonl", "tsv", "csv", "squad", "columns"]
FORMATS = ("lines", "jsonl", "tsv", "csv", "squad", "columns")
_ENDINGS: Mapping[str, Format] = {
    ".txt": "lines",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".tsv": "tsv",
    ".csv": "csv",
}
Columns = Mapping[str, int | str]


class InputFiles:
    """Reads examples for the run with this config.

    Args:
      fields: which key, or which column (its name in the header, or a number from 0), is what role.
      format: of the file, None is by the ending of its name.
      header: whether a table's first row is one; None finds out by the names in it.
    """

    def __init__(
        self,
        config: Config,
        *,
        fields: Columns,
        format: Format | None = None,
        header: bool | None = None,
    ) -> None:
        self._forms: Forms = forms_of(config)
        self._answers_spans = isinstance(config.objective, QuestionAnswering)
        sources = config.data.train
        self._source: Source | None = sources[min(sources)] if sources else None
        self._trained = _columns_of(self._source)
        self._fields, self._format, self._header = fields, format, header
        roles = [role for form in self._forms for role in (*form.inputs, *form.optional)]
        for role in fields:
            if role not in (*roles, ID):
                raise ConfigError(f"nothing reads {role!r}{did_you_mean(role, roles)}")

    def read(self, path: str) -> list[Example]:
        """All examples of a file, or for "-" of standard input.

        Raises:
          UserError: it cannot be read, is empty, or has an example without an input; with the file
            and the line.
          ConfigError: it does not show what is where.
        """
        if path == "-":
            return self._standard_input()
        if not Path(path).is_file():
            what = "it is a folder" if Path(path).is_dir() else "there is no such file"
            raise UserError(f"could not read {path}: {what}")
        form = self._format or self._format_of(Path(path))
        if form == "lines" or form == "jsonl":
            make = self._lines if form == "lines" else self._objects
            examples = list(make(read_lines(Path(path)), path))
        else:
            examples = self._read(path, form)
        if not examples:
            raise UserError(f"{path} is empty: give at least one example")
        return examples

    def _standard_input(self) -> list[Example]:
        name = "standard input"
        form = self._format or ("lines" if single(self._forms) else "jsonl")
        try:
            text = sys.stdin.buffer.read().decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            raise UserError(f"{name} is not UTF-8 text: {error}") from error
        if not text:
            raise UserError(f"{name} is empty: give at least one example")
        lines = enumerate(text.removesuffix("\n").split("\n"), 1)
        if form == "lines":
            return list(self._lines(((n, line.removesuffix("\r")) for n, line in lines), name))
        if form == "jsonl":
            examples = list(self._objects(lines, name))
            if not examples:
                raise UserError(f"{name} is empty: give at least one example")
            return examples
        raise ConfigError(f"{name} is lines of text or of JSON; for --format={form} name a file")

    def _format_of(self, path: Path) -> Format:
        ending = _ending(path)
        source = self._source
        columns = isinstance(source, ExampleFiles) and source.format == "columns"
        learned = source.paths if isinstance(source, ExampleFiles) and columns else ()
        if ending == ".txt" and any(_ending(Path(one)) == ending for one in learned):
            raise ConfigError(
                f"{path} may be CoNLL's columns, as the training data in files of this ending is, "
                "or a sentence a line: say --format=columns or --format=lines"
            )
        if ending in _ENDINGS:
            return _ENDINGS[ending]
        if ending == ".json" and self._answers_spans:
            return "squad"
        if columns:
            return "columns"
        if ending != ".json" and single(self._forms):
            return "lines"
        raise ConfigError(
            f"the name {path} does not say how its examples are written: --format= is one of "
            f"{', '.join(FORMATS)}"
        )

    def _lines(self, lines: Iterator[tuple[int, str]], name: str) -> Iterator[Example]:
        role = single(self._forms)
        if role is None:
            raise ConfigError(
                f"{name}: a line of text is no example, which has {words(self._forms[0].inputs)}: "
                "give JSON lines, or a table"
            )
        for number, line in lines:
            if role == "words" and not line.strip():
                raise UserError(
                    f"{name}:{number} is blank, and a line should be a sentence, its words with "
                    "spaces between: --format=columns reads CoNLL's columns, a word a line and a "
                    "blank line after a sentence"
                )
            yield Example({role: line}, f"{name}:{number}")

    def _objects(self, lines: Iterator[tuple[int, str]], name: str) -> Iterator[Example]:
        """Each line by itself: what is optional may be in some of them."""
        for number, line in lines:
            if line and not line.isspace():
                place = f"{name}:{number}"
                row = _object(line, place)
                columns = self._named(list(row))
                if columns is None:
                    raise self._unknown(place, "field", list(row))
                yield Example({role: row[str(key)] for role, key in columns.items()}, place)

    def _read(self, path: str, form: Literal["tsv", "csv", "squad", "columns"]) -> list[Example]:
        # A file of the form of the training data is written as that is.
        learned = self._source
        files = ExampleFiles(paths=(glob.escape(path),), format=form)
        if isinstance(learned, ExampleFiles) and learned.format == form:
            files = dataclasses.replace(
                files, encoding=learned.encoding, separator=learned.separator,
                most_columns=learned.most_columns,
            )  # fmt: skip
        fields: Columns = {}
        if form == "columns":
            roles = self._forms[0].inputs
            fields = {r: self._fields.get(r, self._trained.get(r, r)) for r in roles}
            files = dataclasses.replace(files, fields=fields)
        elif form != "squad":
            fields, header = self._table(path, files)
            files = dataclasses.replace(files, fields=fields, header=header)
        # Squad's questions have no fields, but ids.
        inputs = tuple(fields) or self._forms[0].inputs
        return read_examples(files, Roles(inputs, (), ()), Path())

    def _table(self, path: str, files: ExampleFiles) -> tuple[Columns, bool]:
        """Which column is what, and whether there is a header."""
        if files.format == "csv":
            _, cells = next(csv_rows(Path(path), files), (1, [""]))
        else:
            _, first = next(read_lines(Path(path), files.encoding), (1, ""))
            cells = first.split(files.separator or "\t")
        if self._header is not False:
            found = self._named(cells)
            if found is not None:
                return found, True
        numbered: dict[str, int | str] = {
            role: column
            for role, column in {**self._trained, **self._fields}.items()
            if isinstance(column, int)
        }
        role = single(self._forms)
        if role is not None and len(cells) == 1:
            numbered.setdefault(role, 0)
        for roles in self._forms:
            if all(name in numbered for name in roles.inputs):
                known = (*roles.inputs, *roles.optional, ID)
                kept = {name: numbered[name] for name in known if name in numbered}
                # Columns that are where they were in training stand below what they did there.
                as_learned = all(self._trained.get(name) == kept[name] for name in kept)
                header = as_learned and bool(getattr(self._source, "header", False))
                return kept, header if self._header is None else self._header
        raise self._unknown(f"{path}:1", "column", cells)

    def _named(self, present: Sequence[str]) -> Columns | None:
        """Role to name, of the names that there are; None where an input is not among them."""
        for roles in self._forms:
            found: dict[str, int | str] = {}
            for role in (*roles.inputs, *roles.optional, ID):
                given = self._fields.get(role)
                wanted = (self._trained.get(role), role) if given is None else (given,)
                names = [name for name in wanted if isinstance(name, str) and name in present]
                found |= {role: names[0]} if names else {}
            # What was asked for, and is not there, is said, and not left out.
            if all(role in found for role in (*roles.inputs, *self._fields)):
                return found
        return None

    def _unknown(self, place: str, what: str, present: Sequence[str]) -> UserError:
        named = {**self._trained, **self._fields}
        wanted = [
            f"{named[role]!r} (the {role})" if named.get(role, role) != role else repr(role)
            for role in (*self._forms[0].inputs, *self._fields)
        ]
        shown = ", ".join(repr(name[:40]) for name in islice(present, 20)) or "none"
        return UserError(
            f"{place} has no {what} {words(list(dict.fromkeys(wanted)))}; it has {shown}: "
            f"--field={self._forms[0].inputs[0]}=NAME says which one is what"
            + (", by its number (from 0) where there is no header" if what == "column" else "")
        )


def _ending(path: Path) -> str:
    """The last of a name, in small letters; that of compression is none."""
    endings = [ending for ending in path.suffixes if ending != ".gz"]
    return endings[-1].lower() if endings else ""


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{place} is not JSON ({error}); each line must be a whole object"
        ) from None
    if not isinstance(row, dict):
        raise UserError(f"{place} is a JSON {type(row).__name__}, not an object")
    return row


def _columns_of(source: Source | None) -> Columns:
    """What is where in the data that was learned."""
    if isinstance(source, (ExampleFiles, TfdsDataset)):
        return source.fields
    if isinstance(source, JsonlFiles):
        return {"text": source.field}
    if isinstance(source, TsvFiles):
        return {"text": source.column}
    return {}
