"""Seeds and folds of one config: the cells, the spread, and the whole of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from lm.cli.main import main
from lm.errors import ConfigError
from lm.reproduce.cell import Cell, CellResult, check_cells
from lm.reproduce.repeat import cells, spread, spread_table, spreads

SMOKE = "experiments/tasks/sst2.py:smoke"


def test_a_cell_for_every_seed_and_fold() -> None:
    found = cells(SMOKE, [("optimizer.learning_rate", "0.01")], [0, 7], 3)
    assert [cell.name for cell in found] == [
        f"seed{seed}-fold{fold}" for seed in (0, 7) for fold in range(3)
    ]
    check_cells(found)
    last = found[-1].resolve()
    assert last.seed == 7 and last.optimizer.learning_rate == 0.01
    assert last.data.fold is not None and (last.data.fold.index, last.data.fold.of) == (2, 3)
    assert [cell.name for cell in cells(SMOKE, [("seed", "5")], None, 2)] == [
        "seed5-fold0", "seed5-fold1",
    ]  # fmt: skip
    assert [cell.seed for cell in cells(SMOKE, [], [3, 4], None)] == [3, 4]


@pytest.mark.parametrize(("arguments", "said"), [
    (([], None, None), "say what to repeat"),
    (([], [1, 1], None), "names one twice"),
    (([("seed", "3")], [1], None), "--seeds sets config.seed"),
    (([("data.fold", "{}")], None, 4), "--folds sets config.data.fold"),
])  # fmt: skip
def test_what_cannot_be_repeated(arguments: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        cells(SMOKE, *arguments)


def test_the_interval_is_student_s() -> None:
    values = [0.81, 0.79, 0.85, 0.8]
    found = spread(values)
    low, high = stats.t.interval(0.95, 3, loc=found.mean, scale=stats.sem(values))
    assert found.mean == pytest.approx(0.8125) and found.interval == pytest.approx((low, high))
    assert found.deviation == pytest.approx(stats.tstd(values))
    assert spread([1.0]).interval is None


def result(name: str, status: Any = "finished", **metrics: float) -> CellResult:
    named = {key.replace("_", "/"): value for key, value in metrics.items()}
    return CellResult(Cell(name, SMOKE), Path(name), status, None, named, 1.0)


def test_finished_cells_are_taken_together() -> None:
    results = [
        result("a", fold_accuracy=0.5, fold_tokens=9, train_loss=1, best_fold_accuracy=0.7),
        result("b", fold_accuracy=0.7, fold_tokens=9, train_loss=1, best_fold_accuracy=0.7),
        result("c", "failed", fold_accuracy=0.1),
    ]
    found = spreads(results)
    assert list(found) == ["fold/accuracy"] and found["fold/accuracy"].values == (0.5, 0.7)
    line = spread_table(spreads(results, ["accuracy"])).splitlines()[-1].split()
    assert line[:4] == ["fold/accuracy", "2", "0.6000", "0.1414"]
    with pytest.raises(ConfigError, match="nothing measured 'acuracy'"):
        spreads(results, ["acuracy"])


@pytest.mark.slow
def test_two_folds_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["repeat", f"--config={SMOKE}", f"--workdir={tmp_path / 'all'}", "--folds=2",
               "--metrics=accuracy"]  # fmt: skip
    assert main(command) == 0
    table = capsys.readouterr().out
    first = json.loads((tmp_path / "all" / "repeat.json").read_text())
    values = first["fold/accuracy"]["values"]
    for fold, value in enumerate(values):
        lines = (tmp_path / "all" / f"seed0-fold{fold}" / "metrics.jsonl").read_text().splitlines()
        last = [row for row in map(json.loads, lines) if row["split"] == "fold"][-1]
        assert last["accuracy"] == value
    [row] = [line.split() for line in table.splitlines() if line.startswith("fold/accuracy")]
    assert row[1] == "2"
    # Finished ones are left alone.
    assert main(command) == 0
    assert "2 of 2 cells are finished already" in capsys.readouterr().err
    assert json.loads((tmp_path / "all" / "repeat.json").read_text()) == first
