"""`lm evaluate` of answers on the command line: metrics, intervals, what needs no model, a page."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.cli.main import main
from lm.config import ExampleFiles
from lm.evaluate.answers_page import evaluation_page
from lm.train.workdir import load_run, read_config, write_config
from tests.evaluate.test_html import read
from tests.predict.runs import saved

FILMS = ["a fine film", "fine <b>& good</b>", "no film", "bad", "so bad it is fine", "good good"]
LABELS = ["good", "good", "bad", "bad", "bad", "good"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The training data of the classifier, and a file to measure it on."""
    for name, count in (("train.tsv", 5), ("dev.tsv", 6)):
        rows = [f"{text}\t{label}" for text, label in zip(FILMS[:count], LABELS)]
        (tmp_path / name).write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return tmp_path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [("Ein Hund. Er lief.", ["A dog ran."]), ("zwei", ["two", "2"]), ("Drei", ["three"])]
    for name, lines in (("train.jsonl", rows), ("dev.jsonl", rows[:2])):
        content = [json.dumps({"source": s, "target": t}) for s, t in lines]
        (tmp_path / name).write_text("\n".join(content) + "\n")
    return tmp_path


def evaluate(capsys: Any, workdir: Path, root: Path, *flags: str) -> dict[str, Any]:
    capsys.readouterr()
    status = main(["evaluate", f"--workdir={workdir}", f"--data_root={root}", *flags])
    said = capsys.readouterr()
    assert status == 0, said.err
    return json.loads(said.out)


def with_data(workdir: Path, **settings: Any) -> None:
    """Changes what the run's config says of its data."""
    config = read_config(workdir)
    data = dataclasses.replace(config.data, **settings)
    write_config(workdir, dataclasses.replace(config, data=data))


def test_a_classifier_beside_the_most_frequent_label(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = saved("classification", tmp_path / "run")
    page, lines = tmp_path / "page.html", tmp_path / "lines.jsonl"
    found = evaluate(
        capsys, workdir, table, "--input=dev.tsv", "--baseline", f"--page={page}",
        f"--predictions={lines}", "--resamples=50",
    )  # fmt: skip
    result = found["splits"]["dev.tsv"]
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["example"]["text"] for row in rows] == FILMS
    assert [row["expected"]["label"] for row in rows] == LABELS
    right = [row["expected"]["label"] == row["predicted"]["label"] for row in rows]
    assert result["accuracy"] == np.mean(right) and result["examples"] == 6
    low, high = result["intervals"]["accuracy"]
    assert 0 <= low <= result["accuracy"] <= high <= 1
    assert result["loss"] == pytest.approx(
        -np.mean([np.log(row["predicted"]["probabilities"][row["expected"]["label"]])
                  for row in rows]), rel=1e-4)  # fmt: skip
    # Three of five training examples are bad, three of six here.
    assert result["baseline"]["accuracy"] == 0.5 and "'bad'" in result["baseline"]["what"]
    assert result["baseline"]["loss"] == pytest.approx(-(np.log(3.5 / 6) + np.log(2.5 / 6)) / 2)
    assert np.sum(result["confusion"]["actual_by_predicted"]) == 6
    assert result["classes"]["good"]["examples"] == 3
    assert set(result["measured_by"]) == {"accuracy", "f1", "f1_macro", "matthews", "calibration"}
    # It is kept, beside what was kept before.
    kept = json.loads((workdir / "eval" / f"{found['step']}.json").read_text())
    assert kept == found
    again = evaluate(capsys, workdir, table, "--input=train.tsv", "--metrics=f1_macro")
    assert set(again["splits"]) == {"train.tsv"} and "accuracy" in again["splits"]["train.tsv"]
    kept = json.loads((workdir / "eval" / f"{found['step']}.json").read_text())
    assert set(kept["splits"]) == {"dev.tsv", "train.tsv"}

    words = read(page.read_text())
    said = "".join(words.text)
    for word in ("95 % interval", "without a model", "Most confident errors", "Calibration",
                 f"--predictions={lines}"):  # fmt: skip
        assert word in said, word
    wrong = [text for text, good in zip(FILMS, right) if not good]
    assert wrong and all(text in said for text in wrong)


