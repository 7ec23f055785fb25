"""`lm convert` as a user has it: in, used, trained from, and out again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lm.cli.configs import load_config
from lm.cli.main import main
from lm.convert.folder import read_folder
from lm.errors import ConfigError
from lm.train.workdir import read_config
from tests.convert.files import (
    GPT2,
    LLAMA,
    gpt2_shapes,
    llama_shapes,
    random_tensors,
    write_folder,
    write_safetensors,
)

Captured = pytest.CaptureFixture[str]
CONTINUE = "--config=experiments/continue.py"
SMALL = (
    "--config.data.train={'text': {'kind': 'embedded', 'fraction': (0.0, 0.02)}}",
    "--config.data.validation={}",
    "--config.data.sequence_length=32",
    "--config.train.batch_size=8",
    "--config.train.duration.steps=2",
    "--config.optimizer.schedule={'kind': 'constant'}",
    "--config.evaluation.every=None",
    "--config.checkpoint.every=None",
)


@pytest.fixture(scope="module")
def stories(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stories260K as a workdir."""
    folder = data_root / "weights" / "stories260K"
    workdir = tmp_path_factory.mktemp("stories") / "W"
    source = f"--from={folder / 'stories260K.bin'}"
    tokenizer = f"--tokenizer={folder / 'tok512.bin'}"
    assert main(["convert", source, tokenizer, f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture
def converted(tmp_path: Path, capsys: Captured) -> Path:
    folder = write_folder(tmp_path / "folder", LLAMA, random_tensors(llama_shapes(LLAMA)))
    assert main(["convert", f"--from={folder}", f"--workdir={tmp_path / 'W'}"]) == 0
    capsys.readouterr()
    return tmp_path / "W"


def published_text(data_root: Path) -> str:
    """The greedy sample that the model's author shows."""
    page = (data_root / "weights" / "stories260K" / "stories260K.md").read_text()
    found = re.search(r"\$ \./run \S+ -z \S+ -t 0\.0\n(.*?)\n```", page, re.DOTALL)
    assert found is not None
    return found[1]


def test_stories_are_told_as_published(stories: Path, data_root: Path, capsys: Captured) -> None:
    """llama2.c's program stops after 256 positions, the first of which is <s>."""
    arguments = ["--prompt=", "--temperature=0", "--max_new_tokens=256"]
    assert main(["generate", f"--workdir={stories}", *arguments]) == 0
    assert capsys.readouterr().out.removesuffix("\n") == published_text(data_root)


def test_stories_come_out_and_in_as_they_were(
    stories: Path, data_root: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["convert", f"--workdir={stories}", f"--to={tmp_path / 'out'}"]) == 0
    again = tmp_path / "again"
    assert main(["convert", f"--from={tmp_path / 'out'}", f"--workdir={again}"]) == 0
    capsys.readouterr()
    digests = []
    for workdir in (stories, again):
        assert main(["inspect", f"--workdir={workdir}"]) == 0
        shown = json.loads(capsys.readouterr().out)
        digests.append(shown["digests"]["params"])
        assert shown["parameters"] == 260_032 and shown["converted"]["family"] == "llama"
    assert digests[0] == digests[1]
    arguments = ["--prompt=", "--temperature=0", "--max_new_tokens=60"]
    assert main(["generate", f"--workdir={again}", *arguments]) == 0
    told = capsys.readouterr().out.removesuffix("\n")
    assert len(told) > 100 and published_text(data_root).startswith(told)


def test_stories_are_trained_on(stories: Path, tmp_path: Path) -> None:
    """The run starts where the published weights are, not from scratch."""
    start = f"--config.train.warm_start={stories}"
    assert main(["train", CONTINUE, f"--workdir={tmp_path / 'V'}", start, *SMALL]) == 0
    lines = (tmp_path / "V" / "metrics.jsonl").read_text().splitlines()
    losses = [r["loss"] for r in map(json.loads, lines) if r.get("split") == "train"]
    # Documentation is no story, but English: an untrained model is at ln(512) = 6.2 or above.
    assert losses[0] < 5.9
    config = read_config(tmp_path / "V")
    assert config.model == read_config(stories).model
    assert config.data.add_bos


# --------------------------------------------------------------- a process each


def test_in_use_and_out_in_processes_of_their_own(run_lm, tmp_path: Path) -> None:
    tensors = random_tensors(gpt2_shapes(GPT2))
    folder, workdir = write_folder(tmp_path / "folder", GPT2, tensors), tmp_path / "W"
    done = run_lm("convert", f"--from={folder}", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary == {
        "workdir": str(workdir),
        "format": "huggingface",
        "family": "gpt2",
        "architecture": "decoder",
        "parameters": sum(array.size for array in tensors.values()),
        "tensors": len(tensors),
        "ignored": 0,
    }
    text = tmp_path / "in.jsonl"
    text.write_text('{"context": "the quick", "continuation": " brown fox"}\n')
    done = run_lm("score", f"--workdir={workdir}", f"--input={text}")
    assert done.returncode == 0 and json.loads(done.stdout)["logprob"] < 0, done.stderr
    done = run_lm("generate", f"--workdir={workdir}", "--prompt=the", "--max_new_tokens=4")
    assert done.returncode == 0 and done.stdout.startswith("the"), done.stderr
    done = run_lm("convert", f"--workdir={workdir}", f"--to={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    found = read_folder(tmp_path / "out").tensors
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name].read(), array)
    files = set(json.loads(done.stdout)["files"])
    assert {"config.json", "generation_config.json", "model.safetensors"} <= files
    assert files == {path.name for path in (tmp_path / "out").iterdir()}


def test_bad_files_end_with_a_message_and_leave_nothing(run_lm, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", LLAMA)
    path = write_safetensors(folder / "model.safetensors", random_tensors(llama_shapes(LLAMA)))
    path.write_bytes(path.read_bytes()[:-100])
    done = run_lm("convert", f"--from={folder}", f"--workdir={tmp_path / 'W'}")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"lm convert: {path} is truncated: ")
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


# --------------------------------------------------------------- command lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=W"], "give either --from=WHAT to convert into --workdir, or --to=DIR"),
        (["--workdir=W", "--from=a", "--to=b"], "give either --from=WHAT"),
        (
            ["--workdir=W", "--from=a", "--dtype=bfloat16"],
            "--dtype goes with --to, not with --from",
        ),
        (["--workdir=W", "--from=a", "--step=3"], "--step goes with --to"),
        (["--workdir=W", "--to=b", "--tokenizer=t"], "--tokenizer goes with --from"),
        (["--workdir=W", "--to="], "--from= or --to= is empty"),
        (["--workdir=W", "--to=b", "--dtype=int8"], "--dtype=int8"),
        (["--from=a"], "--workdir is required"),
        (["a", "--workdir=W", "--from=a"], "unexpected argument 'a'"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(
    arguments: list[str], message: str, capsys: Captured
) -> None:
    assert main(["convert", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_shard_size_is_checked_before_anything_is_read(capsys: Captured) -> None:
    assert main(["convert", "--workdir=none", "--to=b", "--shard_size=large"]) == 2
    assert "--shard_size=large: write a size such as 5GB" in capsys.readouterr().err


def test_help_shows_every_way(capsys: Captured) -> None:
    assert main(["convert", "--help"]) == 0
    shown = capsys.readouterr().out
    for flag in ("from", "to", "tokenizer", "family", "dtype", "step", "shard_size"):
        assert f"--{flag}: " in shown


# --------------------------------------------------------------- training and measuring


def test_a_converted_workdir_is_no_run_to_go_on_with(converted: Path, capsys: Captured) -> None:
    start = f"--config.train.warm_start={converted}"
    for command in (
        ["train", "--config=experiments/quickstart.py:smoke", f"--workdir={converted}"],
        ["train", CONTINUE, start, f"--workdir={converted}"],
    ):
        assert main(command) == 2
        message = capsys.readouterr().err
        assert f"{converted} holds a converted model, not a run: to train from it" in message
        assert f"--config.train.warm_start={converted} --workdir=NEW" in message
    assert not (converted / "metrics.jsonl").exists()


def test_evaluating_needs_data_that_a_converted_model_has_not(
    converted: Path, capsys: Captured
) -> None:
    assert main(["evaluate", f"--workdir={converted}"]) == 1
    assert "has no data.validation to evaluate on: it is a converted" in capsys.readouterr().err


def test_training_needs_data_and_an_objective(tmp_path: Path, capsys: Captured) -> None:
    command = ["train", "--config=experiments/quickstart.py:smoke", f"--workdir={tmp_path / 'V'}"]
    assert main([*command, "--config.data.train={}"]) == 2
    assert "data.train names no source: there is nothing to train on" in capsys.readouterr().err
    assert main([*command, "--config.objective=None"]) == 2
    assert "objective is None: it says what is learned" in capsys.readouterr().err


# --------------------------------------------------------------- configs that start from a workdir


def test_a_config_without_model_asks_for_a_start() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("experiments/continue.py")
    assert str(caught.value) == (
        "--config=experiments/continue.py has no model and no data.tokenizer: it goes on with a "
        "model that there is; name its workdir with --config.train.warm_start=W"
    )


def test_a_config_takes_model_and_tokenizer_from_its_start(converted: Path) -> None:
    start = ("train.warm_start", str(converted))
    config = load_config("experiments/continue.py", [start])
    assert config.model == read_config(converted).model
    assert config.data.tokenizer.path == str(converted / "tokenizer")
    assert config.train.warm_start == str(converted) and config.train.batch_size == 16
    changed = load_config(
        "experiments/continue.py",
        [("model.dropout.residual", "0.25"), ("data.tokenizer", "{'kind': 'byte'}"), start],
    )
    assert changed.model.dropout.residual == 0.25
    assert changed.model.num_layers == config.model.num_layers
    assert changed.data.tokenizer.kind == "byte"


def test_a_config_with_a_model_keeps_it(converted: Path) -> None:
    plain = load_config("experiments/quickstart.py")
    warm = load_config("experiments/quickstart.py", [("train.warm_start", str(converted))])
    assert (warm.model, warm.data) == (plain.model, plain.data)


def test_a_start_that_is_no_workdir_is_named(tmp_path: Path, capsys: Captured) -> None:
    command = ["train", CONTINUE, f"--workdir={tmp_path / 'V'}"]
    assert main([*command, f"--config.train.warm_start={tmp_path / 'none'}"]) == 1
    assert f"no run in {tmp_path / 'none'}: there is no such folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_goes_on_without_its_start(converted: Path, tmp_path: Path, capsys: Captured) -> None:
    """Model and tokenizer are the run's own once it has begun."""
    start = f"--config.train.warm_start={converted}"
    command = ["train", CONTINUE, f"--workdir={tmp_path / 'V'}", start, *SMALL]
    assert main([*command, "--config.model.dropout.residual=0.1"]) == 0
    converted.rename(tmp_path / "gone")
    again = [*command, "--config.model.dropout.residual=0.1", "--config.train.duration.steps=3"]
    assert main(again) == 0
    assert "resuming from step 2" in capsys.readouterr().err


def test_a_run_is_a_start_for_another(tmp_path: Path) -> None:
    quickstart = "--config=experiments/quickstart.py:smoke"
    assert main(["train", quickstart, f"--workdir={tmp_path / 'first'}"]) == 0
    start = f"--config.train.warm_start={tmp_path / 'first'}"
    assert main(["train", CONTINUE, f"--workdir={tmp_path / 'V'}", start, *SMALL]) == 0
    assert read_config(tmp_path / "V").model == read_config(tmp_path / "first").model
