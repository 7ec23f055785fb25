"""What a start does before its first step, and what it leaves for later."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lm.cli import common
from lm.cli.configs import load_config
from lm.cli.main import main
from lm.parallel.sharded import Sharded
from lm.train import loop
from lm.train.metrics import read_jsonl
from lm.train.workdir import METRICS

ROOT = Path(__file__).resolve().parents[2]
SMOKE = "--config=experiments/quickstart.py:smoke"

# Stops the run when its first step has been dispatched, and says what was imported by then.
_UNTIL_THE_FIRST_STEP = """
import sys
from lm.parallel.sharded import Sharded
train = Sharded.train

def stop(self, state, batches):
    train(self, state, batches)
    print(*(name for name in sys.argv[1].split(",") if name in sys.modules))
    raise SystemExit(0)

Sharded.train = stop
from lm.cli.main import main
main(["train", "--config=experiments/quickstart.py:smoke", "--workdir=" + sys.argv[2]])
"""
LATER = ("grain", "orbax.checkpoint", "tensorstore", "tensorboardX", "matplotlib", "pandas")


def test_the_first_step_waits_for_no_import_that_it_does_not_need(workdir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _UNTIL_THE_FIRST_STEP, ",".join(LATER), str(workdir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_a_process_that_begins_again_has_imported_little_before() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, lm.cli.main; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not {"lm.config", "lm.train", "numpy", "jax", "ml_collections"} & {*done.stdout.split()}


@pytest.mark.parametrize(("every", "evaluates"), [(1, True), (1, False), (4, False)])
def test_the_first_line_is_there_before_another_step_is_dispatched(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, every: int, evaluates: bool
) -> None:
    lines, rates = [], []
    train, measure = Sharded.train, loop.peak_flops

    def step(mapped: Any, *arguments: Any) -> Any:
        lines.append(
            [row["step"] for row in read_jsonl(workdir / METRICS) if row["split"] == "train"]
        )
        return train(mapped, *arguments)

    def measured() -> float:
        rates.append((len(lines), measure()))
        return rates[-1][1]

    monkeypatch.setattr(Sharded, "train", step)
    monkeypatch.setattr(loop, "peak_flops", measured)
    settings = [
        f"--config.checkpoint.every.steps={every}",
        f"--config.evaluation.every.steps={every if evaluates else 4}",
        "--config.train.log_every=1",
        "--config.train.steps_per_dispatch=1",
    ]
    assert main(["train", SMOKE, f"--workdir={workdir}", *settings]) == 0
    assert lines[:2] == [[], [1]]
    # Once, between the first dispatch and the second, when nothing else runs.
    assert [dispatches for dispatches, _ in rates] == [1]
    timed = read_jsonl(workdir / "timing.jsonl")
    # A clock that has just been set, by an evaluation at every step, has no rate to tell.
    assert timed or evaluates
    assert all(row["mfu_palm"] > 0 for row in timed)


# Runs the command line as its own process does, and says in which order the programs were lowered
# and the steps dispatched.
_ORDER = """
import jax
from lm.cli import main
from lm.parallel.sharded import Sharded

order = []
lower, train = jax.stages.Traced.lower, Sharded.train

def noted(traced, *arguments, **options):
    order.append(traced.fun_name)
    return lower(traced, *arguments, **options)

def step(self, *arguments):
    result = train(self, *arguments)
    order.append("step")
    return result

jax.stages.Traced.lower, Sharded.train = noted, step
try:
    main.entry()
finally:
    print(*(name for name in order if name in ("init", "train", "step")))
"""


def test_a_second_start_takes_the_programs_of_the_first_and_is_the_same_run(tmp_path: Path) -> None:
    # A folder of its own: what JAX's cache has already is not kept.
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    orders, metrics, digests = [], [], []
    for workdir in (tmp_path / "first", tmp_path / "second"):
        done = subprocess.run(
            [sys.executable, "-c", _ORDER, "train", SMOKE, f"--workdir={workdir}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        orders.append(done.stdout.split())
        metrics.append((workdir / "metrics.jsonl").read_bytes())
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(["inspect", f"--workdir={workdir}"]) == 0
        digests.append(json.loads(printed.getvalue())["digests"])
    assert sorted(orders[0][: orders[0].index("step")]) == ["init", "train"]
    assert orders[1][0] == "step"
    # For the proof, without which nothing would have been saved.
    assert {"init", "train"} < set(orders[1])
    assert metrics[0] == metrics[1]
    assert digests[0] == digests[1]


def test_a_process_that_does_more_than_one_command_keeps_no_program(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a test's, in which other code may stand in the place of what is on disk."""
    monkeypatch.setattr(common, "_alone", False)
    config = load_config("experiments/quickstart.py:smoke", [], workdir)
    assert common.kept_programs(config, workdir) is None
    common.alone()
    programs = common.kept_programs(config, workdir)
    assert programs is not None
    programs.close()
