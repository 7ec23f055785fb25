"""Runs with adapters by the command line: from a warm start, resumed bit for bit, used merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lm.cli.main import main
from lm.convert.folder import read_folder
from lm.convert.outgoing import export
from lm.train.checkpoint import Checkpoints
from lm.train.restoring import named_shapes
from lm.train.workdir import CHECKPOINTS, load_run

SMOKE = "--config=experiments/continue.py:smoke"
SHORT = ("--config.optimizer.schedule={'kind': 'constant'}", "--config.train.steps_per_dispatch=1")


def train(workdir: Path, *overrides: str, config: str = SMOKE) -> int:
    return main(["train", config, f"--workdir={workdir}", *SHORT, *overrides])


def flat(tree: Any) -> dict[str, np.ndarray]:
    names = named_shapes(tree)
    return dict(zip(names, map(np.asarray, jax.tree.leaves(tree)), strict=True))


def saved(workdir: Path) -> dict[str, np.ndarray]:
    """All parameters of the newest checkpoint, as they were trained."""
    found = Checkpoints(workdir / CHECKPOINTS).restore_parts(("params", "opt_state"))
    return flat(found.state)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("base") / "run"
    assert train(workdir, "--config.train.duration.steps=1", "--config.evaluation={}") == 0
    return workdir


def lora(base: Path, *more: str) -> tuple[str, ...]:
    return (
        f"--config.train.warm_start={base}",
        "--config.train.lora.rank=2",
        "--config.train.lora.dropout=0.2",
        "--config.optimizer.learning_rate=0.02",
        *more,
    )


def test_from_a_warm_start_resumed_bit_for_bit_and_used_merged(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(whole, *lora(base)) == 0
    assert train(parts, *lora(base), "--config.train.duration.steps=2") == 0
    assert train(parts, *lora(base)) == 0
    one, other = saved(whole), saved(parts)
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(other[name], values, err_msg=name)
    lines = [(folder / "metrics.jsonl").read_text() for folder in (whole, parts)]
    assert lines[0] == lines[1]

    # The base is there as it was, and what is loaded is the sum.
    start, run = flat(load_run(base).params), load_run(whole)
    loaded = flat(run.params)
    assert loaded.keys() == start.keys()
    for name, values in start.items():
        np.testing.assert_array_equal(one[f"params/{name}"], values, err_msg=name)
        adapted = name.endswith(("query/kernel", "value/kernel"))
        assert np.array_equal(loaded[name], values) != adapted, name
    kernel = "layer_0/attention/query"
    a, b = (one[f"params/{kernel}/lora_{x}/kernel"] for x in "ab")
    np.testing.assert_allclose(
        loaded[f"{kernel}/kernel"], start[f"{kernel}/kernel"] + 8 * np.tensordot(a, b, 1), rtol=1e-5
    )

    capsys.readouterr()
    assert main(["evaluate", f"--workdir={whole}", "--batches=2"]) == 0
    found = json.loads(capsys.readouterr().out)["splits"]["embedded"]["loss"]
    last = [line for line in map(json.loads, lines[0].splitlines()) if line["split"] != "train"][-1]
    assert found == pytest.approx(last["loss"], rel=1e-5)

    # Out, once more, and the mean of the checkpoints: models without adapters.
    export(whole, tmp_path / "out")
    tensors = read_folder(tmp_path / "out").tensors
    name = next(name for name in tensors if "attn" in name or "q_proj" in name)
    assert not any("lora" in name for name in tensors), name
    assert main(["average", f"--workdir={whole}", "--last=2", f"--output={tmp_path / 'mean'}"]) == 0
    steps = [flat(load_run(whole, step).params) for step in (2, 4)]
    for name, values in flat(load_run(tmp_path / "mean").params).items():
        np.testing.assert_allclose(values, (steps[0][name] + steps[1][name]) / 2, rtol=1e-5)
    assert load_run(tmp_path / "mean").config.train.lora is None


def test_a_moving_average_leaves_the_base_and_adapters_on_adapters_begin_merged(
    base: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    one_step = ("--config.train.duration.steps=1", "--config.evaluation={}")
    assert train(first, *lora(base, "--config.train.ema_decay=0.5", *one_step)) == 0
    assert train(second, *lora(first, *one_step, "--config.optimizer.learning_rate=0.0")) == 0
    merged = flat(load_run(first).params)
    for name, values in flat(load_run(second).params).items():
        np.testing.assert_array_equal(values, merged[name], err_msg=name)
