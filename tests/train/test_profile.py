"""Profiles: which steps, what a trace and a program come to, and that a run stays what it is."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lm.cli.main import main
from lm.errors import ConfigError
from lm.train import trace
from lm.train.hlo import part_of, read_program
from lm.train.loop import Session
from lm.train.metrics import read_jsonl
from lm.train.plan import Plan
from lm.train.profile import Profile
from lm.train.profile_summary import summarise, table
from lm.train.trace import DATA, WINDOW, account, read_trace

# ------------------------------------------------------------------------------------ which steps


def around(steps: str, *, total: int = 60, group: int = 1, saved: tuple[int, ...] = ()) -> None:
    checkpoints: Any = SimpleNamespace(steps=lambda: list(saved))
    plan = Plan(total, group, evaluate_every=None, checkpoint_every=20)
    nothing: Any = None
    mapped = SimpleNamespace()
    session = Session(Path("run"), nothing, plan, nothing, mapped, checkpoints, nothing, nothing)
    Profile(steps).around(session)


@pytest.mark.parametrize(
    ("steps", "run", "words"),
    [
        ("ten", {}, "write A:B"),
        ("20:", {}, "write A:B"),
        ("-3:4", {}, "write A:B"),
        ("30:20", {}, "the second number is the larger"),
        ("0", {}, "no step in it"),
        ("50:61", {}, "the run ends at step 60"),
        ("56", {}, "they would be steps 5 to 61, but the run ends at step 60"),
        ("20:30", {"saved": (40,)}, "goes on from step 40, these are done"),
        ("20:30", {"saved": (60,)}, "the run is finished, at step 60"),
        ("50:62", {"group": 4, "total": 62}, "after step 60 has 2 steps, the ones before have 4"),
    ],
)
def test_steps_that_cannot_be_profiled(steps: str, run: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        around(steps, **run)


@pytest.mark.parametrize(
    ("steps", "run", "words"),
    [
        ("21:29", {"group": 5}, "profiling steps 20 to 30: 5 steps are one dispatch"),
        ("7", {"group": 5}, "profiling steps 10 to 20"),
        ("3", {"group": 2, "saved": (40,)}, "profiling steps 44 to 48"),
        ("18:22", {}, "an evaluation or a checkpoint is among these steps"),
        ("20:30", {"group": 5}, ""),
    ],
)
def test_whole_dispatches(
    steps: str, run: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    around(steps, **run)
    said = capsys.readouterr().err
    assert words in said if words else not said


# ------------------------------------------------------------------------- programs and traces

PROGRAM = """HloModule jit_train, is_scheduled=true

%fused_computation.1 (p.0: f32[8,4], p.1: f32[4,4]) -> f32[8,4] {
  %p.0 = f32[8,4]{1,0} parameter(0)
  %p.1 = f32[4,4]{1,0} parameter(1)
  %dot.9 = f32[8,4]{1,0} dot(%p.0, %p.1), metadata={op_name="jit(train)/transpose(jvp(loss))/Block/mlp/up/dot_general"}
  ROOT %add.3 = f32[8,4]{1,0} add(%dot.9, %dot.9), metadata={op_name="jit(train)/add"}
}

%fused_computation.2 (p.2: f32[8]) -> f32[8] {
  %p.2 = f32[8]{0} parameter(0)
  ROOT %mul.1 = f32[8]{0} multiply(%p.2, %p.2), metadata={op_name="jit(train)/optimizer/mul"}
}

