"""Averages of checkpoints: numpy's mean, in a workdir like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from lm.cli import main as cli
from lm.config import (
    ByteTokenizer,
    CheckpointConfig,
    Config,
    DataConfig,
    Duration,
    Embedded,
    ModelConfig,
    NoPosition,
    TrainConfig,
)
from lm.convert.outgoing import export
from lm.data.tokenizers.simple import Bytes
from lm.errors import ConfigError, UserError
from lm.generate.sampling import SamplingConfig
from lm.generate.text import generate_text
from lm.objectives import build_objective
from lm.train.averaging import average
from lm.train.checkpoint import Checkpoints
from lm.train.state import TrainState
from lm.train.workdir import CHECKPOINTS, TOKENIZER, load_run, write_config

STEPS = (10, 20, 30, 40)
CONFIG = Config(
    model=ModelConfig(
        vocab_size=Bytes().vocab_size, num_layers=1, d_model=4, num_heads=2, d_ff=8,
        position=NoPosition(),
    ),
    data=DataConfig(train={"t": Embedded()}, tokenizer=ByteTokenizer(), sequence_length=8),
    train=TrainConfig(batch_size=1, duration=Duration(steps=40)),
)  # fmt: skip


def params_of(step: int) -> Any:
    """Random numbers of very different sizes, for sums that float32 would round otherwise."""
    objective = build_objective(CONFIG.objective, CONFIG.model)
    batch = {"tokens": jnp.zeros((1, 4), jnp.int32)}
    made = jax.eval_shape(lambda: objective.init(jax.random.key(0), batch))
    rng = np.random.default_rng(step)
    return jax.tree.map(
        lambda x: (rng.normal(size=x.shape) * 10 ** rng.uniform(-3, 3, x.shape)).astype(np.float32),
        nn.meta.unbox(made),
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "W"
    folder.mkdir()
    write_config(folder, CONFIG)
    Bytes().save(folder / TOKENIZER)
    checkpoints = Checkpoints(folder / CHECKPOINTS, CheckpointConfig(keep_last=9))
    for step in STEPS:
        params = params_of(step)
        state = TrainState(
            step=jnp.int32(step),
            params=params,
            opt_state=optax.sgd(0.1).init(params),
            # It plays no part.
            ema=jax.tree.map(lambda x: 0 * x, params),
            rng=jax.random.key_data(jax.random.key(5)),
        )
        checkpoints.save(step, state, {"next": step}, {"evaluation": {}})
    checkpoints.close()
    return folder


def assert_mean(output: Path, steps: tuple[int, ...]) -> None:
    run = load_run(output)
    trees = [params_of(step) for step in steps]
    expected = jax.tree.map(
        lambda *x: np.mean(np.stack(x), axis=0, dtype=np.float64).astype(np.float32), *trees
    )
    assert jax.tree.structure(run.params) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, run.params, expected)
    assert {x.dtype for x in jax.tree.leaves(run.params)} == {np.dtype(np.float32)}
    assert run.data == {"next": max(steps)}


@pytest.mark.parametrize("ahead", [1 << 24, 300, 1])
def test_the_last_few(
    workdir: Path, tmp_path: Path, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many parameters are read at once."""
    monkeypatch.setattr("lm.train.parameters._AHEAD", ahead)
    done = average(workdir, tmp_path / "new", last=3)
    assert done.steps == (20, 30, 40)
    assert done.parameters == sum(x.size for x in jax.tree.leaves(params_of(10)))
    assert_mean(tmp_path / "new", (20, 30, 40))


def test_the_command_averages_the_steps_it_is_given_and_the_result_is_used_like_a_run(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new"
    status = cli.main(["average", f"--workdir={workdir}", "--steps=40,10", f"--output={output}"])
    summary = json.loads(capsys.readouterr().out)
    assert (status, summary["steps"]) == (0, [10, 40])
    assert_mean(output, (10, 40))
    assert cli.main(["inspect", f"--workdir={output}"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["converted"]["format"] == "average"
    run = load_run(output)
    [[said]] = generate_text(
        run.model, run.params, run.tokenizer, ["a"], sampling=SamplingConfig(temperature=0.0),
        max_new_tokens=2,
    )  # fmt: skip
    assert len(said.tokens) == 2
    with pytest.raises(ConfigError):
        # No family expresses the model, but the workdir is read.
        export(output, tmp_path / "hf", family="t5")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"last": 5}, UserError, r"has 4 checkpoints, not 5 \(of steps 10, 20, 30, 40\); checkpoi"
                                 "nt.keep_last"),
        ({"last": 1}, ConfigError, "--last must be at least 2, not 1"),
        ({"steps": [10, 11]}, UserError, "no checkpoint of step 11 in .*10, 20, 30, 40; checkpoi"
                                         "nt.keep_last"),
        ({"steps": [10, 10]}, ConfigError, "at least two different ones"),
        ({}, ConfigError, "either --last=N, or --steps=A,B"),
        ({"last": 2, "steps": [10, 20]}, ConfigError, "either --last=N, or --steps=A,B"),
    ],
)  # fmt: skip
def test_what_cannot_be_averaged_is_refused(
    workdir: Path, tmp_path: Path, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        average(workdir, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_there_is_left_alone(workdir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="--output=.* is not empty: name a new folder"):
        average(workdir, tmp_path, last=2)


def test_steps_are_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["average", "--workdir=W", "--output=O", "--steps=1,x"]) == 2
    assert "--steps: 'x' is no step" in capsys.readouterr().err
