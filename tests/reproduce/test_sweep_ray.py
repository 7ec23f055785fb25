"""Sweeps through Ray: the digests of the local engine, whatever happens to its workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("ray")

SWEEP = """
from experiments import quickstart

def get_config(arg=""):
    return quickstart.get_config("smoke")

def sweep(add):
    for rate in RATES:
        for width in WIDTHS:
            add(f"lr{rate:g}-d{width}", {
                "optimizer.learning_rate": rate,
                "model.d_model": width,
                "train.duration.steps": STEPS,
                "evaluation.every.steps": STEPS // 10,
                "checkpoint.every.steps": STEPS // 10,
            })
"""


def write(folder: Path, *, steps: int, rates: list[float], widths: list[int]) -> Path:
    file = folder / "experiment.py"
    file.write_text(f"STEPS, RATES, WIDTHS = {steps}, {rates}, {widths}\n{SWEEP}")
    return file


def sweep(file: Path, workdir: Path, *flags: str) -> subprocess.Popen[str]:
    # One device: of several virtual ones, each run would want the threads of all.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "lm.cli.main", "sweep", f"--config={file}", f"--workdir={workdir}",
         *flags],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def cells(workdir: Path) -> list[dict[str, Any]]:
    return json.loads((workdir / "sweep.json").read_text())["cells"]


def workers(parent: int) -> Iterator[tuple[int, Path]]:
    """The Ray workers below a process that have a cell running: (pid, the cell's folder)."""
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            command = (path / "cmdline").read_bytes().split(b"\0")
            if b"train" not in command or not above(int(path.name), parent):
                continue
            folder = next(a for a in command if a.startswith(b"--workdir=")).split(b"=", 1)[1]
            yield parent_of(int(path.name)), Path(os.fsdecode(folder))
        except (OSError, StopIteration):
            continue


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def above(pid: int, ancestor: int) -> bool:
    while pid > 1 and pid != ancestor:
        pid = parent_of(pid)
    return pid == ancestor


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="workers are found in /proc")
def test_twelve_cells_under_both_engines_and_three_workers_killed(tmp_path: Path) -> None:
    file = write(tmp_path, steps=200, rates=[1e-3, 3e-3, 1e-2, 3e-2], widths=[16, 32, 48])
    local = sweep(file, tmp_path / "local", "--jobs=3")
    process = sweep(file, tmp_path / "ray", "--engine=ray", "--jobs=3", "--resources=CPU=0.5")
    killed: set[str] = set()
    deadline = time.monotonic() + 1200
    while process.poll() is None and len(killed) < 3:
        assert time.monotonic() < deadline
        for pid, folder in workers(process.pid):
            # Once it trains, and no cell twice.
            if folder.name not in killed and (folder / "metrics.jsonl").exists():
                os.kill(pid, signal.SIGKILL)
                killed.add(folder.name)
                break
        time.sleep(0.05)
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, output
    assert len(killed) == 3
    output, _ = local.communicate(timeout=1200)
    assert local.returncode == 0, output
    expected = {cell["name"]: cell["run_digest"] for cell in cells(tmp_path / "local")}
    assert len(set(expected.values())) == 12
    found = cells(tmp_path / "ray")
    assert {cell["name"]: cell["run_digest"] for cell in found} == expected
    assert {cell["name"] for cell in found if cell["attempts"] > 1} == killed
    for name in expected:
        metrics = [(tmp_path / e / name / "metrics.jsonl").read_bytes() for e in ("local", "ray")]
        assert metrics[0] == metrics[1]


@pytest.mark.slow
def test_halving_stops_what_falls_behind_and_a_signal_stops_all(tmp_path: Path) -> None:
    file = write(tmp_path, steps=400, rates=[1e-2, 1e-5], widths=[32])
    flags = ("--engine=ray", "--jobs=1", "--scheduler=asha", "--grace=40", "--reduction=2")
    process = sweep(file, tmp_path / "w", *flags)
    deadline = time.monotonic() + 600
    while not (tmp_path / "w" / "lr0.01-d32" / "metrics.jsonl").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.terminate()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 75, output
    assert "saved at step" in (tmp_path / "w" / "lr0.01-d32" / "log.txt").read_text()

    process = sweep(file, tmp_path / "w", *flags)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    states = {cell["name"]: (cell["status"], cell["why"]) for cell in cells(tmp_path / "w")}
    assert states["lr0.01-d32"] == ("finished", "")
    assert states["lr1e-05-d32"] == ("stopped", "fell behind")
    attempts = [cell["attempts"] for cell in cells(tmp_path / "w")]

    # What fell behind is not continued by the same command.
    process = sweep(file, tmp_path / "w", *flags)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert [cell["attempts"] for cell in cells(tmp_path / "w")] == attempts
