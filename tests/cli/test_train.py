"""`lm train` and `lm evaluate` on the command line: whole runs, resuming, and every refusal."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.cli.main import main
from lm.train.metrics import read_jsonl

SMOKE = "--config=experiments/quickstart.py:smoke"
ROOT = Path(__file__).resolve().parents[2]


def train(workdir: Path, *flags: str) -> int:
    return main(["train", SMOKE, f"--workdir={workdir}", *flags])


def inspect(workdir: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    capsys.readouterr()
    assert main(["inspect", f"--workdir={workdir}"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done; to be copied, not changed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert train(workdir) == 0
    return workdir


def text_source(folder: Path, content: bytes) -> list[str]:
    (folder / "a.txt").write_bytes(content)
    source = "{'text': {'kind': 'text', 'paths': ['a.txt']}}"
    return [
        f"--config.data.train={source}",
        f"--config.data.validation={source}",
        f"--data_root={folder}",
    ]


def test_a_run_from_start_to_end(workdir: Path, run_lm, capsys: pytest.CaptureFixture[str]) -> None:
    done = run_lm("train", SMOKE, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "step 4/4" in done.stderr
    for name in ("config.json", "manifest.json", "metrics.jsonl", "timing.jsonl", "loss.png"):
        assert (workdir / name).stat().st_size > 0, name
    rows = read_jsonl(workdir / "metrics.jsonl")
    assert [(r["step"], r["split"]) for r in rows] == [
        (1, "train"), (2, "train"), (2, "embedded"), (4, "train"), (4, "embedded")
    ]  # fmt: skip
    session = json.loads((workdir / "manifest.json").read_text())["sessions"][0]
    assert session["devices"] == ["cpu:cpu"] * 4
    assert session["versions"]["jax"]
    assert session["data"]["fingerprint"]

    summary = inspect(workdir, capsys)
    assert summary["step"] == 4
    assert summary["parameters"] == sum(int(np.prod(r["shape"])) for r in summary["table"])
    assert all(len(digest) == 64 for digest in summary["digests"].values())

    done = run_lm("evaluate", f"--workdir={workdir}", "--baseline")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert json.loads((workdir / "eval/4.json").read_text()) == measured
    assert measured["step"] == 4
    split = measured["splits"]["embedded"]
    assert split["perplexity"] == pytest.approx(np.exp(split["loss"]))
    # Bytes as tokens, and all but the first of them predicted.
    assert split["bits_per_byte"] == pytest.approx(split["loss"] / np.log(2), rel=0.02)
    # English letters by their frequency, and spaces as the most frequent.
    assert 3.0 < split["baseline"]["loss"] < 3.6 and 0.1 < split["baseline"]["accuracy"] < 0.35
    # It stays in the folder when it is not asked for again.
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    assert "baseline" not in json.loads(capsys.readouterr().out)["splits"]["embedded"]
    assert json.loads((workdir / "eval/4.json").read_text()) == measured


def test_evaluate_is_the_loops_evaluation(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(workdir, "--config.evaluation.batches=None") == 0
    logged = read_jsonl(workdir / "metrics.jsonl")[-1]
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={workdir}", "--batch_size=3"]) == 0
    measured = json.loads(capsys.readouterr().out)["splits"]["embedded"]
    assert measured["tokens"] == logged["tokens"]
    # The same sum in another order: 1e-5 is a few hundred float32 roundings of a mean.
    assert measured["loss"] == pytest.approx(logged["loss"], rel=1e-5)


def test_the_same_command_again_changes_nothing(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(workdir) == 0
    before = inspect(workdir, capsys), (workdir / "metrics.jsonl").read_bytes()
    assert train(workdir) == 0
    assert "is finished: step 4 of 4" in capsys.readouterr().err
    assert (inspect(workdir, capsys), (workdir / "metrics.jsonl").read_bytes()) == before
    sessions = json.loads((workdir / "manifest.json").read_text())["sessions"]
    assert [s["from_step"] for s in sessions] == [0, 4]


def test_a_resumed_run_may_change_some_keys_and_is_told_which(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(workdir) == 0
    assert train(workdir, "--config.train.duration.steps=6", "--config.train.log_every=3") == 0
    said = capsys.readouterr().err
    assert "config changed on resume (allowed): train.duration.steps: 4 -> 6" in said
    assert "resuming from step 4" in said
    assert inspect(workdir, capsys)["step"] == 6

    assert train(workdir, "--config.seed=1", "--config.train.log_every=2") == 2
    said = capsys.readouterr().err
    assert "  seed: 0 -> 1\n" in said
    assert "  train.log_every: 3 -> 2  (allowed)" in said
    assert "a resumed run may change only train.duration" in said


def test_pmap_sharded_and_fsdp_runs_agree(tmp_path: Path) -> None:
    layouts = {
        "sharded": [],
        "fsdp": ["--config.parallel.data=2", "--config.parallel.fsdp=2"],
        "pmap": ["--config.parallel.mapping=data_parallel"],
    }
    losses = {}
    for name, flags in layouts.items():
        assert train(tmp_path / name, *flags) == 0
        rows = read_jsonl(tmp_path / name / "metrics.jsonl")
        losses[name] = [row["loss"] for row in rows]
    for name in ("fsdp", "pmap"):
        np.testing.assert_allclose(losses[name], losses["sharded"], rtol=1e-5)


def test_a_warm_start_takes_the_parameters_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "a") == 0
    frozen = "--config.optimizer.learning_rate=0.0"
    warm = f"--config.train.warm_start={tmp_path / 'a'}"
    assert train(tmp_path / "b", warm, frozen, "--config.checkpoint.keep_last=9") == 0
    assert "warm start: parameters of" in capsys.readouterr().err
    a, b = inspect(tmp_path / "a", capsys), inspect(tmp_path / "b", capsys)
    assert a["digests"]["params"] == b["digests"]["params"]
    assert a["digests"]["optimizer"] != b["digests"]["optimizer"]
    session = json.loads((tmp_path / "b" / "manifest.json").read_text())["sessions"][0]
    assert session["warm_start"]["params_digest"] == a["digests"]["params"]
    # From its first moment on the run needs the other folder no more.
    assert b["checkpoints"][0] == 0

    assert train(tmp_path / "c", warm, "--config.model.d_ff=32") == 2
    said = capsys.readouterr().err
    assert "is of another model" in said
    assert "layer_0/mlp/down/kernel: warm start (64, 32), config (32, 32)" in said


def test_two_processes_do_not_share_a_workdir(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lm.train.workdir import locked

    with locked(workdir):
        assert train(workdir) == 1
    assert "another process is training in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--config.model.num_layer=2"], 2, "config.model.num_layer: unknown key; did you mean"),
        (["--config.train.batch_size=many"], 2, "expected a whole number, got 'many' (str)"),
        (["--config.train.batch_size=6"], 2, "batch_size=6 is not divisible by 4 devices"),
        (["--config.parallel.data=3"], 2, "needs 3 devices"),
        (
            ["--config.model.position={'kind': 'learned', 'max_length': 16}"],
            2,
            "learned positions",
        ),
        (["--config.model.vocab_size=100"], 2, "tokenizer has 259 tokens"),
        (["--workdri=x"], 2, "Unknown command line flag 'workdri'"),
        (["more"], 2, "unexpected argument 'more'"),
        (
            ["--config.checkpoint.keep_best=1", "--config.checkpoint.metric=los"],
            2,
            "checkpoint.metric='los' is not a metric of the evaluation; did you mean 'loss'?",
        ),
        (["--config.evaluation.batch_size=6"], 2, "evaluation.batch_size=6 is not divisible by 4"),
        (
            ["--config.parallel.fsdp=4", "--config.model.d_model=30", "--config.model.num_heads=5"],
            2,
            "parallel.fsdp=4 splits no parameter: d_model=30 is not divisible by it",
        ),
        (["--config.optimizer.kind=sgd"], 2, "unknown key for kind 'sgd'"),
        (["--workdir="], 2, "--workdir is empty"),
        (["--config.train.batch_size"], 2, "no value given"),
        (["--config.train.warm_start=nowhere"], 1, "nowhere: there is no such folder"),
    ],
)  # fmt: skip
def test_refusals(
    workdir: Path, capsys: pytest.CaptureFixture[str], flags: list[str], status: int, message: str
) -> None:
    assert train(workdir, *flags) == status
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_missing_empty_and_undecodable_files(
    tmp_path: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = text_source(tmp_path, b"")
    assert train(workdir, *flags) == 1
    assert "empty" in capsys.readouterr().err

    (tmp_path / "a.txt").write_bytes(b"fine\nfine\n\xff\xfe not")
    assert train(workdir, *flags) == 1
    said = capsys.readouterr().err
    assert "UTF-8" in said and "a.txt" in said and "10" in said

    (tmp_path / "a.txt").unlink()
    assert train(workdir, *flags) == 1
    said = capsys.readouterr().err
    assert "no file matches 'a.txt'" in said and str(tmp_path) in said and "LM_DATA" in said

    (tmp_path / "a.txt").write_bytes(b"too short")
    assert train(workdir, *flags) == 1
    assert "32" in capsys.readouterr().err


def test_config_files_that_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--workdir", str(tmp_path / "run")]
    assert main(["train", "--config=experiments/quickstrat.py", *run]) == 2
    assert "did you mean 'quickstart.py'?" in capsys.readouterr().err
    assert main(["train", "--config=experiments/quickstart.py:smok", *run]) == 2
    assert "no variant 'smok'; there are: " in capsys.readouterr().err
    (tmp_path / "x.py").write_text("a = 1\n")
    assert main(["train", f"--config={tmp_path / 'x.py'}", *run]) == 2
    assert "defines no get_config(arg)" in capsys.readouterr().err
    assert main(["train", "--config=experiments/quickstart.py"]) == 2
    assert "lm train: --workdir is required\n" in capsys.readouterr().err
    (tmp_path / "x.py").write_text("import nothing_of_the_kind\n")
    assert main(["train", f"--config={tmp_path / 'x.py'}", *run]) == 2
    assert "No module named 'nothing_of_the_kind'" in capsys.readouterr().err
    (tmp_path / "x.py").write_text("def get_config(arg):\n    return {}\n")
    assert main(["train", f"--config={tmp_path / 'x.py'}", *run]) == 2
    assert "must return an ml_collections.ConfigDict, not dict" in capsys.readouterr().err


def test_a_checkpoint_of_another_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "a") == 0
    assert train(tmp_path / "b", "--config.model.d_model=64") == 0
    shutil.rmtree(tmp_path / "b" / "checkpoints")
    shutil.copytree(tmp_path / "a" / "checkpoints", tmp_path / "b" / "checkpoints")
    assert train(tmp_path / "b", "--config.model.d_model=64") == 1
    said = capsys.readouterr().err
    assert "is of another model or optimiser than the config describes" in said
    assert "params/final_norm/scale: checkpoint (32,), config (64,)" in said


def test_changed_data_is_not_trained_on(
    tmp_path: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = text_source(tmp_path, b"some text to learn from\n" * 100)
    assert train(workdir, *flags) == 0
    text_source(tmp_path, b"other text to learn from\n" * 100)
    assert train(workdir, *flags) == 1
    assert "the training data changed since the run" in capsys.readouterr().err


def test_changed_validation_data_is_noticed(
    tmp_path: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = text_source(tmp_path, b"some text to learn from\n" * 100)
    (tmp_path / "v.txt").write_bytes(b"some text to measure on\n" * 50)
    flags[1] = "--config.data.validation={'v': {'kind': 'text', 'paths': ['v.txt']}}"
    assert train(workdir, *flags) == 0
    (tmp_path / "v.txt").write_bytes(b"an easier text\n" * 50)
    assert train(workdir, *flags) == 1
    assert "the validation data changed since the run" in capsys.readouterr().err
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    assert "data.validation.v is not what the run was evaluated on" in capsys.readouterr().err


def test_an_attempt_that_failed_before_training_leaves_no_trace(
    tmp_path: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(workdir, "--config.model.vocab_size=100") == 2
    flags = text_source(tmp_path, b"aaaa bbbb cccc\n" * 100)
    character = ["--config.data.tokenizer={'kind': 'character'}", "--config.data.add_eos=False"]
    assert train(workdir, *flags, *character, "--config.parallel.data=3") == 2
    # As if killed while it saved its tokenizer.
    (workdir / "tokenizer").mkdir(parents=True, exist_ok=True)
    text_source(tmp_path, b"quite another text\n" * 100)
    assert train(workdir, *flags, *character) == 0
    assert inspect(workdir, capsys)["step"] == 4


def test_a_signal_during_an_evaluation_saves_too(
    workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm.train import loop

    evaluate = loop.evaluate_all

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(loop, "evaluate_all", interrupted)
    assert train(workdir, "--config.checkpoint.every=None") == 75
    assert "saved at step 2 of 4" in capsys.readouterr().err
    assert inspect(workdir, capsys)["step"] == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{}", "has no key 'config'"),
        ("config.json", "[]", "is not a JSON object"),
        ("config.json", "{", "is not valid JSON"),
        ("manifest.json", "{", "is not valid JSON"),
        ("manifest.json", "{}", "is not the manifest of a run"),
        ("metrics.jsonl", "nonsense\n", "metrics.jsonl:1 is not a line of metrics"),
        ("tokenizer/lm_tokenizer.json", "{}", "tokenizer"),
    ],
)
def test_a_damaged_workdir(
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str,
    message: str,
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / name).write_text(content)
    assert train(workdir) == 1
    said = capsys.readouterr().err
    assert message in said and str(workdir) in said


def test_a_workdir_of_another_version_names_its_file(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    values = json.loads((workdir / "config.json").read_text())
    values["config"]["train"]["foo"] = 1
    (workdir / "config.json").write_text(json.dumps(values))
    assert main(["evaluate", f"--workdir={workdir}"]) == 2
    assert "config.json: config.train.foo: unknown key" in capsys.readouterr().err


def test_a_curve_that_cannot_be_drawn_is_only_a_note(
    workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lm.train.setup.plot_loss", fail)
    assert train(workdir) == 0
    assert "the loss curve could not be drawn" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--config.optimizer.learning_rate=1e30", "--config.optimizer.clip_norm=None",
             "--config.checkpoint.every.steps=1", "--config.evaluation.every=None",
             "--config.train.steps_per_dispatch=1", "--config.train.duration.steps=20"]  # fmt: skip
    assert train(workdir, *flags) == 1
    said = capsys.readouterr().err
    assert "is not finite" in said
    step = int(said.split("lm train: step ")[1].split(":")[0])
    assert f"The last good checkpoint is step {step - 1}" in said
    batch = np.load(workdir / f"not_finite_step_{step}.npz")
    assert batch["tokens"].shape == (8, 32)
    # Nothing that is not finite was written as a number or a checkpoint.
    assert all(np.isfinite(row["loss"]) for row in read_jsonl(workdir / "metrics.jsonl"))
    assert step not in inspect(workdir, capsys)["checkpoints"]


def test_a_slow_disk_does_not_hold_up_the_steps(
    workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of step 4 is written when step 7 is done: it is that of step 4 all the same,
    and the next one waits for it."""
    from lm.train.checkpoint import Checkpoints

    write = Checkpoints._write
    last = []

    def slow(self: Checkpoints, step: int, *rest: Any) -> None:
        deadline = time.monotonic() + 60
        while step == 4 and time.monotonic() < deadline:
            last[:] = [read_jsonl(workdir / "metrics.jsonl")[-1]["step"]]
            if last == [7]:
                break
            time.sleep(0.001)
        write(self, step, *rest)

    flags = ["--config.train.duration.steps=8", "--config.train.steps_per_dispatch=1",
             "--config.train.log_every=1", "--config.evaluation.every=None",
             "--config.checkpoint.every.steps=4", "--config.checkpoint.keep_last=9"]  # fmt: skip
    assert train(workdir.parent / "plain", *flags) == 0
    monkeypatch.setattr(Checkpoints, "_write", slow)
    assert train(workdir, *flags) == 0
    assert last == [7]
    for step in (4, 8):
        digests = []
        for folder in (workdir, workdir.parent / "plain"):
            capsys.readouterr()
            assert main(["inspect", f"--workdir={folder}", f"--step={step}"]) == 0
            digests.append(json.loads(capsys.readouterr().out)["digests"])
        assert digests[0] == digests[1]


def test_a_full_disk(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=300k tmpfs {small}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no permission to mount a small file system")
    command = (
        f"{mount} && {sys.executable} -m lm.cli.main train {SMOKE} --workdir={small / 'run'} "
        "--config.model.d_model=64 --config.model.d_ff=512"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "disk full while writing a checkpoint" in done.stderr
    assert "run the same command to continue" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unwritable_workdir(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert train(tmp_path / "file" / "run") == 1
    assert "cannot use --workdir" in capsys.readouterr().err


def test_the_overview_and_the_help_pages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = [line.split()[1] for line in capsys.readouterr().out.splitlines() if "  lm " in line]
    assert listed[0] == "train" and {"sweep", "generate", "predict"} <= set(listed)
    for command in listed:
        assert main([command, "--help"]) == 0
        page = capsys.readouterr().out
        assert "examples:" in page and f"  lm {command} " in page and "--" in page
    assert main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err
    assert main(["inspect", "--workdir=/nonexistent/run"]) == 1
    assert "no run in /nonexistent/run" in capsys.readouterr().err
