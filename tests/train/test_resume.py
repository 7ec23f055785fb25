"""A killed run, continued, is the run that was never killed: bit for bit."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lm.cli.configs import load_config
from lm.cli.main import main
from lm.data.roots import cache_root, data_root
from lm.data.tokenizer import load_tokenizer
from lm.objectives import build_objective
from lm.train.metrics import read_jsonl
from lm.train.setup import open_dataset

ROOT = Path(__file__).resolve().parents[2]
OVERRIDES = [
    ("train.duration.steps", "240"),
    ("train.steps_per_dispatch", "5"),
    ("train.log_every", "3"),
    ("train.ema_decay", "0.9"),
    ("evaluation.every.steps", "60"),
    ("checkpoint.every.steps", "10"),
    ("model.dropout.residual", "0.1"),
    ("model.d_model", "64"),
]


def arguments(workdir: Path) -> list[str]:
    return [
        "train",
        "--config=experiments/quickstart.py:smoke",
        f"--workdir={workdir}",
        *(f"--config.{key}={value}" for key, value in OVERRIDES),
    ]


def command(workdir: Path) -> list[str]:
    return [sys.executable, "-m", "lm.cli.main", *arguments(workdir)]


def finish(workdir: Path) -> None:
    done = subprocess.run(command(workdir), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def inspect(workdir: Path) -> dict:
    """What `lm inspect` prints, in this process: starting another takes longer than the reading."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["inspect", f"--workdir={workdir}"]) == 0
    return json.loads(printed.getvalue())


def writing_a_checkpoint(workdir: Path) -> bool:
    return any((workdir / "checkpoints").glob("*orbax-checkpoint-tmp*"))


def newest(workdir: Path) -> int:
    """The newest committed checkpoint; 0 where there is none."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def writing_after(step: int) -> Callable[[Path], bool]:
    """Inside a checkpoint write, with a newer checkpoint than `step` behind it."""
    return lambda workdir: newest(workdir) > step and writing_a_checkpoint(workdir)


def past_step(step: int) -> Callable[[Path], bool]:
    def passed(workdir: Path) -> bool:
        lines = read_jsonl(workdir / "metrics.jsonl")
        return bool(lines) and lines[-1]["step"] >= step

    return passed


def kill_when(workdir: Path, moment: Callable[[Path], bool], delay: float) -> bool:
    """Starts the run, kills it at `moment` plus `delay` seconds; False if it finished before."""
    process = subprocess.Popen(
        command(workdir), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and not moment(workdir):
        assert time.monotonic() < deadline, "the run never came to the moment of the kill"
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def kill_and_compare(tmp_path: Path, kills: int) -> None:
    chance = random.Random(int(os.environ.get("LM_TEST_SEED", "7")))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    # In this process, where JAX is imported; what is killed and goes on has ones of its own.
    assert main(arguments(whole)) == 0
    in_a_write = 0
    for number in range(kills):
        if number % 2:
            moment, delay = past_step(newest(killed) + 3), chance.random() / 5
        else:
            moment, delay = writing_after(newest(killed)), 0.0
        if not kill_when(killed, moment, delay):
            break
        in_a_write += writing_a_checkpoint(killed)
    finish(killed)
    assert in_a_write, "no kill fell inside a checkpoint write"
    sessions = json.loads((killed / "manifest.json").read_text())["sessions"]
    resumed = {session["from_step"] for session in sessions} - {0}
    assert len(resumed) >= max(1, min(3, kills - 1)), f"resumed from {resumed} only"

    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    a, b = inspect(whole), inspect(killed)
    assert a["step"] == b["step"] == 240
    assert a["digests"] == b["digests"]
    assert set(a["digests"]) == {"params", "optimizer", "data", "ema"}

    config = load_config("experiments/quickstart.py:smoke", OVERRIDES)
    objective = build_objective(config.objective, config.model)
    batches = [
        open_dataset(
            config, objective, data_root(), cache_root(), load_tokenizer(folder / "tokenizer")
        ).batch(inspected["data"]["next_step"], config.train.batch_size)
        for folder, inspected in ((whole, a), (killed, b))
    ]
    for name in batches[0]:
        np.testing.assert_array_equal(batches[0][name], batches[1][name])


def test_a_kill_changes_nothing(tmp_path: Path) -> None:
    kill_and_compare(tmp_path, kills=1)


@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    kill_and_compare(tmp_path, kills=10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_saves_and_asks_to_be_started_again(tmp_path: Path, number: int) -> None:
    workdir = tmp_path / "run"
    process = subprocess.Popen(command(workdir), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not past_step(7)(workdir):
        time.sleep(0.005)
        assert process.poll() is None
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert f"stopped by {signal.Signals(number).name}: saved at step" in errors
    saved = inspect(workdir)["step"]
    assert saved % 5 == 0  # the end of a dispatch
    assert f"saved at step {saved} of 240" in errors


def test_a_stop_signal_before_training_stops_at_once(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    process = subprocess.Popen(command(workdir), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not (workdir / "config.json").exists():
        time.sleep(0.002)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "stopped by SIGTERM before training began" in errors
    assert "Traceback" not in errors
    assert not (workdir / "metrics.jsonl").exists()
