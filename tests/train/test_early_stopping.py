"""Early stopping: when, on what, and after a kill as without it; the best checkpoint kept."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lm.cli.main import main
from lm.config import CheckpointConfig, EarlyStopping
from lm.train.checkpoint import Checkpoints
from lm.train.early_stopping import Stopper, kept, ranking
from lm.train.workdir import load_run


def config(**settings: Any) -> Any:
    early = EarlyStopping(**settings) if settings else None
    return SimpleNamespace(
        evaluation=SimpleNamespace(early_stopping=early), checkpoint=CheckpointConfig()
    )


def watched(values: list[float], **settings: Any) -> tuple[int | None, list[int]]:
    """The evaluation after which it stopped, and those that were the best so far."""
    stopper, best = Stopper(config(**settings)), []
    for step, value in enumerate(values, 1):
        if stopper.see(step, {"dev": {"loss": value, "f1": value}, "other": {"loss": 9.0}}):
            best.append(step)
        if stopper.stopped:
            return step, best
    return None, best


def test_patience_counts_evaluations_in_a_row() -> None:
    assert watched([3, 2, 2.5, 2.4, 1.9, 2, 2, 2], patience=3) == (8, [1, 2, 5])
    assert watched([3, 2, 2.5, 2.4, 1.9], patience=3) == (None, [1, 2, 5])
    assert watched([1, 1], patience=1) == (2, [1])


def test_the_other_direction() -> None:
    assert watched([0.1, 0.3, 0.2, 0.3], metric="f1", mode="max", patience=2) == (4, [1, 2])


def test_small_steps_do_not_count_but_the_best_is_the_best() -> None:
    found = watched([3, 2.95, 2.91, 2.85], patience=2, min_delta=0.1)
    assert found == (3, [1, 2, 3])
    assert watched([3, 2.95, 2.85, 2.8], patience=2, min_delta=0.1) == (None, [1, 2, 3, 4])


def test_the_split_that_is_named() -> None:
    stopper = Stopper(config(split="other", patience=1))
    for step, value in enumerate((2.0, 1.0)):
        stopper.see(step, {"dev": {"loss": 9.0}, "other": {"loss": value}})
    assert not stopper.stopped
    assert ranking(config(split="other")).metrics({"dev": {}, "other": {"loss": 1.0}}) == {
        "loss": 1.0
    }


def test_its_state_is_json_and_goes_on_unless_the_metric_is_another() -> None:
    values = [3.0, 2.0, 2.5, 2.6, 2.7]
    for cut in range(len(values)):
        stopper = Stopper(config(patience=3))
        for step, value in enumerate(values[:cut]):
            stopper.see(step, {"dev": {"loss": value}})
        other = Stopper(config(patience=3))
        other.restore(json.loads(json.dumps(stopper.state())))
        for step, value in enumerate(values[cut:], cut):
            assert not other.stopped
            other.see(step, {"dev": {"loss": value}})
        assert other.stopped and "best is 2, of step 1" in other.message(4)
        fresh = Stopper(config(metric="f1", patience=3))
        fresh.restore(other.state())
        assert not fresh.stopped
    assert Stopper(config()).state() is None and not Stopper(config()).stopped


def test_the_best_is_kept_beside_what_is_kept_anyway() -> None:
    assert kept(config()) == CheckpointConfig()
    found = kept(config(metric="f1", mode="max"))
    assert (found.keep_best, found.metric, found.mode) == (1, "f1", "max")


# ------------------------------------------------------------------------------------------- runs

SMOKE = "--config=experiments/tasks/sst2.py:smoke"
# A rate that makes it worse at once: the first evaluation is the best.
SETTINGS = (
    "--config.optimizer.schedule={'kind': 'constant'}", "--config.train.steps_per_dispatch=1",
    "--config.optimizer.learning_rate=3.0", "--config.optimizer.clip_norm=None",
    "--config.evaluation.early_stopping.patience=2", "--config.evaluation.every.steps=2",
    "--config.checkpoint={'every': {'steps': 1}, 'keep_last': 1}",
)  # fmt: skip


def train(workdir: Path, *overrides: str) -> int:
    return main(["train", SMOKE, f"--workdir={workdir}", *SETTINGS, *overrides])


def steps(workdir: Path) -> list[int]:
    return Checkpoints(workdir / "checkpoints").steps()


@pytest.mark.slow
def test_a_run_stops_early_and_a_killed_one_where_it_would_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    many = "--config.train.duration.steps=40"
    assert train(whole, many) == 0
    said = capsys.readouterr().err
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if line["split"] != "train"}
    best, end = min(losses, key=lambda step: losses[step]), max(losses)
    assert end == best + 4 < 40
    assert f"stopped early at step {end}: 2 evaluations in a row did not better loss" in said
    assert f"of step {best}: --step=best" in said
    assert steps(whole) == [best, end]
    assert load_run(whole, "best").step == best and load_run(whole).step == end

    # Stopped one evaluation before the end: what it had waited is in the checkpoint.
    assert train(parts, f"--config.train.duration.steps={end - 2}") == 0
    assert train(parts, many) == 0
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert steps(parts) == [best, end]
    capsys.readouterr()
    # And once more is no training, until there is more patience.
    assert train(parts, many) == 0
    assert f"stopped early at step {end}" in capsys.readouterr().err and steps(parts)[-1] == end
    more = f"--config.train.duration.steps={end + 2}"
    assert train(parts, more, "--config.evaluation.early_stopping.patience=9") == 0
    assert steps(parts)[-1] == end + 2 and load_run(parts, "best").step in steps(parts)

    assert main(["inspect", f"--workdir={whole}", "--step=best"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == best
    assert main(["inspect", f"--workdir={whole}", "--step=worst"]) == 2
    assert "write a step, such as 200, or best" in capsys.readouterr().err


@pytest.mark.parametrize(("override", "said"), [
    ("--config.evaluation.early_stopping.metric=los", "early_stopping.metric='los' is not a met"),
    ("--config.evaluation.early_stopping.split=deb", "split='deb' is not in data.validation"),
    ("--config.evaluation={'early_stopping': {}}", "looks at evaluations: set every"),
    ("--config.evaluation.early_stopping.patience=0", "patience must be at least 1"),
])  # fmt: skip
def test_what_cannot_be_meant(
    override: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "run", override) == 2
    assert said in capsys.readouterr().err