ENTRY %main.1 (a.1: f32[8,4]) -> f32[8,4] {
  %a.1 = f32[8,4]{1,0} parameter(0), metadata={op_name="state.params[\\'mlp\\']"}
  %fusion.1 = f32[8,4]{1,0:T(8,128)} fusion(%a.1), kind=kOutput, calls=%fused_computation.1, metadata={op_name="jit(train)/add"}
  %fusion.2 = (f32[8]{0:T(256)}, /*index=1*/f32[8]{0}) fusion(%a.1), kind=kLoop, calls=%fused_computation.2
  %cudnn.1 = (f32[8]{0}, u8[0]{0}) custom-call(%a.1), custom_call_target="__cudnn$fmhaSoftmax", metadata={op_name="jit(train)/jvp(loss)/Block/attention/dot_product"}
  %gemm.1 = f32[8]{0} custom-call(%a.1), custom_call_target="__cublas$gemm", metadata={op_name="jit(train)/jvp(loss)/Transformer.logits/token_embedding.attend/dot_general"}
  %all-reduce.1 = f32[8]{0} all-reduce-start(%a.1), to_apply=%sum, metadata={op_name="jit(train)/transpose(jvp(loss))/Block/attention/query/add_any"}
  ROOT %while.1 = f32[8,4]{1,0} while(%a.1), condition=%c, body=%b, metadata={op_name="jit(train)/while"}
}
"""  # noqa: E501


def test_the_instructions_of_a_program() -> None:
    program = read_program(PROGRAM)
    found = {
        name: (program[name].kind, part_of(program[name].op_name))
        for name in ("fusion.1", "fusion.2", "cudnn.1", "gemm.1", "all-reduce.1", "while.1", "a.1")
    }
    assert found == {
        "fusion.1": ("matmul", "mlp"),
        "fusion.2": ("elementwise", "optimizer"),
        "cudnn.1": ("fused attention", "attention scores"),
        "gemm.1": ("matmul", "logits"),
        "all-reduce.1": ("collective", "attention projections"),
        "while.1": ("control", "other"),
        "a.1": ("copy", "mlp"),
    }


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        ("jvp(loss)/layer/Block/cross_attention/bkqh,bksh->bkqs", "attention scores"),
        ("jvp(loss)/Block/attention/attention._project/key/dot", "attention projections"),
        ("jit(train)/jvp(loss)/layer/Block/mlp_norm/rsqrt", "norms"),
        ("jit(train)/jvp(loss)/stack/stack._embed/add", "embedding"),
        ("jit(train)/jvp(loss)/reduce_max", "loss"),
        ("jit(train)/optimizer/sqrt", "optimizer"),
        ("jit(train)/while/body/closed_call", "other"),
    ],
)  # fmt: skip
def test_parts(op_name: str, part: str) -> None:
    assert part_of(op_name) == part


def event(tid: int, name: str, start: float, end: float, pid: int = 1, **args: str) -> dict:
    return {
        "ph": "X", "pid": pid, "tid": tid, "ts": start, "dur": end - start, "name": name,
        "args": args,
    }  # fmt: skip


def op(tid: int, name: str, start: float, end: float, pid: int = 1) -> dict:
    return event(tid, f"kernel of {name}", start, end, pid, hlo_op=name, hlo_module="jit_train")


def write(path: Path, processes: dict[int, str], lines: dict[tuple[int, int], str], events: list):
    named = [
        {"ph": "M", "pid": pid, "name": "process_name", "args": {"name": name}}
        for pid, name in processes.items()
    ] + [
        {"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": name}}
        for (pid, tid), name in lines.items()
    ]
    with gzip.open(path, "wt") as file:
        json.dump({"traceEvents": [*named, *events, {}]}, file)
    return path


@pytest.fixture
def two_gpus(tmp_path: Path) -> Path:
    """100 us on two GPUs. On the first the collective is hidden for 10 of its 20 us, the copy for
    none, and 10 of the 30 idle us are spent making a batch. The second has only the product."""
    lines = {
        (1, 5): "Stream #13(Compute)", (1, 6): "Stream #14(NCCL)", (1, 7): "Stream #15(MemcpyH2D)",
        (1, 8): "XLA Modules", (2, 5): "Stream #13(Compute)", (9, 1): "python",
    }  # fmt: skip
    events = [
        event(1, WINDOW, 0, 100, pid=9),
        event(1, DATA, 60, 75, pid=9),
        op(5, "fusion.1", 0, 30),
        op(6, "all-reduce.1", 20, 40),
        event(7, "MemcpyH2D", 40, 45),
        op(5, "fusion.2", 45, 65),
        op(5, "fusion.1", 95, 130),
        op(8, "jit_train", 0, 100),
        op(5, "fusion.1", -10, 60, pid=2),
    ]
    path = tmp_path / "gpu.trace.json.gz"
    return write(path, {1: "/device:GPU:0", 2: "/device:GPU:1", 9: "/host:CPU"}, lines, events)


def test_a_gpus_trace(two_gpus: Path) -> None:
    times = account(read_trace(two_gpus), read_program(PROGRAM), "jit_train")
    assert times.operations == {
        ("jit_train", "fusion.1"): pytest.approx((30 + 5 + 60) / 2),
        ("jit_train", "all-reduce.1"): pytest.approx(10 / 2),
        ("", "MemcpyH2D"): pytest.approx(5 / 2),
        ("jit_train", "fusion.2"): pytest.approx(20 / 2),
    }
    # From 65 to 95, and from 60 on.
    assert times.data == pytest.approx((10 + 15) / 2)
    assert times.gaps == pytest.approx((20 + 25) / 2)


def test_the_summary_of_a_gpus_trace(two_gpus: Path) -> None:
    values = summarise(two_gpus, PROGRAM, 20, 24)
    parts = values["parts"]
    assert values["ms"] == pytest.approx(0.1 / 4)
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1)
    assert parts["mlp"]["matmul"]["share"] == parts["mlp"]["share"]
    assert parts["mlp"]["share"] == pytest.approx(0.475)
    assert parts["between devices"]["share"] == pytest.approx(0.05)
    first = values["operations"][0]
    assert (first["name"], first["kind"]) == ("mlp/up/dot_general", "matmul")
    assert first["direction"] == "backward"
    lines = table(values).splitlines()
    assert lines[0].startswith("profile of steps 20 to 24: 0.025 ms a step")
    assert next(line for line in lines if line.startswith("mlp")).split()[-2:] == ["47.5%", "47.5%"]


def test_a_tpus_trace_is_read_from_one_line(tmp_path: Path) -> None:
    lines = {(1, 1): "Steps", (1, 2): "XLA Modules", (1, 3): "XLA Ops", (9, 1): "python"}
    events = [
        event(1, WINDOW, 0, 100, pid=9),
        event(1, "20", 0, 100),
        event(2, "jit_train(77)", 0, 100),
        event(3, "while.1", 0, 90),
        event(3, "fusion.1", 10, 50),
        event(3, "fusion.2", 50, 70),
    ]
    path = write(tmp_path / "tpu", {1: "/device:TPU:0", 9: "/host:CPU"}, lines, events)
    times = account(read_trace(path), read_program(PROGRAM), "jit_train")
    assert times.operations == {("", "fusion.1"): 40, ("", "fusion.2"): 20}
    assert (times.data, times.gaps) == (0, 40)


def test_a_cpus_threads_share_the_wall_time(tmp_path: Path) -> None:
    """Two threads at once share; what workers finish is of the operation that ended last."""
    lines = {(9, 1): "python", (9, 2): "tf_XLAEigen/1", (9, 3): "tf_XLAEigen/2"}
    events = [
        event(1, WINDOW, 0, 100, pid=9),
        op(2, "while.1", 0, 90, pid=9),
        op(2, "fusion.1", 0, 40, pid=9),
        op(3, "fusion.2", 20, 40, pid=9),
        event(3, "ThreadpoolListener::StartRegion", 30, 30, pid=9),
        event(3, "ThreadpoolListener::StopRegion", 50, 50, pid=9),
        event(2, "end: fusion.1", 41, 42, pid=9),
        op(2, "gemm.1", 60, 90, pid=9),
    ]
    path = write(tmp_path / "cpu", {9: "/host:CPU"}, lines, events)
    times = account(read_trace(path), read_program(PROGRAM), "jit_train")
    assert sum(times.operations.values()) + times.gaps == pytest.approx(100)
    found = {name: time for (_, name), time in times.operations.items()}
    assert found["gemm.1"] == 30
    assert found["fusion.1"] + found["fusion.2"] == 50
    assert min(found["fusion.1"] - 30, found["fusion.2"] - 10) >= 0
    assert times.gaps == 20


def test_a_trace_that_is_not_whole(two_gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MOST_EVENTS", 10)
    with pytest.raises(ValueError, match="profile fewer steps"):
        summarise(two_gpus, PROGRAM, 20, 24)


# ------------------------------------------------------------------------------------- a whole run


def train(workdir: Path, *flags: str) -> list[dict[str, Any]]:
    """The metrics of a tiny run of 8 steps, without its timings."""
    train = ("duration.steps=8", "steps_per_dispatch=2", "log_every=1")
    overrides = ("model.num_layers=1", *(f"train.{override}" for override in train))
    assert not main([
        "train", "--config=experiments/quickstart.py:smoke", f"--workdir={workdir}",
        *(f"--config.{override}" for override in overrides), *flags,
    ])  # fmt: skip
    return [row for row in read_jsonl(workdir / "metrics.jsonl") if "loss" in row]


def test_a_profiled_run_is_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = train(tmp_path / "plain")
    profiled = train(tmp_path / "profiled", "--profile_steps=3:6")
    assert profiled == plain and len(plain) >= 8
    said = capsys.readouterr().err
    assert "profile of steps 2 to 6" in said and "by kind: " in said
    values = json.loads((tmp_path / "profiled" / "profile" / "summary.json").read_text())
    parts = values["parts"]
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1, abs=1e-3)
    for part in ("mlp", "attention scores", "logits", "loss", "optimizer", "between devices"):
        assert parts[part]["ms"] > 0, part
    assert parts["mlp"]["matmul"]["ms"] > 0
    assert (tmp_path / "profiled" / values["trace"]).exists()
