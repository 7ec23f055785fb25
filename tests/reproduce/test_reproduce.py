"""`lm reproduce`: what is missing is run, once; verdicts, page and ledger come from the record."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lm.cli.main import main
from lm.reproduce import run as reproduce_run
from lm.reproduce.cell import Cell, CellResult
from lm.train.workdir import write_config, write_json

SMOKE = "experiments/quickstart.py:smoke"
PAPER: dict[str, Any] = {
    "title": "A <b>tiny</b> paper",
    "reference": "Somebody & others 2026 <script>alert(1)</script>",
    "deviations": ("smaller | narrower",),
    "runs": {"small": {"config": SMOKE, "seeds": (0, 1)}, "large": {"config": SMOKE}},
    "measures": {
        "loss": {"kind": "metric", "runs": ("small",)},
        "more": {"kind": "metric", "runs": ("large",), "take": "best"},
    },
    "claims": (
        {
            "id": "T1",
            "sentence": "The loss is 2, or 1 | 3.",
            "where": "Table <1>",
            "published": 2.0,
            "unit": "nats",
            "measure": "loss",
            "quantities": ("small",),
            "check": {"kind": "within", "tolerance": 0.5},
            "scale": "cpu",
            "figure": "curves",
        },
        {
            "id": "T2",
            "sentence": "On a GPU it is 1.",
            "where": "Table 2",
            "published": 1.0,
            "measure": "more",
            "quantities": ("large",),
            "check": {"kind": "at_most", "bound": 1.0},
            "scale": "gpu",
            "proxy": "a toy",
        },
    ),
    "figures": {
        "curves": {
            "kind": "curves",
            "measure": "loss",
            "title": "Loss <over> training",
            "published": {"loss": 2.0},
        },
    },
}


def write_paper(folder: Path, paper: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "claims.py").write_text(f"PAPER = {paper!r}\n")
    return folder


def write_run(cell: Cell, workdir: Path, steps: int = 4) -> Path:
    """What a finished run of the cell leaves, with a loss of 2 + a tenth of the seed."""
    config = cell.resolve()
    workdir.mkdir(parents=True)
    write_config(workdir, config)
    lines = [{"step": i, "split": "train", "loss": 5.0 - i} for i in range(1, steps + 1)]
    lines.append({"step": steps, "split": "text", "loss": 2.0 + cell.seed / 10})
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (workdir / "timing.jsonl").write_text('{"step": 4, "tokens_per_second": 256.0}\n')
    session = {"data_root": ".", "devices": ["cpu:cpu"], "git_commit": "c0ffee"}
    write_json(workdir / "manifest.json", {"sessions": [session]})
    return workdir


class Sweep:
    """In the place of `run_sweep`: writes runs at once, and remembers which it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status: dict[str, Any] = {}

    def __call__(
        self, cells: Sequence[Cell], workdir: Path, engine: str, **_: Any
    ) -> list[CellResult]:
        results = []
        for cell in cells:
            self.asked.append(cell.name)
            status = self.status.get(cell.name, "finished")
            place = workdir / cell.name
            if status == "finished" and not place.exists():
                write_run(cell, place)
            results.append(CellResult(cell, place, status, "5a" * 32, {}, 3.0, why="it broke"))
        return results


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> Sweep:
    found = Sweep()
    monkeypatch.setattr(reproduce_run, "run_sweep", found)
    monkeypatch.setattr("lm.reproduce.sweep_results.run_digest", lambda workdir: "d1" * 32)
    return found


@pytest.fixture
def lm(tmp_path: Path, sweep: Sweep) -> Callable[..., int]:
    """`lm reproduce` with its runs below the test's folder."""
    return lambda *arguments: main(["reproduce", f"--workdir={tmp_path / 'runs'}", *arguments])


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report" / "report.json").read_text())


# -------------------------------------------------------------------------------------- what is run


