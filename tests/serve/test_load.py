"""Two hundred clients at once, some of them rude; and a signal while they ask."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import jax
import pytest

from lm.cli import main as cli
from lm.serve import load
from lm.serve.load import Query, ask, ask_all, mixture
from tests.conftest import ROOT, RunLm
from tests.serve.running import POSITIONS, serving

PROMPT = "abc defgh ij.\n" * 2
CROWD = 200


def threads_at_most(count: int) -> bool:
    """Whether no more are left once those that are ending have ended."""
    for _ in range(200):
        if threading.active_count() <= count:
            return True
        time.sleep(0.05)
    return False


def test_two_hundred_clients_at_once(capsys):
    threads = threading.active_count()
    with serving(max_batch=8) as running:
        queries = mixture(PROMPT, CROWD, 24, seed=0, faults=True)
        gc.collect()
        arrays, inside = len(jax.live_arrays()), threading.active_count()
        replies, seconds = ask_all(running.url, queries, CROWD)
        running.idle()

        kinds = Counter(reply.query.kind for reply in replies)
        assert kinds == {"whole": 80, "stream": 80, "leave": 20, "long": 10, "malformed": 10}
        outcomes = Counter((reply.query.kind, reply.status, reply.complete) for reply in replies)
        # A short answer may be over before its client leaves; it was still answered.
        assert outcomes == {
            ("whole", 200, True): 80,
            ("stream", 200, True): 80,
            ("leave", 200, False): 20,
            ("long", 400, True): 10,
            ("malformed", 400, True): 10,
        }
        assert {r.reason for r in replies if r.query.kind == "long"} == {"context_length_exceeded"}

        # What was said in the crowd is said alone.
        for reply in [r for r in replies if r.query.kind in ("whole", "stream")][::8]:
            alone = ask(running.url, Query("whole", {
                name: value for name, value in reply.query.body.items() if "stream" not in name
            }))  # fmt: skip
            assert (alone.texts, alone.tokens) == (reply.texts, reply.tokens)

        text = load.summary(replies, seconds)
        assert text.startswith(f"200 requests in {seconds:.2f} s: 160 answered")
        assert "10  400 context_length_exceeded" in text and "latency p50" in text

        # Nothing is left of them: no row, no thread, no array on the device.
        running.idle()
        gc.collect()
        # The encoder's one thread may have begun meanwhile.
        assert threads_at_most(inside + 1)
        assert len(jax.live_arrays()) <= arrays
    assert running.status == 0
    assert threads_at_most(threads)


def test_the_command_says_how_it_went(capsys):
    with serving(max_batch=2) as running:
        arguments = [f"--url={running.url}", "--requests=6", "--prompt=abc", "--max_tokens=4"]
        assert load.main(arguments) == 0
        assert re.match(r"6 requests in [\d.]+ s: 6 answered\nlatency p50", capsys.readouterr().out)
    assert load.main(arguments) == 1
    assert "6  no answer ConnectionRefusedError" in capsys.readouterr().out


def test_full_queues_are_counted(capsys):
    with serving(max_batch=1, max_queue=4) as running:
        replies, _ = ask_all(running.url, mixture(PROMPT, 60, 30, seed=1, faults=False), 60)
        running.idle()
    statuses = Counter(reply.status for reply in replies)
    assert set(statuses) == {200, 429} and sum(statuses.values()) == 60
    assert all(reply.reason == "queue_full" for reply in replies if reply.status == 429)


# ------------------------------------------------------------------------------ the command


def test_without_its_extra_the_command_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["serve", "--workdir=W"]) == 2
    assert "pip install 'lm[serve]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--port=70000", "port"),
        ("--max_batch=0", "max_batch"),
        ("--grace=-1", "grace"),
        ("extra", "unexpected argument 'extra'"),
        (f"--max_new_tokens={POSITIONS}", "share the 64 positions the model has, so at most 63"),
        ("--host=no.such.host.invalid", "cannot listen on no.such.host.invalid"),
    ],
)
def test_flags_that_cannot_be_meant(capsys, monkeypatch, flag, message):
    from lm.train import workdir
    from tests.serve.running import tiny_run

    monkeypatch.setattr(workdir, "load_run", lambda path, step: tiny_run())
    assert cli.main(["serve", "--workdir=W", flag]) in (1, 2)
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


def start(workdir: Path, log: Path, *flags: str) -> tuple[subprocess.Popen, str]:
    """The command in a process of its own, and its address once it is ready."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "lm.cli.main", "serve", f"--workdir={workdir}", "--port=0",
             *flags],
            cwd=ROOT, stderr=file, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    end = time.monotonic() + 240
    while "\nready\n" not in log.read_text():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.1)
    found = re.search(
        r"on (http://127\.0\.0\.1:\d+), compiling; try:\n  curl http", log.read_text()
    )
    assert found is not None
    return process, found.group(1)


@pytest.mark.slow
def test_sigterm_under_load(tmp_path, run_lm: RunLm):
    workdir = tmp_path / "run"
    done = run_lm("train", "--config=experiments/quickstart.py:smoke", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    log = tmp_path / "log"
    process, url = start(workdir, log, "--max_queue=256", "--grace=120")
    queries = mixture("Once upon a time ", CROWD, 60, seed=0, faults=False)
    timer = threading.Timer(1.0, process.send_signal, [signal.SIGTERM])
    timer.start()
    replies, seconds = ask_all(url, queries, 50)
    assert process.wait(120) == 0
    print(load.summary(replies, seconds))
    answered = [r for r in replies if r.status == 200]
    assert answered and all(r.complete and not r.reason for r in answered)
    # Who came later was told so, or found nobody any more.
    others = {(r.status, r.reason) for r in replies if r.status != 200}
    assert others <= {(503, "draining"), (0, "ConnectionRefusedError"), (0, "ConnectionResetError"),
                      (0, "RemoteDisconnected")}  # fmt: skip
    text = log.read_text()
    assert "SIGTERM: finishing" in text and "Traceback" not in text
    assert text.count("POST /v1/completions 200 ") == len(answered)


@pytest.mark.slow
def test_a_second_sigterm_exits_at_once(tmp_path, run_lm: RunLm):
    workdir = tmp_path / "run"
    done = run_lm("train", "--config=experiments/quickstart.py:smoke", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    log = tmp_path / "log"
    process, url = start(workdir, log, "--max_batch=1")
    body = json.dumps({"prompt": "a", "max_tokens": 1000, "n": 40, "seed": 1})
    client = threading.Thread(
        target=ask, args=(url, Query("whole", {**json.loads(body), "temperature": 0}))
    )
    client.start()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM
    client.join(60)