def test_texts_with_beams_all_references_and_a_first_sentence(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, page = saved("joined", tmp_path / "run"), tmp_path / "page.html"
    lines = tmp_path / "lines.jsonl"
    found = evaluate(
        capsys, workdir, pairs, "--input=dev.jsonl", "--num_beams=2", "--length_penalty=0.5",
        "--metrics=chrf:word_order=2,bleu_tokenised,exact_match", "--baseline",
        f"--page={page}", f"--predictions={lines}", "--resamples=20",
    )["splits"]["dev.jsonl"]  # fmt: skip
    assert found["search"]["num_beams"] == 2 and found["search"]["length_penalty"] == 0.5
    assert found["measured_by"]["chrf"] == {"word_order": 2}
    assert {"chrf", "bleu_tokenised", "exact_match", "loss", "perplexity"} <= found.keys()
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert rows[1]["expected"] == {"texts": ["two", "2"]} and "score" in rows[1]["predicted"]
    # Targets are half as long as sources, or more.
    assert found["baseline"]["what"] == "the source itself"
    assert "Worst outputs" in "".join(read(page.read_text()).text)
    alone = evaluate(capsys, workdir, pairs, "--input=dev.jsonl", "--metrics=loss")
    assert "chrf" not in alone["splits"]["dev.jsonl"] and "loss" in alone["splits"]["dev.jsonl"]


@pytest.mark.parametrize(
    ("kind", "example", "figures"),
    [
        ("tags", {"words": ["Ada", "is"], "tags": ["N", "O"]}, {"word_accuracy"}),
        ("answers", {"question": "who?", "context": "It was Ada who ran.",
                     "answers": [{"text": "Ada", "answer_start": 7}]}, {"exact_match", "f1"}),
        ("reply", {"messages": [{"role": "user", "content": "hi"},
                                {"role": "assistant", "content": "ho"}]}, {"exact_match"}),
    ],
)  # fmt: skip
def test_other_answers(
    kind: str, example: dict[str, Any], figures: set[str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    workdir, page = saved(kind, tmp_path / "run"), tmp_path / "page.html"
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(example)}\n" * 3)
    # Relative to the folder that the command runs in, too.
    flags = ("--resamples=10", f"--page={page}", "--max_new_tokens=4")
    found = evaluate(capsys, workdir, tmp_path, f"--input={tmp_path}/a.jsonl",
                     *(flags if kind == "reply" else flags[:2]))  # fmt: skip
    [(name, result)] = found["splits"].items()
    assert name == f"{tmp_path}/a.jsonl" and result["examples"] == 3
    assert figures <= result.keys() and figures <= result["intervals"].keys()
    read(page.read_text())


def test_what_is_dropped_has_neither_a_loss_nor_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("fine", "good"), ("x" * 30, "bad"), ("no", "bad")]
    for name, lines in (("a.tsv", rows), ("b.tsv", rows[::2])):
        text = "".join(f"{text}\t{label}\n" for text, label in lines)
        (tmp_path / name).write_text(f"sentence\tlabel\n{text}")
    pairs = [("fine", "gut"), ("x" * 30, "lang"), ("no", "nein"), ("short", "y" * 30)]
    for name, some in (("a.jsonl", pairs), ("b.jsonl", pairs[:3:2])):
        lined = [json.dumps({"source": s, "target": t}) for s, t in some]
        (tmp_path / name).write_text("\n".join(lined))
    for kind, ending, dropped in (("classification", "tsv", 1), ("joined", "jsonl", 2)):
        workdir = saved(kind, tmp_path / kind)
        with_data(workdir, too_long="drop")
        flags = ("--resamples=0", *(() if ending == "tsv" else ("--metrics=exact_match",)))
        found, alone = (
            evaluate(capsys, workdir, tmp_path, f"--input={name}.{ending}", *flags)["splits"]
            for name in "ab"
        )
        whole, short = found[f"a.{ending}"], alone[f"b.{ending}"]
        assert whole.pop("examples_dropped") == dropped and "examples_cut" not in whole
        kept = ("examples", "loss", "accuracy", "exact_match", "answers_cut")
        for name in {*kept} & whole.keys():
            assert whole[name] == pytest.approx(short[name], rel=1e-5), name


def test_conversations_that_are_too_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They end nothing: what is asked is dropped, or read from its newest messages, and said."""
    workdir = saved("reply", tmp_path / "run")
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    lines = [talk, [{"role": "user", "content": "z" * 40}, *talk[1:]], talk]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"messages": m}) for m in lines))
    flags = (f"--workdir={workdir}", f"--data_root={tmp_path}", "--metrics=exact_match",
             "--max_new_tokens=3", "--resamples=0")  # fmt: skip
    for too_long in ("drop", "cut"):
        with_data(workdir, too_long=too_long)
        capsys.readouterr()
        assert main(["evaluate", *flags, "--input=a.jsonl"]) == 0
        said = capsys.readouterr()
        result = json.loads(said.out)["splits"]["a.jsonl"]
        # Its answer is beyond the row, so that there is nothing to learn of it either way.
        assert (result["examples"], result["examples_dropped"]) == (2, 1)
        assert "1 of 3 examples are longer than a row and are dropped" in said.err
    dev = ExampleFiles(paths=("a.jsonl",), fields={"messages": "messages"})
    with_data(workdir, too_long="error", validation={"dev": dev})
    assert main(["evaluate", *flags]) == 1
    assert "a.jsonl:2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        ([], 1, "has no data.validation to evaluate on"),
        (["--split=dev"], 1, "has no data.validation"),
        (["--input=dev.tsv", "--split=dev"], 2, "--split=dev is not in data.validation"),
        (["--input=none.tsv"], 1, "no file matches 'none.tsv' below the data root"),
        (["--input="], 2, "--input= or --target= names no file"),
        (["--target=dev.tsv"], 1, "has no data.validation"),
        (["--input=dev.tsv", "--target=dev.tsv"], 2, "are in one file: leave --target out"),
        (["--input=dev.tsv", "--metrics=blue"], 2, "'blue' is no metric of classification"),
        (["--input=dev.tsv", "--metrics="], 2, "--metrics= names none"),
        (["--input=dev.tsv", "--metrics=accuracy:bins"], 2, "an option is written"),
        (["--input=dev.tsv", "--num_beams=2"], 2, "is for models that write texts"),
        (["--input=dev.tsv", "--length_penalty=2"], 2, "give --num_beams with it"),
        (["--input=dev.tsv", "--metrics=loss", "--baseline"], 2, "there are to be none"),
        (["--input=dev.tsv", "--metrics=loss", "--predictions=x"], 2, "--predictions are of"),
        (["--input=odd.tsv"], 1, "the label 'wide' is not in objective.labels"),
        (["--input=dev.tsv", "--page=none/page.html"], 1, "none is no folder"),
        (["--input=dev.tsv", "--page=a", "--predictions=a"], 2, "are the same file, a"),
        # Before anything is read.
        (["--input=none.tsv", "--predictions=" + "x" * 300], 1, "could not write --predictions="),
        (["--input=none.tsv", "--predictions=x", "--metrics=loss"], 2, "--predictions are of"),
    ],
)
def test_what_is_wrong_is_said(
    flags: list[str], status: int, said: str, table: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (table / "odd.tsv").write_text("sentence\tlabel\na film\twide\n")
    workdir = saved("classification", tmp_path / "run")
    data = [f"--data_root={table}"]
    assert main(["evaluate", f"--workdir={workdir}", *data, *flags]) == status
    message = capsys.readouterr().err
    assert said in message and "Traceback" not in message


def test_a_language_model_has_no_answers_to_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = saved("continuation", tmp_path / "run")
    (tmp_path / "a.txt").write_text("some text to measure\n" * 20)
    flags = [f"--workdir={workdir}", f"--data_root={tmp_path}", "--input=a.txt"]
    assert main(["evaluate", *flags, "--metrics=accuracy"]) == 2
    assert "objective 'causal_lm' has none to measure" in capsys.readouterr().err
    # Its page has what there is.
    split = {"loss": 1.5, "perplexity": 4.48, "tokens": 20, "baseline": {"loss": 2.5}}
    page = read(evaluation_page(load_run(workdir), {"a.txt": split}, {}, ["lm", "evaluate"]))
    assert {"perplexity", "4.48", "2.5", "without a model"} <= set(page.text)
