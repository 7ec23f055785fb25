"""Examples to be answered from files: what is where, and what is wrong."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lm.config import Config, Embedded, ExampleFiles
from lm.errors import ConfigError, UserError
from lm.predict.files import InputFiles
from lm.predict.roles import forms_of, from_arguments
from tests.predict.runs import KINDS, TABLE, tiny_config


def config(kind: str, **source: Any) -> Config:
    found = tiny_config(kind)
    if not source:
        return found
    data = dataclasses.replace(found.data, train={"t": ExampleFiles(paths=("x",), **source)})
    return dataclasses.replace(found, data=data)


def read(
    of: Config, path: Path, text: str | None = None, **options: Any
) -> list[tuple[dict[str, Any], str]]:
    """(values, place without the folder) of every example."""
    if text is not None:
        path.write_text(text)
    files = InputFiles(of, **{"fields": {}, **options})
    found = files.read(str(path))
    return [(dict(e.values), e.place.removeprefix(f"{path.parent}/")) for e in found]


def test_the_fields_of_training_or_the_names_of_the_roles(tmp_path: Path) -> None:
    of = config("classification")
    lines = ['{"sentence": "a", "label": "good"}', "", '{"text": "b", "id": 7, "text_pair": "c"}']
    assert read(of, tmp_path / "a.jsonl", "\n".join(lines)) == [
        ({"text": "a"}, "a.jsonl:1"),
        ({"text": "b", "id": 7, "text_pair": "c"}, "a.jsonl:3"),
    ]
    table = 'index\tsentence\n0\ta "b\n1\tc\n'
    assert read(of, tmp_path / "a.tsv", table) == [
        ({"text": 'a "b'}, "a.tsv:2"),
        ({"text": "c"}, "a.tsv:3"),
    ]
    cells = 'text,text_pair\n"a\nb",c\n'
    assert read(of, tmp_path / "a.csv", cells) == [({"text": "a\nb", "text_pair": "c"}, "a.csv:2")]
    pairs = read(config("joined"), tmp_path / "b.jsonl", '{"source": ["a.", "b."]}\n')
    assert pairs == [({"text": ["a.", "b."]}, "b.jsonl:1")]


def test_whoever_asks_says_what_is_where(tmp_path: Path) -> None:
    of, table = config("classification"), "a\tb\nc\td\n"
    assert [v for v, _ in read(of, tmp_path / "a.tsv", table, fields={"text": 1})] == [
        {"text": "b"},
        {"text": "d"},
    ]
    found = read(of, tmp_path / "a.tsv", table, fields={"text": 0, "text_pair": 1}, header=True)
    assert found == [({"text": "c", "text_pair": "d"}, "a.tsv:2")]
    assert read(of, tmp_path / "a.tsv", table, fields={"text": "b"}) == [({"text": "d"}, "a.tsv:2")]
    for header, rows in ((False, ["b", "d"]), (True, ["d"])):
        numbered = config("classification", format="tsv", fields={"text": 1}, header=header)
        assert [v["text"] for v, _ in read(numbered, tmp_path / "a.tsv")] == rows
    assert [v for v, _ in read(of, tmp_path / "one.csv", "a\nb\n")] == [
        {"text": "a"},
        {"text": "b"},
    ]


def test_lines_are_texts_whatever_the_ending(tmp_path: Path) -> None:
    for name in ("a.txt", "test2016.en"):
        found = read(config("joined"), tmp_path / name, "two men .\n\na dog\n")
        assert found == [
            ({"text": "two men ."}, f"{name}:1"),
            ({"text": ""}, f"{name}:2"),
            ({"text": "a dog"}, f"{name}:3"),
        ]
    table = config("tags", format="columns", fields={"words": 0, "tags": 3})
    found = read(table, tmp_path / "a.conll", "Ada N\nis O\n\nB N\n")
    assert [values["words"] for values, _ in found] == [["Ada", "is"], ["B"]]


def test_questions_of_squad_keep_their_ids(tmp_path: Path) -> None:
    qas = [{"id": "q1", "question": "who?", "answers": []}]
    squad = {"data": [{"paragraphs": [{"context": "Ada", "qas": qas}]}]}
    [(values, _)] = read(config("answers"), tmp_path / "dev.json", json.dumps(squad))
    assert (values["id"], values["question"], values["context"]) == ("q1", "who?", "Ada")


def test_squad_without_answers_is_what_a_test_set_is(tmp_path: Path) -> None:
    squad = {"data": [{"paragraphs": [{"context": "Ada", "qas": [{"id": 1, "question": "who?"}]}]}]}
    [(values, _)] = read(config("answers"), tmp_path / "test.json", json.dumps(squad))
    assert values == {"id": 1, "question": "who?", "context": "Ada"}


def test_columns_in_a_file_of_lines_are_asked_about(tmp_path: Path) -> None:
    fields, text = {"words": 0, "tags": 1}, "Ada N\nis O\n\nB N\n"
    of = config("tags", format="columns", fields=fields)
    with pytest.raises(UserError, match="a.txt:3 is blank.*--format=columns reads CoNLL's columns"):
        read(of, tmp_path / "a.txt", text)
    found = read(of, tmp_path / "a.txt", format="columns")
    assert [values["words"] for values, _ in found] == [["Ada", "is"], ["B"]]
    # Where training had files of this ending, neither is guessed.
    source = dataclasses.replace(of.data.train["t"], paths=("x/*.txt",))
    same = dataclasses.replace(of, data=dataclasses.replace(of.data, train={"t": source}))
    with pytest.raises(ConfigError, match="say --format=columns or --format=lines"):
        read(same, tmp_path / "a.txt")
    assert len(read(same, tmp_path / "b.txt", "Ada is\n", format="lines")) == 1


def test_a_first_row_of_csv_may_have_many_lines_and_be_long(tmp_path: Path) -> None:
    cell = "a\nb" + "x" * 200_000
    found = read(config("joined"), tmp_path / "a.csv", f'"{cell}"\n', header=False)
    assert found == [({"text": cell}, "a.csv:1")]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def given(text: bytes, kind: str, **options: Any) -> list[Any]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        found = InputFiles(config(kind), **{"fields": {}, **options}).read("-")
        return [(dict(example.values), example.place) for example in found]

    assert given("ä\r\nb\n".encode(), "joined") == [
        ({"text": "ä"}, "standard input:1"),
        ({"text": "b"}, "standard input:2"),
    ]
    line = b'{"question": "who?", "context": "Ada"}\n'
    assert given(line, "answers")[0][0]["context"] == "Ada"
    assert given(b'{"sentence": "a"}', "classification", format="jsonl")[0][0] == {"text": "a"}
    for text, kind, options, message in (
        (b"", "joined", {}, "standard input is empty"),
        (b"\xff", "joined", {}, "not UTF-8"),
        (b"{}\n", "joined", {"format": "tsv"}, "for --format=tsv name a file"),
        (b"x\n", "answers", {"format": "lines"}, "no example, which has question and context"),
    ):
        with pytest.raises(UserError, match=message):
            given(text, kind, **options)


WRONG: dict[str, tuple[str, str, str, dict[str, Any], str]] = {
    "missing": ("answers", "a.jsonl", '{"question": "x", "contxt": "y"}', {},
                r"a.jsonl:1 has no field 'question' and 'context'; it has 'question', 'contxt'"),
    "later": ("classification", "a.jsonl", '{"text": "x"}\n{"label": 1}', {},
              r"a.jsonl:2 has no field 'sentence' \(the text\); it has 'label': --field=text=NAME"),
    "json": ("classification", "a.jsonl", '{"text": "x"}\n{"text"', {}, "a.jsonl:2 is not JSON"),
    "object": ("classification", "a.jsonl", "[1]", {}, "a.jsonl:1 is a JSON list, not an object"),
    "column": ("classification", "a.tsv", "x\ty\n", {}, r"a.tsv:1 has no column .* by its number"),
    "asked": ("classification", "a.jsonl", '{"text": "x"}', {"fields": {"text_pair": "b"}},
              r"has no field .* 'b' \(the text_pair\)"),
    "short": ("classification", "a.tsv", "x\ty\nz\n", {"fields": {"text": 1}},
              "a.tsv:2 has 1 columns, and the text should be number 1"),
    "ending": ("answers", "a.dat", "x", {}, "does not say how its examples are written"),
    "lines": ("answers", "a.txt", "x", {}, "a line of text is no example"),
    "empty": ("joined", "a.txt", "", {}, "a.txt is empty"),
    "squad": ("answers", "a.json", "{}", {}, "is not SQuAD's json"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_with_its_line(name: str, tmp_path: Path) -> None:
    kind, file, text, options, message = WRONG[name]
    with pytest.raises(UserError, match=message) as caught:
        read(config(kind), tmp_path / file, text, **options)
    assert "Traceback" not in str(caught.value)


def test_files_and_roles_that_there_are_not(tmp_path: Path) -> None:
    for path, message in ((tmp_path, "it is a folder"), (tmp_path / "no.txt", "no such file")):
        with pytest.raises(UserError, match=message):
            read(config("joined"), path)
    with pytest.raises(ConfigError, match="nothing reads 'txt'; did you mean 'text'"):
        InputFiles(config("joined"), fields={"txt": "x"})


def test_texts_of_the_command_line() -> None:
    one, several = forms_of(config("classification")), forms_of(config("answers"))
    assert [e.values for e in from_arguments(["a", "b"], one)] == [{"text": "a"}, {"text": "b"}]
    [example] = from_arguments(["who?", "Ada"], several)
    assert example.values == {"question": "who?", "context": "Ada"}
    with pytest.raises(
        ConfigError, match="1 texts on the command line, and an example is question"
    ):
        from_arguments(["who?"], several)
    assert KINDS["classification"][2] is TABLE and Embedded in {type(s) for *_, s in KINDS.values()}
