"""Examples from every format, and what is said of files that are wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds

from lm.config import Embedded, ExampleFiles, Roles, TfdsDataset
from lm.data.examples_read import Example, read_examples
from lm.errors import ConfigError, UserError

TEXT = Roles(("text",), ("text_pair",), ("label",))
ANSWERS = Roles(("question", "context"), (), ("answers",))
WORDS = Roles(("words",), (), ("tags",))


def read(tmp_path: Path, content: str | bytes, roles: Roles = TEXT, **settings: Any) -> Any:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "data").write_bytes(data)
    source = ExampleFiles(paths=("data",), **settings)
    return [(e.place.rsplit("data", 1)[-1], dict(e.values))
            for e in read_examples(source, roles, tmp_path)]  # fmt: skip


def test_jsonl_keeps_json_s_values(tmp_path: Path) -> None:
    lines = '{"sentence": "a b", "label": 1}\n\n{"sentence": "c", "label": ["x"]}\n'
    fields = {"text": "sentence"}
    assert read(tmp_path, lines, fields=fields) == [
        (":1", {"text": "a b", "label": 1}),
        (":3", {"text": "c", "label": ["x"]}),
    ]


def test_tsv_quotes_nothing_and_columns_have_names_or_numbers(tmp_path: Path) -> None:
    table = 'id\tsentence\tlabel\n7\t"it\t0\n8\t it" \t1\n'
    given = {"text": "sentence", "id": 0}
    assert read(tmp_path, table, format="tsv", header=True, fields=given) == [
        (":2", {"text": '"it', "label": "0", "id": "7"}),
        (":3", {"text": ' it" ', "label": "1", "id": "8"}),
    ]
    numbers = {"text": 1, "label": 0}
    more = {"separator": " ", "most_columns": 2, "encoding": "latin-1"}
    found = read(
        tmp_path, "3 Où est-il ?\n".encode("latin-1"), format="tsv", fields=numbers, **more
    )
    assert found == [(":1", {"text": "Où est-il ?", "label": "3"})]


def test_csv_cells_may_hold_separators_quotes_and_lines(tmp_path: Path) -> None:
    table = 'label,review\r\n1,"a ""b"",\nc"\r\n0,d\r\n'
    found = read(tmp_path, table, format="csv", header=True, fields={"text": "review"})
    assert found == [
        (":2", {"text": 'a "b",\nc', "label": "1"}),
        (":4", {"text": "d", "label": "0"}),
    ]


def test_columns_are_sentences(tmp_path: Path) -> None:
    text = "-DOCSTART- O\n\nAda NNP B\nwrote VBD O\n\n\nAll DT O"
    found = read(tmp_path, text, WORDS, format="columns", fields={"words": 0, "tags": 2})
    assert found == [
        (":3", {"words": ["Ada", "wrote"], "tags": ["B", "O"]}),
        (":7", {"words": ["All"], "tags": ["O"]}),
    ]


def test_squad(tmp_path: Path) -> None:
    answer = {"text": "Ada", "answer_start": 0}
    questions = [
        {"id": "q1", "question": "who?", "answers": [answer]},
        {"id": "q2", "question": "why?", "answers": [answer], "is_impossible": True},
    ]
    content = {"data": [{"paragraphs": [{"context": "Ada wrote.", "qas": questions}]}]}
    (_, first), (place, second) = read(tmp_path, json.dumps(content), ANSWERS, format="squad")
    assert first == {"id": "q1", "question": "who?", "context": "Ada wrote.", "answers": [answer]}
    assert second["answers"] == [] and place == ": question 'q2'"


def test_squad_to_be_answered_has_no_answers(tmp_path: Path) -> None:
    qas = [{"id": "q1", "question": "who?"}]
    content = json.dumps({"data": [{"paragraphs": [{"context": "Ada wrote.", "qas": qas}]}]})
    asked = Roles(ANSWERS.inputs, (), ())
    [(_, values)] = read(tmp_path, content, asked, format="squad")
    assert values == {"id": "q1", "question": "who?", "context": "Ada wrote."}
    with pytest.raises(UserError, match="no 'answers'"):
        read(tmp_path, content, ANSWERS, format="squad")


def test_long_cells_of_csv_change_nothing_elsewhere(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    content = f'"{"x" * (before + 1)}",0\nb,1\n'
    found = read(tmp_path, content, format="csv", fields={"text": 0, "label": 1})
    assert len(found[0][1]["text"]) == before + 1 and csv.field_size_limit() == before


def test_a_fraction_is_one_of_examples(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": str(n), "label": 0}) + "\n" for n in range(10))
    parts = [read(tmp_path, lines, fraction=part) for part in ((0.0, 0.75), (0.75, 1.0))]
    assert [len(part) for part in parts] == [8, 2] and parts[1][0][1]["text"] == "8"
    with pytest.raises(UserError, match=r"no examples in the fraction \(0.0, 0.01\)"):
        read(tmp_path, lines, fraction=(0.0, 0.01))


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "json": ("{", {}, r"data:1 is not JSON"),
    "array": ("[1]", {}, r"data:1 is a JSON list"),
    "field": ('{"txt": "a", "label": 1}', {}, r"data:1 has no field 'text'; did you mean 'txt'"),
    "column": ("a\tlabel\n", {"format": "tsv", "header": True}, "data:1 has no column 'text'"),
    "few": (
        "a\n",
        {"format": "tsv", "fields": {"text": 0, "label": 1}},
        "data:1 has 1 columns, and the label should be number 1",
    ),
    "quotes": (
        'a,0\n"b"c,0\n',
        {"format": "csv", "fields": {"text": 0, "label": 1}},
        "data:2 is no csv",
    ),
    "empty": ("\n", {}, "has no examples"),
    "squad": ('{"data": [{}]}', {"format": "squad"}, "no 'paragraphs'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_with_its_line(name: str, tmp_path: Path) -> None:
    content, settings, message = WRONG[name]
    with pytest.raises(UserError, match=message):
        read(tmp_path, content, **settings)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"format": "tsv", "fields": {"text": "a"}}, "set header=True"),
    ({"fields": {"text": 0}}, "0 is no key"),
    ({"header": True}, "header says nothing of format='jsonl'"),
    ({"format": "csv", "separator": "ab"}, "one character"),
    ({"format": "squad", "fields": {"question": "q"}}, "leave fields out"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_settings_that_mean_nothing(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExampleFiles(paths=("x",), **settings)


def test_columns_without_a_header_need_numbers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which column .* is text and label"):
        read(tmp_path, "a\t0\n", format="tsv")


class Reviews(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "review": tfds.features.Text(),
                "label": tfds.features.ClassLabel(names=["neg", "pos"]),
                "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "N"])),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, text in enumerate(("好 film", "no")):
            yield number, {"review": text, "label": number, "tags": [0, 1]}


def test_tfds_records_are_examples_with_the_names_of_their_labels(tmp_path: Path) -> None:
    Reviews(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    source = TfdsDataset(name="reviews", fields={"text": "review"})
    found = read_examples(source, TEXT, tmp_path)
    assert [e.values for e in found] == [
        {"text": "好 film", "label": "neg"},
        {"text": "no", "label": "pos"},
    ]
    words = TfdsDataset(name="reviews", fields={"words": "review"})
    assert read_examples(words, WORDS, tmp_path)[0].values["tags"] == ["O", "N"]
    with pytest.raises(UserError, match="has no field 'text'"):
        read_examples(TfdsDataset(name="reviews", fields={"label": "label"}), TEXT, tmp_path)


def test_embedded_examples_have_what_every_task_asks_for(tmp_path: Path) -> None:
    for roles in (ANSWERS, Roles(("text", "choices"), (), ("label",))):
        found = read_examples(Embedded(examples=True, fraction=(0.0, 0.01)), roles, tmp_path)
        assert len(found) > 20 and isinstance(found[0], Example)
        assert set(found[0].values) == {*roles.inputs, *roles.targets}
