"""Contestants in processes of their own: asked, halted, mourned."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lm.bench.harness import Unavailable
from lm.bench.process import Start, Worker, environment, one_device, several_devices
from lm.errors import UserError

MODULE = '''
import os, sys, threading, time
from lm.bench.harness import Unavailable
from lm.errors import UserError

class Counter:
    """Counts in a thread, and says how far it got."""
    def __init__(self, path, trouble=None):
        self.path, self.trouble, self.number = path, trouble, -1

    def prepare(self):
        print("words on standard output")
        if self.trouble == "unavailable":
            raise Unavailable("not on this machine")
        if self.trouble == "user":
            raise UserError("the disk is full")
        if self.trouble == "dies":
            print("last words", file=sys.stderr)
            sys.stderr.flush()
            os._exit(3)
        threading.Thread(target=self.count, daemon=True).start()
        return {"units": 3, "variable": os.environ.get("LM_BENCH_TEST")}

    def count(self):
        for number in range(1_000_000):
            with open(self.path, "a") as file:
                file.write("x")
            self.number = number
            time.sleep(0.002)

    def round(self):
        block = bytearray(32 << 20)
        before = self.number
        while self.number == before:
            time.sleep(0.002)
        return 0.25

    def finish(self):
        return {"done": True}
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with a contestant, on the path of the processes."""
    (tmp_path / "contestants_of_a_test.py").write_text(MODULE)
    paths = [str(tmp_path), str(Path(__file__).resolve().parents[2])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return tmp_path


@pytest.fixture
def worker(module: Path) -> Iterator[Worker]:
    worker = make(module, env={"LM_BENCH_TEST": "here"})
    yield worker
    worker.close()


def make(folder: Path, env: dict[str, str | None] | None = None, **arguments: str) -> Worker:
    values = {"path": str(folder / "count"), **arguments}
    target = "contestants_of_a_test:Counter"
    return Worker("counter", target, values, log=folder / "log", env=env)


def test_a_worker_answers_and_rests_between_rounds(worker: Worker, module: Path) -> None:
    assert worker.prepare() == {"units": 3, "variable": "here"}
    assert worker.round() == 0.25
    counted = (module / "count").read_text()
    time.sleep(0.1)
    assert (module / "count").read_text() == counted
    assert worker.round() == 0.25
    assert (module / "count").read_text() != counted
    facts = worker.finish()
    assert facts["done"]
    assert facts["peak_memory"] >= facts["peak_memory_rounds"] > 32 << 20
    assert (module / "log").read_text().strip() == "words on standard output"


@pytest.mark.parametrize(
    ("trouble", "error", "message"),
    [
        ("unavailable", Unavailable, "not on this machine"),
        ("user", UserError, "counter: 'prepare' failed: the disk is full"),
        ("dies", UserError, r"exit status 3\); its last words:\n(.|\n)*last words"),
    ],
)
def test_what_goes_wrong_there_is_said_here(
    module: Path, trouble: str, error: type[Exception], message: str
) -> None:
    worker = make(module, trouble=trouble)
    try:
        with pytest.raises(error, match=message):
            worker.prepare()
    finally:
        worker.close()


def test_a_start_is_timed_until_its_sign(tmp_path: Path) -> None:
    script = "import sys, time; time.sleep(0.1); open(sys.argv[1], 'w').write('x'); time.sleep(60)"

    def command(number: int) -> tuple[list[str], Path]:
        sign = tmp_path / f"sign-{number}"
        return [sys.executable, "-c", script, str(sign)], sign

    start = Start("starter", command, log=tmp_path / "log")
    [first] = start.prepare()["first_starts"]
    seconds = start.round()
    assert 0.1 < seconds < 60 and 0.1 < first < 60
    assert sorted(path.name for path in tmp_path.glob("sign-*")) == ["sign-0", "sign-1"]
    assert start.finish()["peak_memory"] > 1 << 20


def test_a_start_without_a_sign_is_an_error(tmp_path: Path) -> None:
    script = "raise SystemExit('no such config')"
    start = Start(
        "starter",
        lambda number: ([sys.executable, "-c", script], tmp_path / "sign"),
        log=tmp_path / "log",
    )
    with pytest.raises(UserError, match=r"starter: .*exit status 1(.|\n)*no such config"):
        start.round()


def test_the_environment_is_changed_and_one_device_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_force_host_platform_device_count=4")
    assert one_device()["XLA_FLAGS"] == "--xla_a=1"
    assert several_devices()
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
    assert "XLA_FLAGS" not in environment(one_device())
    monkeypatch.delenv("XLA_FLAGS")
    assert not several_devices()
    assert environment({"LM_BENCH_TEST": "x"})["LM_BENCH_TEST"] == "x"


@pytest.mark.parametrize(
    ("visible", "left"), [(None, "0"), ("3,1", "3"), ("GPU-a,GPU-b", "GPU-a"), ("", "")]
)
def test_every_process_sees_one_gpu(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, left: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environment({})["CUDA_VISIBLE_DEVICES"] == left
    assert environment({"CUDA_VISIBLE_DEVICES": "7"})["CUDA_VISIBLE_DEVICES"] == "7"
