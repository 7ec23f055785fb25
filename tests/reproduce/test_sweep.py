"""Sweeps: cells and their hashes, one cell's process, and a sweep from start to end and again."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm.cli.configs import extract_overrides, load_config
from lm.cli.main import main
from lm.errors import ConfigError, UserError
from lm.reproduce import sweep_cell
from lm.reproduce.cell import Cell, CellResult, check_cells
from lm.reproduce.engines import build_engine
from lm.reproduce.sweep import run_sweep
from lm.reproduce.sweep_cell import Job, Running, prepare, read_record
from lm.reproduce.sweep_file import cells_of_file
from lm.reproduce.sweep_results import groups_of, metrics_of
from lm.reproduce.sweep_table import clock, final_table, look
from lm.train.workdir import locked, read_config, read_json, write_config, write_json

ROOT = Path(__file__).resolve().parents[2]
SMOKE = "experiments/quickstart.py:smoke"
RATE, LOG_EVERY = "optimizer.learning_rate", "train.log_every"

FILE = """
from experiments import quickstart

def get_config(arg=""):
    return quickstart.get_config(arg or "smoke")

def sweep(add):
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[[str], str]:
    """A file with the quickstart's config and a `sweep` of these lines."""

    def write(*lines: str) -> str:
        path = tmp_path / "experiment.py"
        path.write_text(FILE + "".join(f"    {line}\n" for line in lines or ("pass",)))
        return str(path)

    return write


# ------------------------------------------------------------------------------------------- cells


def test_a_digest_is_of_what_decides_the_result() -> None:
    def digest(seed: int = 0, **overrides: Any) -> str:
        return Cell("a", SMOKE, overrides, seed).digest

    plain = digest()
    assert plain == Cell("another name", SMOKE).digest and len(plain) == 16
    for key, value in {
        "checkpoint.asynchronous": False,
        "data.read_threads": 0,
        "data.prefetch": 1,
    }.items():
        assert digest(**{key: value}) == plain, key
    for key, value in {
        # What can be measured of a run depends on how often it was logged and saved.
        LOG_EVERY: 1,
        "checkpoint.every": {"steps": 4},
        "checkpoint.keep_last": 5,
        RATE: 1e-4,
        "train.duration.steps": 8,
        "train.ema_decay": 0.9,
        "model.d_model": 64,
        "evaluation.batches": 1,
    }.items():
        assert digest(**{key: value}) != plain, key
    assert digest(seed=1) != plain
    # What is written out, and what is the default.
    assert digest(**{"optimizer.epsilon": 1e-8}) == plain


def test_the_cells_of_a_file(experiment: Callable[..., str]) -> None:
    file = experiment(
        "for rate in (1e-3, 3e-3):",
        "    add(f'lr{rate:g}', {'optimizer.learning_rate': rate})",
        "add(**{'model.d_model': 64, 'train.warm_start': None}, seed=7)",
        "add(name='whole', variant='default')",
    )
    cells = cells_of_file(file, [("evaluation.batches", "1")])
    assert [c.name for c in cells[:2]] == ["lr0.001", "lr0.003"]
    assert cells[1].overrides == {"evaluation.batches": 1, RATE: 3e-3}
    assert cells[1].resolve().optimizer.learning_rate == 3e-3
    assert cells[2].name == cells[2].digest and cells[2].seed == 7
    assert cells[2].resolve().model.d_model == 64 and cells[2].resolve().evaluation.batches == 1
    assert cells[3].resolve().model.d_model == 192

    file = experiment("add('a')", "add('b', {'model.d_model': 64})")
    seeded = cells_of_file(file, seeds=[0, 3])
    assert [(c.name, c.seed) for c in seeded] == [
        ("a-seed0", 0), ("a-seed3", 3), ("b-seed0", 0), ("b-seed3", 3)
    ]  # fmt: skip
    assert len({c.digest for c in seeded}) == 4
    # A file without a sweep: its config, once a seed.
    assert [c.resolve().seed for c in cells_of_file(SMOKE, seeds=[4, 5])] == [4, 5]


