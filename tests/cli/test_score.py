"""`lm score` in this process, on a run that was never trained."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.cli import main as cli
from lm.config import (
    ByteTokenizer,
    Config,
    DataConfig,
    Duration,
    Embedded,
    InitConfig,
    Learned,
    ModelConfig,
    TrainConfig,
)
from lm.data.tokenizers.simple import Bytes
from lm.objectives import build_objective
from lm.train import workdir as workdirs
from lm.train.workdir import Run

BYTES = Bytes()


@functools.cache
def tiny_run() -> Run:
    model = ModelConfig(
        vocab_size=BYTES.vocab_size,
        num_layers=1,
        d_model=8,
        num_heads=2,
        d_ff=8,
        position=Learned(max_length=32),
        init=InitConfig(stddev=0.6, scale_residual=False),
    )
    data = DataConfig(train={"t": Embedded()}, tokenizer=ByteTokenizer(), sequence_length=16)
    config = Config(
        model=model, data=data, train=TrainConfig(batch_size=1, duration=Duration(steps=1))
    )
    objective = build_objective(config.objective, model)
    tokens = jnp.zeros((1, 4), jnp.int32)
    params = nn.unbox(jax.jit(objective.model.init)(jax.random.key(0), tokens))["params"]
    return Run(Path("W"), config, objective, objective.model, params, BYTES, 7, {})


@pytest.fixture
def loaded(monkeypatch) -> dict[str, Run]:
    """The run that `lm score` loads; a test may put another one here."""
    holder = {"run": tiny_run()}
    monkeypatch.setattr(workdirs, "load_run", lambda workdir, step=None: holder["run"])
    return holder


@pytest.fixture
def score(capsys, tmp_path, loaded):
    """Writes the lines (objects or raw text) to a file and scores it."""

    def run(lines: list, *arguments: str) -> tuple[int, str, str]:
        file = tmp_path / "in.jsonl"
        file.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
        status = cli.main(["score", "--workdir=W", f"--input={file}", *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@functools.partial(jax.jit, static_argnames="model")
def forward(model, params, tokens):
    return model.apply({"params": params}, tokens)[0]


def direct(tokens: list[int], first: int) -> np.ndarray:
    run = tiny_run()
    inputs = np.zeros((1, 32), np.int32)
    inputs[0, : len(tokens)] = tokens
    logprobs = np.asarray(jax.nn.log_softmax(forward(run.model, run.params, inputs)[0]))
    return logprobs[np.arange(first - 1, len(tokens) - 1), tokens[first:]]


def test_lines_are_scored_in_order_after_what_stood_before_them(score):
    status, out, err = score(
        [
            {"text": "a longer text"},
            {"context": "two and ", "continuation": "two", "id": 5},
            {"text": "é"},
            {"context": "", "continuation": "a longer text"},
        ]
    )
    assert status == 0
    results = [json.loads(line) for line in out.splitlines()]
    assert [set(r) for r in results] == [{"logprob", "tokens", "token_logprobs"}] * 4
    eos = BYTES.eos_id
    cases = [([eos], "a longer text"), (BYTES.encode("two and "), "two"), ([eos], "é"),
             ([eos], "a longer text")]  # fmt: skip
    for result, (context, text) in zip(results, cases, strict=True):
        tokens = BYTES.encode(text)
        expected = direct([*context, *tokens], len(context))
        assert result["tokens"] == tokens
        np.testing.assert_allclose(result["token_logprobs"], expected, atol=2e-5)
        assert result["logprob"] == pytest.approx(sum(result["token_logprobs"]))
    assert "4 lines, 31 tokens in" in err and "checkpoint step 7" in err


def test_bos_and_no_start_token(score, loaded):
    run = tiny_run()
    lines = [{"text": "abc"}, {"context": "a", "continuation": "bc"}]
    data = dataclasses.replace(run.config.data, add_bos=True)
    loaded["run"] = dataclasses.replace(run, config=dataclasses.replace(run.config, data=data))
    whole, after = map(json.loads, score(lines)[1].splitlines())
    tokens = [BYTES.bos_id, *BYTES.encode("abc")]
    np.testing.assert_allclose(whole["token_logprobs"], direct(tokens, 1), atol=2e-5)
    np.testing.assert_allclose(after["token_logprobs"], direct(tokens, 2), atol=2e-5)
    data = dataclasses.replace(run.config.data, add_eos=False)
    loaded["run"] = dataclasses.replace(run, config=dataclasses.replace(run.config, data=data))
    whole, after = map(json.loads, score(lines)[1].splitlines())
    assert whole["tokens"] == BYTES.encode("bc")
    np.testing.assert_allclose(whole["token_logprobs"], direct(tokens[1:], 1), atol=2e-5)
    assert after == whole
    status, out, err = score([{"text": "a"}])
    assert (status, out) == (1, "") and "in.jsonl:1: the text is a single token" in err


def test_output_is_checked_before_anything_is_scored(score, monkeypatch, tmp_path):
    def refuse(*arguments, **options):
        raise AssertionError("loaded")

    monkeypatch.setattr(workdirs, "load_run", refuse)
    for path in (f"{tmp_path}/absent/out.jsonl", f"{tmp_path}", ""):
        status, _, err = score([{"text": "a"}], f"--output={path}")
        assert status != 0 and "--output=" in err and "Traceback" not in err


def test_output_file_and_standard_input(score, capsys, tmp_path, monkeypatch):
    output = tmp_path / "out.jsonl"
    lines = [{"text": "abc"}, {"text": "\u2028 is no end of a line"}]
    _, printed, _ = score(lines)
    status, out, _ = score(lines, f"--output={output}")
    assert (status, out) == (0, "")
    assert output.read_text() == printed
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": io.BytesIO(text.encode())}))
    assert cli.main(["score", "--workdir=W", "--input=-"]) == 0
    assert capsys.readouterr().out == printed


def test_long_texts_need_windows(score):
    lines = [{"text": "short"}, {"text": "x" * 40}]
    status, out, err = score(lines)
    assert (status, out) == (1, "")
    assert "in.jsonl:2: 41 tokens" in err and "exceed its 32 positions" in err
    assert "--window_stride" in err
    status, out, _ = score(lines, "--window_stride=8")
    assert status == 0
    assert [len(json.loads(line)["tokens"]) for line in out.splitlines()] == [5, 40]
    status, _, err = score(lines, "--window_stride=17")
    assert status == 2
    assert "between 1 and the window's 16 tokens, not 17" in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', ":2: not a JSON line in UTF-8"),
        ("", ":2: the line is blank"),
        ('["a"]', ":2: expected a JSON object, got list"),
        ({"contxt": "a", "continuation": "b"}, ':2: needs "text", or "context" and "continuation"; '
         "its keys: 'contxt', 'continuation'"),
        ({"context": "a"}, ':2: needs "text", or "context" and "continuation"'),
        ({}, "its keys: none"),
        ({"text": "a", "continuation": "b"}, ':2: give either "text" or'),
        ({"text": 5}, ':2: "text" must be a string, not 5'),
        ({"text": ""}, ':2: "text" is empty'),
        ({"context": "a", "continuation": ""}, ':2: "continuation" is empty'),
        ({"text": ["a"]}, ':2: "text" must be a string, not list'),
        ("[" * 100_000, ":2: not a JSON line: nested too deeply"),
        ('{"text": "a", "id": 1, "text": "b"}', ":2: not a JSON line in UTF-8: the key 'text' is "
         "given more than once"),
        ({"text": "\ud800"}, ":2: "),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_and_nothing_is_written(score, tmp_path, line, message):
    output = tmp_path / "out.jsonl"
    output.write_text("before")
    status, out, err = score([{"text": "fine"}, line], f"--output={output}")
    assert (status, out) == (1, "")
    assert "in.jsonl" + message in err or message in err
    assert "Traceback" not in err
    assert output.read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_files_that_cannot_be_used_are_named(score, capsys, tmp_path, loaded):
    status, _, err = score([])
    assert status == 1 and "in.jsonl is empty: give at least one line" in err
    status, _, err = score([{"text": "a"}], f"--output={tmp_path}/absent/out.jsonl")
    assert status == 1 and "could not write --output=" in err and "absent is no folder" in err
    status, _, err = score([{"text": "a"}], f"--output={tmp_path}")
    assert status == 1 and "could not write --output=" in err and "it is a folder" in err
    status, _, err = score([{"text": "a"}], "--output=")
    assert status == 2 and "--output= names no file; leave it out for standard output" in err
    assert cli.main(["score", "--workdir=W", "--input="]) == 2
    assert "--input= names no file" in capsys.readouterr().err
    assert cli.main(["score", "--workdir=W", "--input=absent.jsonl"]) == 1
    assert "could not read --input=absent.jsonl: No such file" in capsys.readouterr().err
    assert cli.main(["score", "--workdir=W"]) == 2
    assert "input" in capsys.readouterr().err
