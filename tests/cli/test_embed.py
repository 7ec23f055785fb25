"""`lm embed`, end to end on a small encoder's workdir."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.cli.main import main
from lm.config import (
    ByteTokenizer,
    Config,
    DataConfig,
    Duration,
    InitConfig,
    Learned,
    ModelConfig,
    TrainConfig,
)
from lm.convert.store import LazyArray, write_checkpoint
from lm.data.tokenizers.simple import Bytes
from lm.model import build_model
from lm.train.workdir import write_config

TEXTS = ["short", "a longer text than the others", "文字", "x"]
MODEL = ModelConfig(
    vocab_size=259,
    num_layers=2,
    d_model=16,
    num_heads=2,
    d_ff=32,
    position=Learned(48),
    architecture="encoder",
    lm_head="none",
    init=InitConfig(stddev=0.3),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A workdir with an encoder, and its parameters."""
    workdir = tmp_path_factory.mktemp("encoder")
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = nn.meta.unbox(jax.jit(build_model(MODEL).init)(jax.random.key(0), tokens))["params"]
    data = DataConfig(train={}, tokenizer=ByteTokenizer(), sequence_length=48, add_bos=True)
    train = TrainConfig(batch_size=8, duration=Duration(steps=0))
    write_config(workdir, Config(model=MODEL, data=data, train=train, objective=None))
    Bytes().save(workdir / "tokenizer")
    lazy = jax.tree.map(
        lambda x: LazyArray(x.shape, np.dtype(np.float32), partial(np.asarray, x)), params
    )
    write_checkpoint(workdir / "checkpoints", lazy, data={}, meta={"evaluation": {}})
    return workdir, params


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": t, "label": 1}) + "\n" for t in TEXTS))
    return path


def states_of(params: Any, text: str) -> np.ndarray:
    tokens = jnp.asarray([[257, *text.encode(), 258]])
    return np.asarray(build_model(MODEL).apply({"params": params}, tokens, method="hidden")[0][0])


def embed(workdir: Path, source: Path, output: Path, *more: str) -> int:
    return main(["embed", f"--workdir={workdir}", f"--input={source}", f"--output={output}", *more])


def test_pooled_vectors_in_the_order_of_the_lines(
    run: Any, lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, params = run
    for pooling, pick in (("mean", lambda s: s.mean(0)), ("cls", lambda s: s[0])):
        output = tmp_path / f"{pooling}.npz"
        assert embed(workdir, lines, output, f"--pooling={pooling}") == 0
        found = np.load(output)["embeddings"]
        expected = np.stack([pick(states_of(params, text)) for text in TEXTS])
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
        summary = json.loads(capsys.readouterr().out)
        assert summary["texts"] == 4 and summary["width"] == 16 and summary["pooling"] == pooling
    assert embed(workdir, lines, tmp_path / "unit.npz", "--normalize", "--pooling=cls") == 0
    unit = np.load(tmp_path / "unit.npz")["embeddings"]
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        unit, found / np.linalg.norm(found, axis=1, keepdims=True), rtol=1e-5, atol=1e-6
    )


def test_a_vector_a_token(run: Any, lines: Path, tmp_path: Path) -> None:
    workdir, params = run
    output = tmp_path / "states.npz"
    assert embed(workdir, lines, output, "--pooling=none") == 0
    archive = np.load(output)
    assert archive.files == ["0", "1", "2", "3"]
    for name, text in zip(archive.files, TEXTS):
        np.testing.assert_allclose(archive[name], states_of(params, text), rtol=2e-5, atol=2e-5)


def test_what_cannot_be_embedded_is_named_and_nothing_is_written(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, _ = run
    source, output = tmp_path / "in.jsonl", tmp_path / "out.npz"

    def fails(text: str, message: str, status: int = 1, *more: str) -> None:
        source.write_text(text)
        assert embed(workdir, source, output, *more) == status
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
        assert not output.exists()

    fails('{"text": "a"}\n{"txt": "b"}\n', f"{source}:2: needs \"text\"; its keys: 'txt'")
    fails('{"text": 3}\n', f'{source}:1: "text" must be a string, not 3')
    long = json.dumps({"text": "y" * 50}) + "\n"
    fails(long, f"{source}:1: 52 tokens exceed the 48 positions")
    fails(long, "max_tokens=49 exceeds the 48 positions", 2, "--max_tokens=49")
    fails('{"text": "a"}\n', "layer must be from -3 to 2", 2, "--layer=7")
    source.write_text(long)
    assert embed(workdir, source, output, "--max_tokens=10") == 0
    capsys.readouterr()
    assert main(["embed", f"--workdir={workdir}", f"--input={source}", "--output=x.txt"]) == 2
    assert "--output=x.txt must end in .npz" in capsys.readouterr().err


def test_other_commands_say_what_they_need(
    run: Any, lines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, _ = run
    assert main(["generate", f"--workdir={workdir}", "--prompt=a"]) == 2
    assert "this model's architecture is 'encoder'" in capsys.readouterr().err
    assert main(["score", f"--workdir={workdir}", f"--input={lines}"]) == 2
    assert "only a decoder with a language-model head scores texts" in capsys.readouterr().err
    assert main(["evaluate", f"--workdir={workdir}"]) == 1
    assert "no data.validation" in capsys.readouterr().err
    assert main(["inspect", f"--workdir={workdir}"]) == 0
    assert "optimizer" not in json.loads(capsys.readouterr().out)["digests"]
