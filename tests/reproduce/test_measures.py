"""What measures compute, on runs and points where it is known what they should."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.config import Config, from_dict
from lm.errors import ConfigError, UserError
from lm.reproduce.canvas import decimated
from lm.reproduce.measures.base import Inputs
from lm.reproduce.measures.gradients import NormPlacement
from lm.reproduce.measures.outputs import OutputSizes
from lm.reproduce.measures.recorded import Recorded
from lm.reproduce.measures.scaling import Law, ScalingPoints, ScalingRuns, fit, read_points
from lm.reproduce.measures.training import FirstBelow, Metric
from lm.reproduce.measures.translation import Translation
from lm.train.experiment import experiment_values
from lm.train.workdir import write_config

LAW = Law(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.36)


def inputs(tmp_path: Path, runs: Mapping[str, Any] | None = None) -> Inputs:
    return Inputs(runs or {}, tmp_path, tmp_path / "cache", tmp_path / "scratch", lambda line: None)


def workdir(path: Path, losses: list[float], split: str = "text") -> Path:
    path.mkdir()
    rows = [{"step": 10 * (i + 1), "split": split, "loss": x} for i, x in enumerate(losses)]
    rows.insert(0, {"step": 1, "split": "train", "loss": 9.0, "accuracy": 0.1})
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_last_and_the_best_of_a_metric(tmp_path: Path) -> None:
    runs = {"a": [workdir(tmp_path / "0", [3.0, 1.0, 2.0]), workdir(tmp_path / "1", [3.0, 2.5])]}
    given = inputs(tmp_path, runs)
    assert Metric(("a",)).measure(given).quantities == {"a": [2.0, 2.5]}
    assert Metric(("a",), take="best").measure(given).quantities == {"a": [1.0, 2.5]}
    with pytest.raises(UserError, match="no 'loss' of split 'test'; there are: .*text loss"):
        Metric(("a",), split="test").measure(given)
    with pytest.raises(ConfigError, match="runs names none"):
        Metric()


def test_the_first_step_below(tmp_path: Path) -> None:
    runs = {"a": [workdir(tmp_path / "0", [3.0, 0.09, 0.2]), workdir(tmp_path / "1", [3.0, 0.1])]}
    found = FirstBelow(("a",)).measure(inputs(tmp_path, runs))
    assert found.quantities == {"a": [20.0, None]}
    assert found.notes == ("a: text loss was not below 0.1 in 30 steps",)


# ------------------------------------------------------------------------------------- scaling law


def points(noise: float = 0.0) -> np.ndarray:
    sizes, tokens = np.meshgrid(np.geomspace(5e7, 1.5e10, 10), np.geomspace(1e9, 4e11, 10))
    generator = np.random.default_rng(0)
    losses = LAW.loss(sizes, tokens) * np.exp(noise * generator.normal(size=sizes.shape))
    return np.stack([sizes.ravel(), tokens.ravel(), losses.ravel()], axis=1)


def test_the_fit_finds_the_law_that_made_the_points() -> None:
    found = fit(points())
    assert np.allclose(found, LAW, rtol=2e-3)
    # And minimises what it says it does: outliers count by their distance, not its square.
    spoiled = points()
    spoiled[7, 2] *= 3
    assert np.allclose(fit(spoiled, start=LAW), LAW, rtol=0.05)


def test_points_of_a_file(tmp_path: Path) -> None:
    table = points()
    lines = ["Model Size,Training FLOP,loss"]
    lines += [f"{n},{6 * n * d},{loss}" for n, d, loss in table.tolist()]
    # Of the fewest tokens a parameter, and far off: to be dropped.
    lines.insert(1, f"{1e10},{6 * 1e10 * 1e9},9.0")
    (tmp_path / "points.csv").write_text("\n".join(lines) + "\n")
    measure = ScalingPoints(path="points.csv", drop=1, bootstrap=3)
    found = measure.measure(inputs(tmp_path))
    assert [round(found.quantities[name][0], 2) for name in ("E", "alpha")] == [1.7, 0.34]
    assert set(found.details["standard_error"]) == set(Law._fields)
    assert found.details["file"]["path"] == "points.csv" and len(found.details["points"]) == 100
    assert "100 of 101 points" in found.notes[0]
    (tmp_path / "other.csv").write_text("N,loss\n1,2\n")
    with pytest.raises(UserError, match="columns Model Size"):
        read_points(tmp_path / "other.csv")
    with pytest.raises(UserError, match="cannot read .*none.csv"):
        read_points(tmp_path / "none.csv")


def test_the_published_refit(data_root: Path, tmp_path: Path) -> None:
    """Besiroglu et al.'s numbers from their points: the claim's own, but for the bootstrap."""
    path = "chinchilla/svg_extracted_data.csv"
    if not (data_root / path).is_file():
        pytest.skip(f"no {path}")
    given = Inputs({}, data_root, tmp_path, tmp_path, print)
    law = ScalingPoints(path=path, drop=5).measure(given).details["law"]
    assert law["E"] == pytest.approx(1.8172, abs=0.01)
    assert law["alpha"] == pytest.approx(0.3478, abs=0.01)
    assert law["beta"] == pytest.approx(0.3658, abs=0.01)


def test_a_law_of_runs(tmp_path: Path) -> None:
    values = experiment_values("experiments/quickstart.py:smoke")
    runs: dict[str, list[Path]] = {}
    for width in (32, 64):
        for step in (10, 20, 40):
            values["model"]["d_model"] = width
            values["model"]["head_dim"] = None
            path = tmp_path / f"{width}-{step}"
            workdir(path, [4 - width / 100 - step / 100] * (step // 10))
            write_config(path, from_dict(Config, values))
            runs[path.name] = [path]
    found = ScalingRuns(tuple(runs)).measure(inputs(tmp_path, runs))
    table = np.array(found.details["points"])
    counts = set(table[:, 0].tolist())
    # 8 rows of 32 tokens a step
    assert set(table[:, 1].tolist()) == {2560.0, 5120.0, 10240.0} and len(counts) == 2
    assert table[0, 2] == pytest.approx(4 - 0.32 - 0.1)
    with pytest.raises(ConfigError, match="needs more runs"):
        ScalingRuns(("a", "b"))


# ------------------------------------------------------------------------------------------ others


def test_translations_are_scored_in_whole_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.en").write_text("a do@@ g runs in the yard\nb\n")
    (tmp_path / "t.de").write_text("ein hu@@ nd läuft im hof\nb c d e@@ f\n")
    said = {"one": ["ein h@@ und läuft im hof", "b c d ef"], "two": ["ein hund", "b c d ef"]}
    monkeypatch.setattr(Translation, "_translate", lambda self, model, lines: said[model.name])
    measure = Translation(("r",), source="t.en", target="t.de")
    runs = {"r": [tmp_path / "one", tmp_path / "two"]}
    found = measure.measure(inputs(tmp_path, runs))
    assert found.quantities["r"][0] == pytest.approx(100.0)
    second = found.quantities["r"][1]
    assert second is not None and 0 < second < 80
    assert found.details["examples"][0] == {
        "source": "a dog runs in the yard",
        "reference": "ein hund läuft im hof",
        "translation": "ein hund läuft im hof",
    }
    with pytest.raises(ConfigError, match="needs source and target"):
        Translation(("r",))


def test_the_gradient_of_the_last_layer_by_depth(tmp_path: Path) -> None:
    measure = NormPlacement(depths=(1, 3), seeds=(0, 1), width=32, length=8, rows=4)
    found = measure.measure(inputs(tmp_path))
    # Theorem 1 of Xiong et al.; two draws of a narrow model are not far from it.
    assert all(1.0 <= value < 1.6 for value in found.quantities["post_spread"])
    assert all(-0.8 < value < -0.2 for value in found.quantities["pre_slope"])
    assert np.shape(found.details["norms"]["pre"]) == (2, 2)


def test_the_slope_of_sizes_over_widths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = experiment_values("experiments/quickstart.py:smoke")
    values["model"]["head_dim"] = None
    runs: dict[str, list[Path]] = {}
    for power in (0, 1):
        for width in (16, 64):
            values["model"]["d_model"] = width
            path = tmp_path / f"{power}-{width}"
            path.mkdir()
            write_config(path, from_dict(Config, values))
            runs[path.name] = [path, path]
    monkeypatch.setattr(
        OutputSizes,
        "_size",
        lambda self, path, _: 3.0 * int(path.name[2:]) ** int(path.name[0]),
    )
    families = {"flat": ("0-16", "0-64"), "growing": ("1-16", "1-64")}
    found = OutputSizes(tuple(runs), families=families).measure(inputs(tmp_path, runs))
    assert found.quantities["flat_slope"] == pytest.approx([0.0, 0.0])
    assert found.quantities["growing_slope"] == pytest.approx([1.0, 1.0])
    assert found.quantities["1-64"] == [192.0, 192.0]
    with pytest.raises(ConfigError, match="'2-16' is not in runs"):
        OutputSizes(tuple(runs), families={"other": ("0-16", "2-16")})


def test_what_is_only_recorded_says_what_to_do(tmp_path: Path) -> None:
    measure = Recorded(("r",), names=("MNLI",), how="fine-tune it")
    assert measure.quantities == ("MNLI",)
    assert measure.by_hand == "MNLI: not measured by lm reproduce; fine-tune it"
    with pytest.raises(UserError, match=measure.by_hand):
        measure.measure(inputs(tmp_path))


def test_thinning_keeps_spikes_and_ends() -> None:
    xs = list(range(5000))
    ys = [1.0] * 5000
    ys[3210], ys[1234] = 50.0, -3.0
    kept_x, kept_y = decimated(xs, ys)
    assert len(kept_x) <= 240 and kept_x[0] == 0 and kept_x[-1] == 4999
    assert {50.0, -3.0} <= set(kept_y) and kept_x == sorted(kept_x)
    assert decimated([1, 2], [3.0, 4.0]) == ([1, 2], [3.0, 4.0])