def test_what_is_measured_is_not_run_again(
    tmp_path: Path, lm: Callable[..., int], sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_paper(tmp_path / "paper", PAPER)
    assert lm(str(folder)) == 0
    assert sweep.asked == ["small-seed0", "small-seed1"], "the GPU's is not of this scale"
    said = capsys.readouterr().out
    assert "T1  reproduced: 2.05 (published 2, ± 0.5)" in said
    assert "T2  not run at this scale: - (published 1, ≤ 1)" in said
    first = (folder / "report" / "report.json").read_bytes()
    # Neither runs nor their folders are needed any more.
    (tmp_path / "runs").rename(tmp_path / "gone")
    assert lm(str(folder)) == 0
    assert len(sweep.asked) == 2 and (folder / "report" / "report.json").read_bytes() == first
    assert lm(str(folder), "--scale=gpu") == 0
    assert sweep.asked[2:] == ["large-seed0"]
    claims = record(folder)["claims"]
    assert [claim["verdict"] for claim in claims] == ["reproduced", "not reproduced"]
    assert claims[0]["values"] == [2.0, 2.1] and claims[0]["hardware"] and claims[0]["date"]


def test_other_claims_are_judged_anew_and_other_runs_run(
    tmp_path: Path, lm: Callable[..., int], sweep: Sweep
) -> None:
    folder = write_paper(tmp_path / "paper", PAPER)
    lm(str(folder))
    stricter = copy.deepcopy(PAPER)
    stricter["claims"][0]["check"]["tolerance"] = 0.01
    write_paper(folder, stricter)
    assert lm(str(folder)) == 0 and len(sweep.asked) == 2
    assert record(folder)["claims"][0]["verdict"] == "not reproduced"
    stricter["runs"]["small"]["seeds"] = (0, 1, 2)
    write_paper(folder, stricter)
    assert lm(str(folder)) == 0 and sweep.asked[2:] == [f"small-seed{i}" for i in range(3)]
    # Three seeds have an interval.
    assert record(folder)["claims"][0]["interval"] is not None
    stricter["runs"]["small"]["overrides"] = {"optimizer.learning_rate": 0.5}
    write_paper(folder, stricter)
    assert lm(str(folder)) == 0 and len(sweep.asked) == 8
    stricter["measures"]["loss"]["take"] = "best"
    write_paper(folder, stricter)
    assert lm(str(folder)) == 0 and len(sweep.asked) == 11


def test_a_field_that_came_since_makes_no_other_run(
    tmp_path: Path, lm: Callable[..., int], sweep: Sweep
) -> None:
    folder = write_paper(tmp_path / "paper", PAPER)
    lm(str(folder))
    old = record(folder)
    for cell in old["measures"]["loss"]["cells"]:
        # As it was written before there were these.
        del cell["config"]["data"]["segments"]
        cell["config"]["train"]["log_every"] = 77
    write_json(folder / "report" / "report.json", old)
    assert lm(str(folder)) == 0 and len(sweep.asked) == 2
    old["measures"]["loss"]["cells"][0]["config"]["optimizer"]["clip_norm"] = 2.0
    write_json(folder / "report" / "report.json", old)
    # Nothing is judged by runs of another config, nor drawn.
    assert lm(str(folder), "--check") == 0
    assert record(folder)["claims"][0]["verdict"] == "not run yet"
    assert "<svg" not in (folder / "report" / "report.html").read_text()
    assert "loss" in record(folder)["measures"], "it stays until it is run again"
    assert lm(str(folder)) == 0 and len(sweep.asked) == 4


def test_what_was_measured_before_a_failure_stays(
    tmp_path: Path, lm: Callable[..., int], sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_paper(tmp_path / "paper", PAPER)
    sweep.status["large-seed0"] = "failed"
    assert lm(str(folder), "--scale=gpu") == 1
    assert "1 of 1 runs failed" in (said := capsys.readouterr().err) and "it broke" in said
    assert [claim["verdict"] for claim in record(folder)["claims"]] == ["reproduced", "not run yet"]
    # Killed on the way: the same command goes on, with what is missing.
    sweep.status["large-seed0"] = "stopped"
    assert lm(str(folder), "--scale=gpu") == 75
    sweep.status.clear()
    assert lm(str(folder), "--scale=gpu") == 0
    assert sweep.asked == ["small-seed0", "small-seed1", *["large-seed0"] * 3]


def test_a_run_that_was_done_elsewhere(
    tmp_path: Path, lm: Callable[..., int], sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_paper(tmp_path / "paper", PAPER)
    done = write_run(Cell("x", SMOKE, {}, 1), tmp_path / "elsewhere")
    use = f"--use=small-seed1={done}"
    assert lm(str(folder), use) == 0 and sweep.asked == ["small-seed0"]
    cells = record(folder)["measures"]["loss"]["cells"]
    assert [cell["state_digest"][:2] for cell in cells] == ["5a", "d1"]
    # 4 steps of 8 rows of 32 tokens, at 256 a second
    assert cells[1]["seconds"] == 4.0
    assert str(tmp_path) not in json.dumps(record(folder)), "a folder of this machine"

    other = write_paper(tmp_path / "other", PAPER)
    assert lm(str(other), f"--use=small-seed0={done}") == 2
    assert "is of another config:\n  seed: 0, there 1" in capsys.readouterr().err
    half = write_run(Cell("x", SMOKE, {}, 0), tmp_path / "half", steps=2)
    assert lm(str(other), f"--use=small-seed0={half}") == 1
    assert "the run is at step 2 of 4" in capsys.readouterr().err
    assert lm(str(other), "--use=smal-seed0=x") == 2
    assert "has no run 'smal-seed0'; did you mean 'small-seed0'?" in capsys.readouterr().err


def test_one_real_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way, with the sweep and its process."""
    paper = copy.deepcopy(PAPER)
    paper["runs"]["small"]["seeds"] = (3,)
    paper["measures"]["loss"]["split"] = "embedded"
    paper["figures"]["curves"]["splits"] = ("embedded",)
    # What reads the trained model.
    lengths = {"times": (1, 2), "interpolated": ("small",), "split": "embedded"}
    paper["measures"]["longer"] = {"kind": "lengths", "runs": ("small",), **lengths}
    order = {"kind": "ordered", "direction": "rising"}
    longer = {"measure": "longer", "quantities": ("small-x1", "small-pi-x2"), "check": order}
    paper["claims"] += ({**paper["claims"][0], **longer, "id": "T3", "figure": None},)
    folder = write_paper(tmp_path / "paper", paper)
    runs = tmp_path / "runs"
    assert main(["reproduce", str(folder), f"--workdir={runs}"]) == 0
    found = record(folder)
    assert found["claims"][0]["verdict"] == "not reproduced" and found["claims"][0]["mean"] > 4
    perplexities = found["measures"]["longer"]["quantities"]
    assert set(perplexities) == {"small-x1", "small-x2", "small-x2-ratio", "small-pi-x2"}
    (once,), (twice,), (ratio,), (slowed,) = perplexities.values()
    assert 100 < once < 400 and ratio == twice / once and slowed not in (once, twice)
    (cell,) = found["measures"]["loss"]["cells"]
    assert (
        cell["command"] == f"lm train --config={SMOKE} --config.seed=3 --workdir=runs/small-seed3"
    )
    assert cell["config"]["seed"] == 3 and len(cell["state_digest"]) == 64
    assert cell["curves"]["embedded"]["loss"][0] == [2, 4]
    assert (runs / "paper" / "small-seed3" / "metrics.jsonl").is_file()
    page = (folder / "report" / "report.html").read_text()
    assert cell["command"] in page and cell["config_digest"] in page


# --------------------------------------------------------------------------------------- the page


class Checked(HTMLParser):
    """Tags that open and close, and what a browser would load."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        values = dict(attrs)
        for name in ("src", "href", "xlink:href", "data", "action", "srcset"):
            if values.get(name) is not None and not str(values[name]).startswith("#"):
                self.loaded.append(f"{tag} {name}={values[name]}")
        if "id" in values:
            self.ids.append(str(values["id"]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def checked(page: str) -> Checked:
    parser = Checked()
    parser.feed(page)
    parser.close()
    assert not parser.open, parser.open
    assert not parser.loaded, parser.loaded
    assert len(parser.ids) == len(set(parser.ids)), "two parts of the page have one id"
    assert "script" not in parser.seen and "link" not in parser.seen
    assert "@import" not in page and "url(http" not in page and "url(/" not in page
    return parser


def test_the_page_is_whole_escaped_and_loads_nothing(
    tmp_path: Path, lm: Callable[..., int]
) -> None:
    folder = write_paper(tmp_path / "paper", PAPER)
    lm(str(folder))
    path = folder / "report" / "report.html"
    page = path.read_text()
    parser = checked(page)
    assert parser.seen.count("svg") == 1
    assert "A &lt;b&gt;tiny&lt;/b&gt; paper" in page and "<b>" not in page
    assert "&lt;script&gt;" in page
    for words in ("reproduced", "not run at this scale", "Table &lt;1&gt;", "published loss: 2",
                  "step (optimiser updates)", "loss (nats per token)", "Proxy: a toy",
                  "small-seed0", "lm reproduce", "c0ffee", "smaller | narrower"):  # fmt: skip
        assert words in page, words
    for cell in record(folder)["measures"]["loss"]["cells"]:
        assert cell["command"] in page
    # Made anew from the record, it is the same; without the runs.
    (tmp_path / "runs").rename(tmp_path / "gone")
    assert lm(str(folder), "--check") == 0
    assert path.read_text() == page


def test_check_runs_nothing(tmp_path: Path, lm: Callable[..., int], sweep: Sweep) -> None:
    folder = write_paper(tmp_path / "paper", PAPER)
    assert lm(str(folder), "--check") == 0 and not sweep.asked
    verdicts = [claim["verdict"] for claim in record(folder)["claims"]]
    assert verdicts == ["not run yet", "not run at this scale"]
    page = (folder / "report" / "report.html").read_text()
    checked(page)
    # What would have to be typed.
    assert "nothing measured yet" in page and f"--config={SMOKE} --config.seed=0" in page


# -------------------------------------------------------------------------------------- the ledger


def test_the_ledger_is_made_of_the_records(
    tmp_path: Path, lm: Callable[..., int], sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    root, ledger = tmp_path / "experiments", tmp_path / "REPRODUCTIONS.md"
    write_paper(root / "one", PAPER)
    broken = copy.deepcopy(PAPER)
    broken["runs"]["small"]["config"] = "experiments/quickstart.py:nonsense"
    write_paper(root / "another", broken)
    # One that cannot be run keeps no other from it.
    assert lm("--all", str(root), f"--ledger={ledger}") == 1
    assert "no variant 'nonsense'" in capsys.readouterr().err
    assert sweep.asked == ["small-seed0", "small-seed0", "small-seed1"], "another's, one's"
    text = ledger.read_text()
    assert text.index("experiments/another`") < text.index("experiments/one`"), "by name"
    rows = [line for line in text.splitlines() if line.startswith("| **T")]
    assert len(rows) == 4
    # The bar of a sentence is no border of a cell.
    assert {row.replace("\\|", "").count("|") for row in rows} == {11}
    assert "**reproduced**" in rows[2] and "2 [" not in rows[2] and "2.05 (2 seeds)" in rows[2]
    assert "not run yet" in rows[0] and "not run at this scale" in rows[3]
    assert "[report](experiments/one/report/report.html)" in text and "&lt;b>tiny" in text
    assert "4 claims: 1 reproduced, 2 not run at this scale, 1 not run yet." in text
    # Papers that are done are not run again, and the same records give the same ledger.
    assert lm("--all", str(root), f"--ledger={ledger}") == 1 and len(sweep.asked) == 4
    assert lm("--all", str(root), f"--ledger={ledger}", "--check") == 0
    assert ledger.read_text() == text


# -------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "takes one folder of a paper"),
        (["a", "b"], 2, "takes one folder of a paper"),
        (["--all", "a", "b"], 2, "--all takes one folder of papers"),
        (["--all", "--output=x"], 2, "--output is for one paper"),
        (["--all", "--use=a=b"], 2, "--use is for one paper"),
        (["nowhere"], 1, "has no claims.py"),
        (["--scale=tpu", "a"], 2, "scale"),
        (["a", "--ledger=x"], 2, "--ledger is written by --all"),
        (["a", "--use=x"], 2, "write --use=RUN=WORKDIR"),
        (["a", "--use=x=y", "--check"], 2, "leave --use out"),
    ],
)
def test_command_lines(
    lm: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    assert lm(*arguments) == status
    assert words in capsys.readouterr().err


def test_a_record_that_is_none(
    tmp_path: Path, lm: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_paper(tmp_path / "paper", PAPER)
    (folder / "report").mkdir()
    path = folder / "report" / "report.json"
    for text in ("{", "[]", '{"format": 99}', "{}"):
        path.write_text(text)
        assert lm(str(folder), "--check") == 1
        assert str(path) in capsys.readouterr().err
        assert path.read_text() == text, "somebody's file"