@pytest.mark.parametrize(
    ("lines", "changes", "seeds", "message"),
    [
        (["add('a')", "add('b', {'data.prefetch': 1})"], [], None, "a and b are the same run"),
        (["add('a')", "add('a', seed=2)"], [], None, "2 cells have the name a"),
        (["add('../a')"], [], None, "'../a': the name is that of a folder"),
        (["add('sweep.json')"], [], None, "the name is that of a folder"),
        ([], [], None, "adds no cell"),
        (["add('a', {'optimizer.learning_rat': 1.0})"], [], None, "cell a.*did you mean"),
        (["add({'model.d_model': 64})"], [], None, "a cell's name comes first"),
        (["add('a', {'model.d_model': object()})"], [], None, "no plain value"),
        (["add('a', seed=1)"], [], [0, 1], "has the seed 1, so --seeds cannot"),
        (["add('a')"], [("seed", "1")], [0, 1], "--seeds and --config.seed"),
        (
            ["add('a', {'train.duration': {'steps': 2}})"],
            [("train.duration.steps", "3")],
            None,
            "cell a sets train.duration, and the command line --config.train.duration.steps",
        ),
        (["raise ValueError('no such thing')"], [], None, "sweep: no such thing"),
    ],
)
def test_cells_that_cannot_be_meant(
    experiment: Callable[..., str],
    lines: list[str],
    changes: list[tuple[str, str]],
    seeds: list[int] | None,
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=message):
        cells_of_file(experiment(*lines), changes, seeds)


def test_no_sweep_and_no_seeds() -> None:
    with pytest.raises(ConfigError, match=r"defines no sweep\(add\); with --seeds"):
        cells_of_file(SMOKE)


def test_the_commands_own_refusals(
    tmp_path: Path, experiment: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", f"--config={experiment('add()')}", f"--workdir={tmp_path / 'w'}"]
    for flags, message in {
        ("--seeds=a",): "whole numbers",
        ("--address=auto",): "--address is for --engine=ray",
        ("--scheduler=asha",): "--scheduler is for --engine=ray",
        ("--grace=3",): "--grace is for --scheduler=asha",
        ("--engine=ray", "--resources=GPU"): "NAME=AMOUNT",
        ("--engine=ray", "--scheduler=asha"): "--grace",
    }.items():
        assert main([*command, *flags]) == 2, flags
        assert message in capsys.readouterr().err
    assert main([*command, "--dry_run"]) == 0
    digest = capsys.readouterr().out.split()[0]
    assert digest == Cell("", str(tmp_path / "experiment.py")).digest
    assert not (tmp_path / "w").exists()
    with pytest.raises(ConfigError, match="no engine 'rai'; did you mean 'ray'"):
        build_engine("rai")


def test_ray_is_not_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "lm.reproduce.engines.ray", raising=False)
    with pytest.raises(UserError, match=r"pip install 'lm\[ray\]'"):
        build_engine("ray")


# --------------------------------------------------------------------------- one cell's processes


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, dict]]:
    """Runs a cell whose process ends, one time after the other, as it is told."""

    def run(*ends: str, retries: int = 1) -> tuple[str, dict]:
        workdir = tmp_path / "_".join(ends)
        counter, script = workdir / "n", tmp_path / "script"
        script.write_text(
            f"#!/bin/sh\nread n <{counter}\necho $((n + 1)) >{counter}\n"
            f"set -- {' '.join(ends)}\nshift $n\n[ $1 = kill ] && kill -9 $$\nexit $1\n"
        )
        script.chmod(0o755)
        monkeypatch.setattr(sweep_cell.sys, "executable", str(script))
        job = Job(Cell("a", SMOKE), workdir, ROOT, ("train",), retries=retries)
        prepare(job)
        counter.write_text("0\n")
        running = Running(job)
        deadline = time.monotonic() + 60
        while (state := running.poll()) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return state, read_record(workdir)

    return run


@pytest.mark.parametrize(
    ("ends", "retries", "state", "attempts", "why"),
    [
        (["0"], 0, "finished", 1, ""),
        (["1", "0"], 1, "finished", 2, ""),
        (["1", "1"], 1, "failed", 2, "exit status 1"),
        (["1"], 0, "failed", 1, "exit status 1"),
        # Somebody else asked it to stop: that is no failure.
        (["75", "75", "75", "0"], 0, "finished", 4, ""),
        # What the command line or the config gets wrong stays wrong.
        (["2"], 3, "failed", 1, "exit status 2"),
        (["kill", "kill", "0"], 2, "finished", 3, ""),
        (["kill"], 0, "failed", 1, "killed by SIGKILL"),
    ],
)
def test_how_a_cell_ends(
    scripted: Callable[..., tuple[str, dict]],
    ends: list[str],
    retries: int,
    state: str,
    attempts: int,
    why: str,
) -> None:
    ended, record = scripted(*ends, retries=retries)
    assert (ended, record["state"], record["attempts"], record["why"]) == (
        state, state, attempts, why
    )  # fmt: skip


