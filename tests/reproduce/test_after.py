"""Runs that begin with the parameters of others, and what is measured of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lm.errors import ConfigError
from lm.reproduce import run as reproduce_run
from lm.reproduce.cell import Cell, CellResult
from lm.reproduce.claims import load_paper
from lm.reproduce.measures.base import Inputs
from lm.reproduce.measures.differences import Differences
from lm.reproduce.measures.lengths import Lengths
from lm.reproduce.record import cells_of, command
from lm.train.workdir import write_config, write_json

SMOKE = "experiments/quickstart.py:smoke"
PAPER: dict[str, Any] = {
    "title": "T",
    "reference": "R",
    "runs": {
        # In this order: what comes after is not what is named later.
        "tuned": {"config": SMOKE, "after": "first", "seeds": (1,)},
        "first": {"config": SMOKE, "seeds": (0, 1)},
    },
    "measures": {
        "loss": {
            "kind": "differences",
            "runs": ("tuned", "first"),
            "between": {"gain": ("first", "tuned")},
        }
    },
    "claims": (
        {
            "id": "X",
            "sentence": "It is better.",
            "where": "Table 1",
            "measure": "loss",
            "quantities": ("tuned",),
            "check": {"kind": "at_most", "bound": 9.0},
            "scale": "cpu",
        },
    ),
}


def written(folder: Path, change: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "claims.py").write_text(f"PAPER = {PAPER!r}\n{change}\n")
    return folder


def settings(tmp_path: Path, **more: Any) -> reproduce_run.Settings:
    quiet: Any = {"report": lambda line: None, **more}
    return reproduce_run.Settings("cpu", tmp_path / "runs", tmp_path, tmp_path / "cache", **quiet)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[Cell]]:
    """In the place of sweeps: runs that are there at once; which were asked for together."""
    found: list[list[Cell]] = []

    def sweep(cells: Sequence[Cell], workdir: Path, engine: str, **_: Any) -> list[CellResult]:
        found.append(list(cells))
        for cell in cells:
            place = workdir / cell.name
            place.mkdir(parents=True)
            write_config(place, cell.resolve())
            (place / "metrics.jsonl").write_text('{"step": 4, "split": "text", "loss": 2.0}\n')
            write_json(place / "manifest.json", {"sessions": []})
        return [CellResult(c, workdir / c.name, "finished", "5a" * 32, {}, 1.0) for c in cells]

    monkeypatch.setattr(reproduce_run, "run_sweep", sweep)
    return found


def test_a_run_begins_where_another_ended(tmp_path: Path, asked: list[list[Cell]]) -> None:
    folder, output = written(tmp_path / "p"), tmp_path / "report"
    # The seeds are not the same: only what both have is compared.
    (folder / "claims.py").write_text(
        (folder / "claims.py").read_text() + "PAPER['runs']['first']['seeds'] = (1,)\n"
    )
    reproduce_run.reproduce(folder, output, settings(tmp_path))
    assert [[cell.name for cell in cells] for cells in asked] == [["first-seed1"], ["tuned-seed1"]]
    place = tmp_path / "runs" / "p" / "first-seed1"
    assert asked[1][0].resolve().train.warm_start == str(place)
    # What is written down is of no machine, and is found again.
    text = (output / "report.json").read_text()
    assert str(tmp_path) not in text
    cells = json.loads(text)["measures"]["loss"]["cells"]
    assert [cell["config"]["train"]["warm_start"] for cell in cells] == ["runs/first-seed1", None]
    assert "--config.train.warm_start=runs/first-seed1 " in cells[0]["command"]
    reproduce_run.reproduce(folder, output, settings(tmp_path))
    assert len(asked) == 2


def test_the_commands_of_both(tmp_path: Path) -> None:
    paper = load_paper(written(tmp_path / "p"))
    said = [command(cells_of(name, runs)[0]) for name, runs in paper.runs.items()]
    assert "warm_start" not in said[1]
    assert said[0].endswith("runs/first-seed1 --config.seed=1 --workdir=runs/tuned-seed1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("PAPER['runs']['tuned']['after'] = 'fist'", "no run 'fist'; did you mean 'first'"),
        ("PAPER['runs']['first']['after'] = 'tuned'", "which begins after another"),
        ("PAPER['runs']['tuned']['seeds'] = (1, 2)", r"has no seeds \[2\]"),
        ("PAPER['measures']['loss'] = {'kind': 'metric', 'runs': ('tuned',)}", "one of its runs"),
    ],
)
def test_what_cannot_be_begun(tmp_path: Path, change: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_paper(written(tmp_path / "p", change))


# ------------------------------------------------------------------------------------ the measures


def inputs(tmp_path: Path, runs: dict[str, list[Path]]) -> Inputs:
    return Inputs(runs, tmp_path, tmp_path, tmp_path, lambda line: None)


def test_differences_are_of_the_same_seed(tmp_path: Path) -> None:
    runs: dict[str, list[Path]] = {"a": [], "b": []}
    for name, losses in (("a", (3.0, 4.0)), ("b", (2.5, 2.0))):
        for seed, loss in enumerate(losses):
            place = tmp_path / f"{name}{seed}"
            place.mkdir()
            rows = [{"step": 1, "split": "text", "loss": 9.0}]
            rows.append({"step": 2, "split": "text", "loss": loss})
            (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            runs[name].append(place)
    measure = Differences(("a", "b"), between={"gap": ("a", "b")})
    assert measure.quantities == ("a", "b", "gap")
    found = measure.measure(inputs(tmp_path, runs)).quantities
    assert found == {"a": [3.0, 4.0], "b": [2.5, 2.0], "gap": [0.5, 2.0]}
    for between, words in (({}, "needs between"), ({"g": ("a", "c")}, "'c' is not in runs")):
        with pytest.raises(ConfigError, match=words):
            Differences(("a", "b"), between=between)


def test_lengths_are_those_of_the_first_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that goes on at 4 times the length, all is told by the length it began with."""
    monkeypatch.setattr("lm.reproduce.measures.lengths._length", lambda path: int(path.name))
    seen: list[tuple[str, int, int]] = []

    def perplexity(self: Lengths, workdir: Path, length: int, slowed: int, _: Inputs) -> float:
        seen.append((workdir.name, length, slowed))
        return 10.0 * slowed + length / 64 + (100.0 if workdir.name == "256" else 0.0)

    monkeypatch.setattr(Lengths, "_perplexity", perplexity)
    runs = {"rotary": [tmp_path / "64"], "longer": [tmp_path / "256"]}
    measure = Lengths(
        ("rotary", "longer"),
        times=(1, 4),
        interpolated=("rotary",),
        trained_on={"longer": "rotary"},
    )
    found = measure.measure(inputs(tmp_path, runs)).quantities
    assert set(found) == set(measure.quantities)
    assert ("256", 64, 1) in seen and ("256", 256, 1) in seen and ("64", 256, 4) in seen
    assert found["rotary-x4-ratio"] == [14.0 / 11.0]
    assert found["rotary-pi-x4-ratio"] == [44.0 / 11.0]
    assert found["longer-x4-ratio"] == [114.0 / 11.0]
    with pytest.raises(ConfigError, match="'longer' is not in runs, or not after 'rotary'"):
        Lengths(("longer", "rotary"), trained_on={"longer": "rotary"})
