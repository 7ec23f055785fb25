"""`lm report`: runs side by side."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lm.cli.main import main
from lm.config import Config, from_dict
from lm.train.experiment import experiment_values
from lm.train.workdir import read_json, write_config, write_json
from tests.reproduce.test_reproduce import checked


def make(path: Path, rate: float, *, seed: int = 0) -> Path:
    path.mkdir(parents=True)
    values = experiment_values("experiments/quickstart.py:smoke")
    values["optimizer"]["learning_rate"], values["seed"] = rate, seed
    write_config(path, from_dict(Config, values))
    rows = [
        {"step": i, "split": "train", "loss": 5 - rate * i, "gradient_norm": 1.0 / i,
         "learning_rate": rate}
        for i in range(1, 400)
    ]  # fmt: skip
    rows.append({"step": 399, "split": "text", "loss": 3.125 - rate, "accuracy": 0.25})
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    timing = [{"step": i, "tokens_per_second": 1000.0 + i, "mfu_palm": 0.5} for i in range(9)]
    (path / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in timing))
    session = {
        "data_root": ".",
        "started": "2026-11-23",
        "from_step": 0,
        "command": ["lm", "train", "--config=<x>.py"],
        "devices": ["cpu:cpu"],
        "git_commit": "abc",
        "versions": {"jax": "0.1"},
    }
    write_json(path / "manifest.json", {"sessions": [session]})
    return path


def test_two_runs(tmp_path: Path) -> None:
    runs = [make(tmp_path / "a" / "run", 0.001), make(tmp_path / "b" / "run", 0.002, seed=5)]
    path = tmp_path / "report.html"
    assert main(["report", f"--output={path}", *map(str, runs)]) == 0
    page = path.read_text()
    parser = checked(page)
    # Training loss, validation loss, gradient norm, learning rate, throughput
    assert parser.seen.count("svg") == 5
    # Folders of one name are told apart by their parents'.
    assert "a/run" in page and "b/run" in page
    for words in ("3.124", "3.123", "1,004", "50.0 %", "optimizer.learning_rate", "0.001", "0.002",
                  "tokens per second", "loss (nats per token)", "step (optimiser updates)",
                  "lm train &#x27;--config=&lt;x&gt;.py&#x27;"):  # fmt: skip
        assert words in page, words
    # Only what differs is a row.
    differs = page[page.index("What differs") : page.index("<h2>Runs")]
    assert "<code>5</code>" in differs and "d_model" not in differs
    assert main(["report", f"--output={path}", *map(str, runs)]) == 0
    assert path.read_text() == page


def test_one_run_has_nothing_to_differ_from(tmp_path: Path) -> None:
    run = make(tmp_path / "run", 0.001)
    path = tmp_path / "report.html"
    assert main(["report", f"--output={path}", str(run)]) == 0
    assert "What differs" not in path.read_text()
    checked(path.read_text())


def test_samples_over_time(tmp_path: Path) -> None:
    runs = [make(tmp_path / name, 0.001) for name in ("short", "long", "silent")]
    said = [
        (10, "Once", "a <b> time\n"),
        (10, "", "x"),
        (20, "Once", "upon"),
        (20, "New", "prompt"),
    ]
    rows = [{"step": step, "prompt": p, "text": t, "finish_reason": "eos"} for step, p, t in said]
    write = "".join(json.dumps(row) + "\n" for row in rows)
    (runs[0] / "samples.jsonl").write_text(write)
    many = [{"step": i, "prompt": "P", "text": f"said-{i}."} for i in range(1, 101)]
    (runs[1] / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    path = tmp_path / "report.html"
    assert main(["report", f"--output={path}", *map(str, runs)]) == 0
    page = path.read_text()
    checked(page)
    part = page[page.index("<h2>Samples over time") : page.index("<h2>Config")]
    assert "silent" not in part
    short, long = part[: part.index("<h3>long")], part[part.index("<h3>long") :]
    heads = ["step", "Once", "(after nothing)", "New"]
    found = re.findall(r"<th[^>]*>([^<]*)</th>", short)
    assert found == heads
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", short)
    assert cells == ["10", "a &lt;b&gt; time\n", "x", "–", "20", "upon", "–", "prompt"]
    assert "said-1." in long and "said-100." in long and long.count("said-") == 12
    assert "12 of 100 evaluations; samples.jsonl has them all." in long and "12 of" not in short


def test_commits_say_what_was_not_committed(tmp_path: Path) -> None:
    run = make(tmp_path / "run", 0.001)
    sessions = read_json(run / "manifest.json")["sessions"]
    sessions[0]["git_commit"] = "0123456789abcdef0123456789abcdef01234567+changes"
    write_json(run / "manifest.json", {"sessions": sessions})
    path = tmp_path / "report.html"
    assert main(["report", f"--output={path}", str(run)]) == 0
    assert "<code>0123456789+changes</code>" in path.read_text()


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run", 0.001)
    output = f"--output={tmp_path / 'x.html'}"
    for arguments, status, words in (
        ([output], 2, "takes the folders of runs"),
        ([output, str(tmp_path / "none")], 1, "there is no such folder"),
        ([output, str(run), f"{run}/."], 2, "a run is named twice"),
        ([f"--output={tmp_path / 'no' / 'x.html'}", str(run)], 1, "could not write"),
    ):
        assert main(["report", *arguments]) == status
        assert words in capsys.readouterr().err
    (run / "metrics.jsonl").unlink()
    assert main(["report", output, str(run)]) == 1
    assert "took no step yet" in capsys.readouterr().err
