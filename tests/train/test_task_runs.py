"""Tasks by the command line: resumed bit for bit, warm-started, evaluated; wrong data said."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from lm.cli.main import main
from lm.train.workdir import load_run

SMOKE = "--config=experiments/tasks/sst2.py:smoke"


def train(workdir: Path, *overrides: str, config: str = SMOKE) -> int:
    return main(["train", config, f"--workdir={workdir}", *overrides])


def leaves(workdir: Path) -> dict[str, np.ndarray]:
    found = jax.tree_util.tree_leaves_with_path(load_run(workdir).params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x)
            for path, x in found}  # fmt: skip


def test_resumed_bit_for_bit(tmp_path: Path) -> None:
    # The schedule of a longer run would be another one.
    given = ("--config.model.dropout.head=0.5", "--config.optimizer.schedule={'kind': 'constant'}")
    assert train(tmp_path / "whole", *given) == 0
    assert train(tmp_path / "parts", *given, "--config.train.duration.steps=2") == 0
    assert train(tmp_path / "parts", *given) == 0
    whole, parts = leaves(tmp_path / "whole"), leaves(tmp_path / "parts")
    assert "classification/kernel" in whole and whole.keys() == parts.keys()
    for name, values in whole.items():
        np.testing.assert_array_equal(parts[name], values, err_msg=name)


def test_a_warm_start_takes_the_body_and_says_what_is_new_and_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, run = tmp_path / "bert", tmp_path / "task"
    once = ("--config.train.duration.steps=1", "--config.train.steps_per_dispatch=1",
            "--config.train.microbatches=1", "--config.evaluation={}",
            "--config.optimizer.schedule={'kind': 'constant'}")  # fmt: skip
    assert train(start, *once, config="--config=experiments/bert/pretrain.py:smoke") == 0
    data = {"kind": "embedded", "examples": True}
    settings = (
        f"--config.train.warm_start={start}", "--config.optimizer.learning_rate=0.0",
        f"--config.data.train={ {'text': {**data, 'fraction': (0.0, 0.01)}} }",
        f"--config.data.validation={ {'dev': {**data, 'fraction': (0.99, 1.0)}} }",
        "--config.data.sequence_length=32", "--config.objective.labels=('short','long')",
    )  # fmt: skip
    assert train(run, *once, *settings, config="--config=experiments/tasks/sst2.py:warm") == 0
    said = capsys.readouterr().err
    assert "new, with initial values: classification\n" in said
    assert "left out, of no use to the task: lm_head, lm_norm, lm_transform, next_sentence" in said
    before, after = leaves(start), leaves(run)
    taken = before.keys() & after.keys()
    assert "pooler/kernel" in taken and "token_embedding/embedding" in taken
    for name in taken:
        np.testing.assert_array_equal(before[name], after[name])
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["sessions"][0]["warm_start"]["new"] == ["classification"]
    assert main(["evaluate", f"--workdir={run}"]) == 0
    found = json.loads(capsys.readouterr().out)["splits"]["dev"]
    assert 0 <= found["accuracy"] <= 1 and "matthews" in found and "perplexity" not in found


def test_unknown_labels_are_said_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "run", "--config.objective.labels=('short','wide')") == 1
    said = capsys.readouterr().err
    assert "'long' is not in objective.labels ('short', 'wide')" in said and "Traceback" not in said
    assert train(tmp_path / "run", "--config.data.packing=stream") == 2
