"""`lm predict` as a process, and in this one, on runs that were never trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lm
from lm.cli import main as cli
from tests.conftest import RunLm
from tests.predict.runs import saved

TRANSLATE = ("--num_beams=2", "--max_new_tokens=5")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {kind: saved(kind, folder / kind) for kind in ("classification", "answers", "joined")}


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def predict(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    status = cli.main(["predict", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_labels_of_texts_as_lm_load_has_them(run_lm: RunLm, runs: dict[str, Path]) -> None:
    workdir, long = runs["classification"], "x" * 30
    done = run_lm("predict", f"--workdir={workdir}", "fine film", "no", long)
    assert done.returncode == 0, done.stderr
    found = lines(done.stdout)
    assert [set(answer) for answer in found[:2]] == [{"label", "probabilities"}] * 2
    assert "3 examples in" in done.stderr and "checkpoint step 0" in done.stderr
    assert "1 of 3 examples are longer than what the model reads: 8 tokens are left" in done.stderr
    expected = lm.load(workdir).predict(["fine film", "no", long])
    assert [answer["label"] for answer in found] == [answer["label"] for answer in expected]
    assert found[2]["left_out"] == expected[2]["left_out"] == 8


def test_answers_of_a_file_in_a_file(run_lm: RunLm, runs: dict[str, Path], tmp_path: Path) -> None:
    given, output = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    rows = [{"id": n, "query": "who?", "context": text} for n, text in enumerate(("It", "Ada is"))]
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run_lm("predict", f"--workdir={runs['answers']}", f"--input={given}",
                  f"--output={output}", "--field=question=query")  # fmt: skip
    assert done.returncode == 0 and not done.stdout, done.stderr
    found = lines(output.read_text())
    assert [answer["id"] for answer in found] == [0, 1]
    for row, answer in zip(rows, found, strict=True):
        assert answer["answer"] == str(row["context"])[answer["start"] : answer["end"]] != ""


def test_translations_of_lines(run_lm: RunLm, runs: dict[str, Path], tmp_path: Path) -> None:
    given = tmp_path / "test.en"
    given.write_text("two men .\na dog\n")
    done = run_lm("predict", f"--workdir={runs['joined']}", f"--input={given}", *TRANSLATE)
    assert done.returncode == 0, done.stderr
    found = lines(done.stdout)
    assert [set(answer) for answer in found] == [{"text", "score", "finish_reason"}] * 2
    cut = sum(answer["finish_reason"] == "length" for answer in found)
    assert (f"{cut} of 2 texts had no end after --max_new_tokens=5" in done.stderr) == (cut > 0)


def test_a_reader_at_a_terminal_gets_words(
    capsys: pytest.CaptureFixture[str], runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    status, out, _ = predict(capsys, f"--workdir={runs['classification']}", "fine film")
    rows = [line.split() for line in out.splitlines()]
    assert status == 0 and sorted(row[0] for row in rows) == ["bad", "good"]
    assert float(rows[0][1]) >= float(rows[1][1]) and set(rows[0][2]) == {"#"}
    question = ("who?", "Ada is")
    _, out, _ = predict(capsys, f"--workdir={runs['answers']}", *question)
    assert "(characters " in out
    more = ("--num_return_sequences=2", *TRANSLATE, "two men")
    _, out, _ = predict(capsys, f"--workdir={runs['joined']}", *more)
    assert out.startswith("-") and "{" not in out


WRONG: dict[str, tuple[str, tuple[str, ...], int, str]] = {
    "both": ("joined", ("--input=x", "text"), 2, "on the command line, or --input=, not both"),
    "field": ("joined", ("--input=x", "--field=text"), 2, "--field=text should be ROLE=NAME"),
    "role": ("joined", ("--input=x", "--field=txt=a"), 2, "nothing reads 'txt'; did you mean"),
    "alone": ("joined", ("--field=text=a", "text"), 2, "--field is of --input="),
    "nothing": ("joined", ("--input=",), 2, "--input= names no file"),
    "file": ("joined", ("--input=none.txt",), 1, "could not read none.txt: there is no such file"),
    "folder": ("joined", ("--output=.", "text"), 1, "--output=.: it is a folder"),
    "beams": ("joined", ("--length_penalty=1", "text"), 2, "give --num_beams with it"),
    "penalty": ("joined", ("--repetition_penalty=2", "x"), 2, "give --num_beams with it"),
    "search": ("classification", ("--num_beams=2", "x"), 2, "is for models that write texts"),
    "empty": ("joined", (" ",), 1, "argument 1: the text is empty"),
    "count": ("answers", ("who?",), 2, "an example is question and context"),
    "step": ("joined", ("--step=3", "x"), 1, "3"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(
    name: str, capsys: pytest.CaptureFixture[str], runs: dict[str, Path]
) -> None:
    kind, arguments, expected, message = WRONG[name]
    status, out, err = predict(capsys, f"--workdir={runs[kind]}", *arguments)
    assert (status, out) == (expected, ""), err
    assert message in err and "Traceback" not in err


def test_a_bad_line_is_named_and_nothing_is_left_behind(
    capsys: pytest.CaptureFixture[str], runs: dict[str, Path], tmp_path: Path
) -> None:
    given, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    given.write_text("two men\n\na dog\n")
    flags = (f"--workdir={runs['joined']}", f"--input={given}", f"--output={output}", *TRANSLATE)
    status, _, err = predict(capsys, *flags)
    assert status == 1 and f"{given}:2: the text is empty" in err
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]
    status, _, err = predict(capsys, f"--workdir={tmp_path}", "x")
    assert status == 1 and "no run in" in err
