"""`lm reproduce`: what is missing is run, once; verdicts, page and ledger come from the record."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lm.cli.main import main
from lm.data.roots import cache_root
from lm.errors import UserError
from lm.reproduce import run as reproduce_run
from lm.reproduce.cell import Cell, CellResult
from lm.reproduce.claims import load_paper
from lm.reproduce.finished import DataNow, Prints, finished
from lm.reproduce.measures import Found
from lm.reproduce.measures.gradients import NormPlacement
from lm.reproduce.record import commands, entry, read_record, short_commit, write_record
from lm.train.checkpoint import Checkpoints
from lm.train.workdir import read_json, write_config, write_json

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
        cell["config"]["data"]["prefetch"] = 77
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of the paper's config: 4 steps, with checkpoints of 2 and 4."""
    workdir = tmp_path_factory.mktemp("elsewhere") / "run"
    assert main(["train", f"--config={SMOKE}", "--config.seed=1", f"--workdir={workdir}"]) == 0
    return workdir


def copied(run: Path, workdir: Path, **train: Any) -> Path:
    """The run in another folder, as if its config had said other values of `train`."""
    shutil.copytree(run, workdir)
    values = read_json(run / "config.json")
    values["config"]["train"].update(train)
    write_json(workdir / "config.json", values)
    return workdir


def test_a_run_that_was_done_elsewhere(
    tmp_path: Path,
    lm: Callable[..., int],
    sweep: Sweep,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paper = copy.deepcopy(PAPER)
    paper["measures"]["loss"] = {"kind": "metric", "runs": ("small",), "split": "train"}
    folder = write_paper(tmp_path / "paper", paper)
    use = f"--use=small-seed1={trained}"
    assert lm(str(folder), use) == 0 and sweep.asked == ["small-seed0"]
    cells = record(folder)["measures"]["loss"]["cells"]
    assert [cell["state_digest"][:2] for cell in cells] == ["5a", "d1"]
    assert len(cells[1]["data"]) == 16 and set(cells[1]["validation_data"]) == {"embedded"}
    assert str(tmp_path) not in json.dumps(record(folder)), "a folder of this machine"

    other = write_paper(tmp_path / "other", PAPER)
    assert lm(str(other), f"--use=small-seed0={trained}") == 2
    assert "is of another config:\n  seed: 0, there 1" in capsys.readouterr().err
    assert lm(str(other), "--use=smal-seed0=x") == 2
    assert "has no run 'smal-seed0'; did you mean 'small-seed0'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("train", "lost", "words"),
    [
        ({}, 4, "the run is at step 2 of 4"),
        # 256 tokens a step
        ({"duration": {"tokens": 2000}}, None, "the run is at step 4 of 8"),
        ({"duration": {"tokens": 1000}}, 4, "the run is at step 2 of 4"),
        ({"duration": {"epochs": 1.0}}, None, r"the run is at step 4 of \d\d"),
        ({"duration": {"steps": 2}}, 4, "metrics.jsonl is at step 4 and the newest checkpoint at"),
    ],
)
def test_a_run_elsewhere_has_to_be_finished(
    tmp_path: Path, trained: Path, train: Any, lost: int | None, words: str
) -> None:
    run = copied(trained, tmp_path / "copy", **train)
    if lost is not None:
        shutil.rmtree(run / "checkpoints" / str(lost))
    with pytest.raises(UserError, match=words):
        finished(run, print)


def test_a_run_that_stopped_early_is_finished(tmp_path: Path) -> None:
    early = "{'patience': 1, 'min_delta': 99.0}"
    run = tmp_path / "run"
    command = ["train", f"--config={SMOKE}", f"--workdir={run}", "--config.train.duration.steps=8"]
    assert main([*command, f"--config.evaluation.early_stopping={early}"]) == 0
    assert Checkpoints(run / "checkpoints").steps()[-1] == 4
    assert finished(run, print).training is not None
    # The same run without it goes on to the end of its duration.
    values = read_json(run / "config.json")
    values["config"]["evaluation"]["early_stopping"] = None
    write_json(run / "config.json", values)
    with pytest.raises(UserError, match="the run is at step 4 of 8"):
        finished(run, print)