def test_a_folder_belongs_to_one_cell(tmp_path: Path) -> None:
    job = Job(Cell("a", SMOKE), tmp_path / "a", ROOT, ("train",))
    prepare(job)
    prepare(job)
    other = Job(Cell("a", SMOKE, seed=1), tmp_path / "a", ROOT, ("train",))
    with pytest.raises(ConfigError, match=f"was another one .{job.cell.digest}, now"):
        prepare(other)
    # A config that has got a field since, with a default: the same run under another digest.
    write_config(tmp_path / "a", job.cell.resolve())
    sweep_cell.note(tmp_path / "a", digest="0123456789abcdef")
    with pytest.raises(ConfigError, match="was another one .0123456789abcdef, now"):
        prepare(other)
    prepare(job)
    assert read_record(tmp_path / "a")["digest"] == job.cell.digest
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="no sweep made"):
        prepare(Job(Cell("b", SMOKE), tmp_path / "b", ROOT, ("train",)))


@pytest.mark.skipif(sys.platform != "linux", reason="the system cannot do it")
def test_a_run_does_not_outlive_its_sweep(tmp_path: Path) -> None:
    """The parent is killed, and its child gets a SIGTERM."""
    child = f"echo $$ >{tmp_path}/pid; trap 'echo asked >{tmp_path}/asked; exit' TERM; " + (
        "while true; do sleep 0.05; done"
    )
    parent = (
        "import os, subprocess, sys, time;"
        "subprocess.Popen([sys.executable, '-m', 'lm.reproduce.bound', str(os.getpid()),"
        f" '/bin/sh', '-c', {child!r}]); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    process.kill()
    process.wait()
    wait_for((tmp_path / "asked").exists)


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


# ----------------------------------------------------------------------------------------- results


def a_run(workdir: Path, lines: list[dict[str, Any]], **checkpoint: str) -> Path:
    workdir.mkdir()
    config = {
        "checkpoint": {"metric": "loss", "mode": "min", **checkpoint},
        "data": {"validation": {"second": {}, "first": {}}},
        "evaluation": {"early_stopping": None},
    }
    (workdir / "config.json").write_text(json.dumps({"config": config}))
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return workdir


LINES = [
    {"step": 1, "split": "train", "loss": 5.0},
    {"step": 2, "split": "second", "loss": 3.0, "accuracy": 0.5},
    {"step": 2, "split": "first", "loss": 4.0},
    {"step": 4, "split": "train", "loss": 2.0},
    {"step": 4, "split": "second", "loss": 3.5, "accuracy": 0.75},
    {"step": 4, "split": "first", "loss": 1.0},
]


def test_metrics_are_the_last_and_the_best(tmp_path: Path) -> None:
    found = metrics_of(a_run(tmp_path / "a", LINES))
    assert found == {
        "step": 4, "train/loss": 2.0, "second/loss": 3.5, "second/accuracy": 0.75,
        "first/loss": 1.0, "best/step": 2, "best/second/loss": 3.0, "best/second/accuracy": 0.5,
        "best/first/loss": 4.0,
    }  # fmt: skip
    best = metrics_of(a_run(tmp_path / "b", LINES, metric="accuracy", mode="max"))
    assert best["best/step"] == 4 and best["best/first/loss"] == 1.0
    assert metrics_of(tmp_path / "c") == {}


def result(name: str, loss: float, seed: int, status: Any = "finished", **overrides: Any) -> Any:
    metrics = {"step": 4, "text/loss": loss, "best/text/loss": loss - 0.5}
    cell = Cell(name, SMOKE, overrides, seed)
    return CellResult(cell, Path(name), status, "f" * 64, metrics, 61.0)


def test_groups_are_over_seeds() -> None:
    results = [
        result("a-seed0", 1.0, 0), result("b-seed0", 9.0, 0, **{RATE: 1.0}),
        result("a-seed1", 2.0, 1), result("a-seed2", 3.0, 2, status="failed"),
        result("b-seed1", 8.0, 1, **{RATE: 1.0}),
    ]  # fmt: skip
    a, b = groups_of(results)
    assert (a.name, a.names, a.finished) == ("a", ("a-seed0", "a-seed1", "a-seed2"), 2)
    assert a.mean["text/loss"] == 1.5
    assert a.deviation["text/loss"] == pytest.approx(0.5**0.5)
    assert (b.name, b.finished) == ("b", 2)
    table = final_table(results)
    assert "a-seed0  finished" in table and "1:01" in table
    assert "1.5000 ± 0.7071" in table and "8.5000 ± 0.7071" in table
    # One of its kind is no group.
    assert "±" not in final_table(results[:2])


def test_a_running_cell_is_seen_in_its_log(tmp_path: Path) -> None:
    job = Job(Cell("a", SMOKE), tmp_path / "a", ROOT, ("train",))
    prepare(job)
    assert look(job).state == "waiting"
    sweep_cell.note(job.workdir, state="running", attempts=1)
    (job.workdir / "log.txt").write_text(
        "compiling\nstep 10/400  loss 5.123  ...  ETA 1:02\n"
        "step 20/400  loss 4.123  12,000 tokens/s  ETA 0:59\nstep 20: text: loss 4.2\n"
    )
    row = look(job)
    assert (row.step, row.loss, row.eta) == ("20/400", "4.123", "0:59")
    assert clock(59.6) == "1:00" and clock(3725) == "1:02:05"


# ------------------------------------------------------------------------------------ whole sweeps


def test_a_sweep_from_start_to_end_and_again(
    tmp_path: Path, experiment: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = experiment(
        "for rate in (1e-3, 3e-3):",
        "    add(f'lr{rate:g}', {'optimizer.learning_rate': rate})",
        # Which says what is wrong with it when it is run.
        "add('gone', {'data.train': {'t': {'kind': 'text', 'paths': ['gone.txt']}}})",
    )
    workdir = tmp_path / "sweep"
    command = ["sweep", f"--config={file}", f"--workdir={workdir}", "--retries=0"]
    assert main(command) == 1
    shown = capsys.readouterr()
    assert "lr0.001: finished in" in shown.err
    assert "gone: failed (exit status 1); the end of" in shown.err and "gone.txt" in shown.err
    cells = json.loads((workdir / "sweep.json").read_text())["cells"]
    assert [cell["status"] for cell in cells] == ["finished", "finished", "failed"]
    digests = [cell["run_digest"] for cell in cells]
    assert len(digests[0]) == 64 and digests[0] != digests[1] and digests[2] is None
    assert cells[0]["metrics"]["step"] == 4 and "embedded/loss" in cells[0]["metrics"]
    assert digests[0][:12] in shown.out

    # By these the run is known to `lm inspect` too.
    assert main(["inspect", f"--workdir={workdir / 'lr0.001'}"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["config_digest"], said["state_digest"]) == (cells[0]["digest"], digests[0])

    # The same again: what is finished stays as it is, what failed is tried again.
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("lr*/metrics.jsonl")}
    assert main([*command, "--config.data.train=None"]) == 2
    assert main(command) == 1
    assert "2 of 3 cells are finished already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    cells = json.loads((workdir / "sweep.json").read_text())["cells"]
    assert [cell["run_digest"] for cell in cells] == digests
    assert [cell["attempts"] for cell in cells] == [1, 1, 2]

    # On other data what is finished is not what it was.
    manifest = read_json(workdir / "lr0.001" / "manifest.json")
    manifest["sessions"][-1]["data"]["fingerprint"] = "another"
    write_json(workdir / "lr0.001" / "manifest.json", manifest)
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "lr0.001 is finished, and since then the training data changed" in said
    assert "(fingerprint another, now " in said

    # The command that the summary names is that run.
    lm, train, *flags = shlex.split(cells[0]["command"])
    assert (lm, train) == ("lm", "train")
    (config, folder), changes = extract_overrides(flags)
    assert folder == f"--workdir={workdir / 'lr0.001'}"
    named = load_config(config.removeprefix("--config="), changes)
    assert named == read_config(workdir / "lr0.001")


def test_another_sweep_at_work_is_respected(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(UserError, match="another process"):
        run_sweep([Cell("a", SMOKE)], tmp_path, quiet=True)
    with pytest.raises(ConfigError, match="2 cells have the name"):
        check_cells([Cell("a", SMOKE), Cell("a", SMOKE, seed=1)])


def start(workdir: Path, file: str, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lm.cli.main", "sweep", f"--config={file}", f"--workdir={workdir}",
         *flags],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_has_the_cells_save(
    tmp_path: Path, experiment: Callable[..., str], number: signal.Signals
) -> None:
    file = experiment("add('a', {'train.duration.steps': 100_000})", "add('b')")
    process = start(tmp_path / "sweep", file)
    wait_for((tmp_path / "sweep" / "a" / "metrics.jsonl").exists)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert "stopped, 2 of 2 cells left: the same command continues them" in output
    log = (tmp_path / "sweep" / "a" / "log.txt").read_text()
    assert "stopped by SIGTERM: saved at step" in log
    cells = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["cells"]
    assert [(cell["status"], cell["why"]) for cell in cells] == [
        ("stopped", "asked to stop"), ("stopped", "not begun")
    ]  # fmt: skip
