"""The best learning rate over widths: the measure, its figure, and the sweep it is of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lm.config import Config, from_dict
from lm.errors import ConfigError
from lm.reproduce.claims import load_paper
from lm.reproduce.figures import Panels, draw
from lm.reproduce.measures.base import Inputs
from lm.reproduce.measures.rates import BestRates
from lm.reproduce.sweep_file import cells_of_file
from lm.train.experiment import experiment_values
from lm.train.workdir import write_config

FOLDER = Path("experiments/mup")


def finished(path: Path, width: int, rate: float, loss: float) -> Path:
    values: dict[str, Any] = experiment_values("experiments/quickstart.py:smoke")
    values["model"].update(d_model=width, head_dim=None)
    values["optimizer"]["learning_rate"] = rate
    path.mkdir()
    write_config(path, from_dict(Config, values))
    row = {"step": 4, "split": "text", "loss": loss}
    (path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return path


def test_how_far_the_best_rates_are_apart(tmp_path: Path) -> None:
    """The best of width 16 is 0.004; of width 32 it is 0.004 in one family, and 0.001 in the other;
    with the second seed 0.002."""
    losses = {
        "still-16": {0.001: (3, 3), 0.002: (2, 2), 0.004: (1, 1)},
        "still-32": {0.001: (3, 3), 0.002: (2, 2), 0.004: (1, 1)},
        "moving-16": {0.001: (3, 3), 0.002: (2, 2), 0.004: (1, 1)},
        "moving-32": {0.001: (0.5, 1), 0.002: (0.7, 0.5), 0.004: (0.9, 1)},
    }
    runs: dict[str, list[Path]] = {}
    for name, rates in losses.items():
        for rate, seeds in rates.items():
            runs[f"{name}-{rate}"] = [
                finished(tmp_path / f"{name}-{rate}-{seed}", int(name[-2:]), rate, loss)
                for seed, loss in enumerate(seeds)
            ]
    families = {f: tuple(run for run in runs if run.startswith(f)) for f in ("still", "moving")}
    given = Inputs(runs, tmp_path, tmp_path, tmp_path, lambda line: None)
    found = BestRates(tuple(runs), families=families).measure(given)
    assert found.quantities["still_octaves"] == pytest.approx([0.0, 0.0])
    assert found.quantities["moving_octaves"] == pytest.approx([2.0, 1.0])
    assert found.quantities["moving-32-0.002"] == [0.7, 0.5]
    assert "moving, width 32: the best learning rate is 0.001, 0.002" in found.notes
    panels = {"one": {"width 32": {f"moving-32-{rate}": rate for rate in (0.001, 0.002, 0.004)}}}
    figure = Panels(
        measure="m", title="T", panels=panels, lowest=True, x_label="x", y_label="y", log_x=True
    )
    drawn = draw(figure, {"quantities": found.quantities})
    assert drawn is not None and "width 32: 0.6" in drawn


def test_what_cannot_be_meant() -> None:
    with pytest.raises(ConfigError, match="needs families"):
        BestRates(("r",))
    with pytest.raises(ConfigError, match="'q' is not in runs"):
        BestRates(("r",), families={"f": ("q",)})
    with pytest.raises(ConfigError, match="names none"):
        Panels(measure="m", title="T", x_label="x", y_label="y")


@pytest.mark.parametrize(("file", "measure", "count"), [("rates", "rates", 42),
                                                        ("wikitext", "wikitext", 35)])  # fmt: skip
def test_the_claims_are_of_the_cells_of_the_sweep(file: str, measure: str, count: int) -> None:
    paper = load_paper(FOLDER)
    cells = cells_of_file(f"{FOLDER}/{file}.py")
    assert len(cells) == count
    assert [cell.name for cell in cells] == list(paper.measures[measure].runs)
    for cell in cells:
        runs = paper.runs[cell.name]
        assert (runs.config, dict(runs.overrides)) == (cell.config, dict(cell.overrides))
        config = cell.resolve()
        rate = cell.name.partition("-lr")[2]
        assert config.optimizer.learning_rate == float(rate)
        assert f"w{config.model.d_model}-" in cell.name
        assert (config.model.init.zero != ()) == (not cell.name.startswith("standard"))