def test_a_run_elsewhere_on_other_data(
    tmp_path: Path, lm: Callable[..., int], trained: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = write_paper(tmp_path / "paper", PAPER)
    use = f"--use=small-seed1={trained}"
    monkeypatch.setattr(DataNow, "_read", lambda *_: Prints("other", {"embedded": "other"}))
    assert lm(str(folder), use) == 1
    said = capsys.readouterr().err
    assert f"{use}: since that run the training data changed (fingerprint " in said
    assert "now other): restore the files" in said
    assert not (folder / "report" / "report.json").exists()


def test_what_was_measured_on_other_data_is_measured_again(
    tmp_path: Path,
    lm: Callable[..., int],
    sweep: Sweep,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_paper(tmp_path / "paper", PAPER)
    lm(str(folder))
    kept, now = record(folder), {"data": "A", "validation_data": {"text": "B", "dev": "C"}}
    for cell in kept["measures"]["loss"]["cells"]:
        cell.update(now)
    write_json(folder / "report" / "report.json", kept)

    def found(training: str, validation: Any) -> None:
        monkeypatch.setattr(DataNow, "_read", lambda *_: Prints(training, validation))

    found("A", {"dev": "C", "text": "B"})
    assert lm(str(folder)) == 0 and len(sweep.asked) == 2
    # Nobody can say: the data is not on this machine.
    monkeypatch.setattr(DataNow, "_read", lambda *_: None)
    assert lm(str(folder)) == 0 and len(sweep.asked) == 2
    capsys.readouterr()
    for training, validation, words in (
        ("Z", {"text": "B", "dev": "C"}, "the training data changed (fingerprint A, now Z)"),
        ("A", {"text": "B", "dev": "Z"}, "the validation data 'dev' changed (fingerprint C, now Z"),
    ):
        write_json(folder / "report" / "report.json", kept)
        found(training, validation)
        asked = len(sweep.asked)
        assert lm(str(folder)) == 0 and len(sweep.asked) == asked + 2
        assert f"and since then {words}" in capsys.readouterr().err


def test_data_is_prepared_once_and_where_it_is_not_nothing_is_said_to_have_changed(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    data = DataNow(cache_root(), said.append)
    config = Cell("x", SMOKE).resolve()
    before = Prints("not this", {})
    changed = data.changed(before, config, tmp_path)
    assert changed.startswith("the training data changed (fingerprint not this, now ")
    now = Prints(changed.rpartition(" ")[2].rstrip(")"), {})
    assert data.changed(now, config, tmp_path) == "" and len(data._known) == 1
    gone = Cell("x", SMOKE, {"data.train": {"t": {"kind": "text", "paths": ["no.txt"]}}})
    assert data.changed(before, gone.resolve(), tmp_path) == ""
    assert said[0].startswith("not checked whether the data is still the same: data.train.t: ")
    assert data.changed(Prints(None), gone.resolve(), tmp_path) == "" and len(said) == 1


def test_what_lm_cannot_measure_is_refused_before_anything_trains(
    tmp_path: Path, lm: Callable[..., int], sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = copy.deepcopy(PAPER)
    by_hand = {"kind": "recorded", "runs": ("small",), "names": ("MNLI",), "how": "fine-tune it"}
    paper["measures"] = {"glue": by_hand, **paper["measures"]}
    claim = {"id": "T3", "measure": "glue", "quantities": ("MNLI",), "scale": "paper"}
    paper["claims"] += ({**paper["claims"][0], **claim, "figure": None},)
    paper["runs"]["large"]["seeds"] = (7,)
    folder = write_paper(tmp_path / "paper", paper)
    assert lm(str(folder)) == 0, "it is not of this scale"
    capsys.readouterr()
    asked = len(sweep.asked)
    assert lm(str(folder), "--scale=paper") == 1
    shown = capsys.readouterr()
    assert "glue is refused: MNLI: not measured by lm reproduce; fine-tune it" in shown.err
    # What can be measured is; nothing was trained for what cannot.
    assert sweep.asked[asked:] == ["large-seed7"] and "T3  not run yet" in shown.out
    alone = write_paper(tmp_path / "alone", {
        **paper, "measures": {"glue": by_hand}, "claims": paper["claims"][2:], "figures": {},
    })  # fmt: skip
    assert lm("--all", str(tmp_path), "--scale=paper", f"--ledger={tmp_path / 'L.md'}") == 1
    assert len(sweep.asked) == asked + 1 and not (alone / "report").exists()


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
    names = ("small-x1", "small-x2", "small-pi-x2")
    assert set(perplexities) == {*names, *(f"{name}-ratio" for name in names)}
    (once,), (twice,), (slowed,) = (perplexities[name] for name in names)
    assert 100 < once < 400 and slowed not in (once, twice)
    ratios = [perplexities[f"{name}-ratio"] for name in names]
    assert ratios == [[1.0], [twice / once], [slowed / once]]
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


def test_commits_are_short_and_say_what_was_not_committed(
    tmp_path: Path, lm: Callable[..., int]
) -> None:
    folder = write_paper(tmp_path / "paper", PAPER)
    lm(str(folder))
    kept = record(folder)
    for cell in kept["measures"]["loss"]["cells"]:
        cell["commit"] = "0123456789abcdef0123456789abcdef01234567+changes"
    write_json(folder / "report" / "report.json", kept)
    lm(str(folder), "--check")
    page = (folder / "report" / "report.html").read_text()
    assert page.count("<code>0123456789+changes</code>") == 2
    assert short_commit("0123456789abcdef") == "0123456789" and short_commit(None) == "–"


def test_commands_name_the_folder_and_the_scale(
    tmp_path: Path, lm: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_paper(tmp_path / "my papers" / "one", PAPER)
    lm(str(folder), "--check")
    page = (folder / "report" / "report.html").read_text()
    quoted = f"lm reproduce &#x27;{folder}&#x27;"
    assert f"<code>{quoted}\n{quoted} --scale=gpu</code>" in page
    paper = load_paper(folder)
    monkeypatch.chdir(tmp_path / "my papers")
    assert commands(paper, Path("one")) == ["lm reproduce one", "lm reproduce one --scale=gpu"]
    assert commands(paper, tmp_path / "my papers" / "x" / ".." / "one") == commands(paper, folder)
    large = dataclasses.replace(paper, claims=paper.claims[1:])
    assert commands(large, Path("one")) == ["lm reproduce one --scale=gpu"]


def test_a_record_is_json_and_keeps_its_texts(tmp_path: Path) -> None:
    found = Found(
        {"a": [1.0, math.nan, None], "b": [math.inf]},
        {"deep": [{"x": (math.nan, 2)}], "text": "say [1, 2]"},
        ('note [3, 4] and "quotes" [5, 6]',),
    )
    kept = entry(found, NormPlacement(), cells=[], data_root=tmp_path, seconds=1.0)
    assert kept["quantities"] == {"a": [1.0, None, None], "b": [None]}
    assert kept["details"] == {"deep": [{"x": [None, 2]}], "text": "say [1, 2]"}
    write_record(tmp_path, {"format": 1, "measures": {"m": kept}, "claims": [], "row": [1, -2.5]})
    text = (tmp_path / "report.json").read_text()
    assert '"row": [1,-2.5]' in text, "numbers in a row stand on one line"
    again = read_record(tmp_path)
    assert again["measures"]["m"] == kept
    assert again["measures"]["m"]["notes"] == ['note [3, 4] and "quotes" [5, 6]']


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
    assert f"`lm reproduce {root / 'one'}`, `lm reproduce {root / 'one'} --scale=gpu`" in text
    # Of what nothing was measured there is no report, and a line for each claim.
    assert not (root / "another" / "report").exists()
    assert "4 claims: 1 reproduced, 2 not run at this scale, 1 not run yet." in text
    # Papers that are done are not run again, and the same records give the same ledger.
    assert lm("--all", str(root), f"--ledger={ledger}") == 1 and len(sweep.asked) == 4
    assert lm("--all", str(root), f"--ledger={ledger}", "--check") == 0
    assert ledger.read_text() == text
    assert not (root / "another" / "report").exists()


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
