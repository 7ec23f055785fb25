"""`lm generate` in this process, on a run that was never trained."""

from __future__ import annotations

import copy
import dataclasses
import functools
import io
import json
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from lm.cli import main as cli
from lm.config import (
    CharacterTokenizer,
    Config,
    DataConfig,
    Duration,
    Embedded,
    InitConfig,
    Learned,
    ModelConfig,
    TrainConfig,
)
from lm.data.tokenizers.simple import Characters
from lm.objectives import build_objective
from lm.train import workdir as workdirs
from lm.train.workdir import Run

ALPHABET = "abcdefghij .\n"


@functools.cache
def tiny_run() -> Run:
    tokenizer = Characters.train([ALPHABET])
    model = ModelConfig(
        vocab_size=16,  # wider than the tokenizer's vocabulary
        num_layers=1,
        d_model=8,
        num_heads=2,
        d_ff=8,
        position=Learned(max_length=64),
        init=InitConfig(stddev=0.6, scale_residual=False),
    )
    data = DataConfig(train={"t": Embedded()}, tokenizer=CharacterTokenizer(), sequence_length=32)
    config = Config(
        model=model, data=data, train=TrainConfig(batch_size=1, duration=Duration(steps=1))
    )
    objective = build_objective(config.objective, model)
    tokens = jnp.zeros((1, 4), jnp.int32)
    params = nn.unbox(jax.jit(objective.model.init)(jax.random.key(0), tokens))["params"]
    return Run(Path("W"), config, objective, objective.model, params, tokenizer, 7, {})


@pytest.fixture(autouse=True)
def loads_tiny_run(monkeypatch):
    def load(workdir: Path, step: int | None = None) -> Run:
        if str(workdir) == "other":
            return dataclasses.replace(tiny_run(), tokenizer=Characters.train(["abc"]))
        return tiny_run()

    monkeypatch.setattr(workdirs, "load_run", load)


def generate(capsys, *arguments: str) -> tuple[int, str, str]:
    status = cli.main(["generate", "--workdir=W", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_prompt_and_completion_on_stdout_speed_on_stderr(capsys):
    status, out, err = generate(capsys, "--prompt=abc", "--max_new_tokens=12", "--temperature=0")
    assert status == 0
    assert out.startswith("abc") and out.endswith("\n")
    assert len(out) == 3 + 12 + 1
    assert re.search(
        r"12 tokens in .* s \(.* tokens/s, compilation included\), checkpoint step 7", err
    )


def test_json_holds_the_same_text_and_its_tokens(capsys):
    options = ("--prompt=abc", "--max_new_tokens=9", "--seed=3", "--top_p=0.9", "--top_k=8")
    _, plain, _ = generate(capsys, *options)
    status, out, _ = generate(capsys, *options, "--json")
    result = json.loads(out)
    assert status == 0
    assert set(result) == {"prompt", "completions"} and result["prompt"] == "abc"
    [completion] = result["completions"]
    assert set(completion) == {"text", "tokens", "finish_reason"}
    assert plain == "abc" + completion["text"] + "\n"
    assert tiny_run().tokenizer.encode(completion["text"]) == completion["tokens"]
    assert completion["finish_reason"] == "length"


def test_the_seed_is_heeded(capsys):
    outs = [
        generate(capsys, "--prompt=a", "--max_new_tokens=9", f"--seed={s}")[1] for s in (1, 1, 2)
    ]
    assert outs[0] == outs[1] != outs[2]


def test_only_the_tokenizers_tokens_are_said(capsys):
    status, out, _ = generate(capsys, "--prompt=a", "--max_new_tokens=60", "--temperature=9")
    assert status == 0 and set(out) <= set(ALPHABET)


def test_as_many_tokens_as_there_are_positions_when_no_number_is_given(capsys):
    status, out, _ = generate(capsys, "--prompt=abc")
    assert status == 0 and len(out) == 64 + 1
    status, out, err = generate(capsys, "--prompt=" + "a" * 64)
    assert (status, out) == (2, "")
    assert "prompt of 64 tokens + max_new_tokens=1 exceeds the 64 positions" in err


def test_several_sequences_are_separated(capsys):
    status, out, _ = generate(
        capsys, "--prompt=ab", "--max_new_tokens=5", "--num_return_sequences=3"
    )
    parts = out.removesuffix("\n").split("\n" + "-" * 20 + "\n")
    assert status == 0 and len(parts) == 3
    assert all(part.startswith("ab") and len(part) == 7 for part in parts)


def test_stop_strings_end_the_text(capsys):
    options = ("--prompt=abc", "--max_new_tokens=12", "--temperature=0")
    _, out, _ = generate(capsys, *options)
    said = out.removeprefix("abc").removesuffix("\n")
    stop = said[4:6]
    _, out, _ = generate(capsys, *options, "--stop=never", f"--stop={stop}")
    assert out == "abc" + said[: said.find(stop)] + "\n"


def test_an_empty_prompt_starts_where_documents_did(capsys, monkeypatch):
    tokenizer = copy.copy(tiny_run().tokenizer)
    tokenizer.eos_id = tokenizer.encode(".")[0]
    run = dataclasses.replace(tiny_run(), tokenizer=tokenizer)
    monkeypatch.setattr(workdirs, "load_run", lambda workdir, step=None: run)
    options = ("--max_new_tokens=6", "--temperature=0", "--json")
    _, after_end, _ = generate(capsys, "--prompt=.", *options)
    status, out, _ = generate(capsys, "--prompt=", *options)
    assert status == 0
    assert json.loads(out)["completions"] == json.loads(after_end)["completions"]


def test_an_empty_prompt_file_is_refused(capsys, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_bytes(b"")
    status, out, err = generate(capsys, f"--prompt_file={file}")
    assert (status, out) == (1, "")
    assert "prompt.txt is empty; --prompt='' starts from nothing" in err


def with_end(monkeypatch) -> Run:
    """The same run, whose texts end with a point."""
    tokenizer = copy.copy(tiny_run().tokenizer)
    tokenizer.eos_id = tokenizer.encode(".")[0]
    run = dataclasses.replace(tiny_run(), tokenizer=tokenizer)
    monkeypatch.setattr(workdirs, "load_run", lambda workdir, step=None: run)
    return run


def test_beam_search_gives_the_best_first_with_scores(capsys, monkeypatch):
    with_end(monkeypatch)
    options = ("--prompt=abc", "--max_new_tokens=6", "--num_beams=3", "--length_penalty=0.5")
    status, out, _ = generate(capsys, *options, "--num_return_sequences=3", "--json")
    found = json.loads(out)["completions"]
    scores = [completion["score"] for completion in found]
    assert status == 0 and len(found) == 3 and scores == sorted(scores, reverse=True)
    status, out, _ = generate(capsys, *options)
    assert (status, out) == (0, "abc" + found[0]["text"] + "\n")
    _, out, _ = generate(capsys, *options, "--num_return_sequences=3", "--early_stopping=never",
                         "--choice=ab", "--choice=h i", "--json")  # fmt: skip
    assert {completion["text"] for completion in json.loads(out)["completions"]} == {"ab", "h i"}
    first = found[0]["text"][:2]
    _, out, _ = generate(capsys, *options, f"--suppress={first}")
    assert first not in out.removeprefix("abc")


def test_contrastive_search_is_asked_for_by_its_penalty(capsys):
    options = ("--prompt=abc", "--max_new_tokens=9")
    _, greedy, _ = generate(capsys, *options, "--temperature=0")
    status, out, _ = generate(capsys, *options, "--penalty_alpha=0", "--top_k=3")
    assert (status, out) == (0, greedy)
    _, out, _ = generate(capsys, *options, "--penalty_alpha=0.9")
    assert out != greedy and len(out) == len(greedy)


class Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_a_draft_changes_no_greedy_text_and_its_share_is_reported(capsys):
    arguments = (
        "--prompt=ab",
        "--temperature=0",
        "--max_new_tokens=20",
        "--num_return_sequences=2",
    )
    _, plain, _ = generate(capsys, *arguments)
    status, drafted, err = generate(capsys, *arguments, "--draft=W", "--draft_tokens=3")
    assert status == 0 and drafted == plain
    assert "100.0% of the draft's tokens were kept" in err


def test_int8_weights_say_something_else_sometimes(capsys):
    arguments = ("--prompt=ab", "--temperature=0", "--json")
    _, exact, _ = generate(capsys, *arguments)
    status, near, _ = generate(capsys, *arguments, "--weights=int8")
    [exact], [near] = (json.loads(text)["completions"] for text in (exact, near))
    assert status == 0 and near["tokens"][0] == exact["tokens"][0]
    assert len(near["tokens"]) == len(exact["tokens"])


def test_prompt_from_a_file_and_from_standard_input(capsys, tmp_path, monkeypatch):
    file = tmp_path / "prompt.txt"
    file.write_bytes(b"abc\n")
    options = ("--max_new_tokens=4", "--temperature=0", "--json")
    _, from_file, _ = generate(capsys, f"--prompt_file={file}", *options)
    monkeypatch.setattr("sys.stdin", Stdin(b"abc\n"))
    _, from_stdin, _ = generate(capsys, "--prompt=-", *options)
    assert json.loads(from_file)["prompt"] == "abc\n"
    assert from_stdin == from_file


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "give the text to continue either as --prompt=TEXT or as --prompt_file=F"),
        (["--prompt=a", "--prompt_file=f"], 2, "either as --prompt=TEXT or as --prompt_file=F"),
        (["--prompt_file=absent.txt"], 1, "could not read --prompt_file=absent.txt: No such file"),
        (["--prompt=a", "b"], 2, "unexpected argument 'b'"),
        (["--prompt=a", "--top_p=1.5"], 2, "top_p must be above 0 and at most 1, not 1.5"),
        (["--prompt=a", "--temperature=-1"], 2, "temperature must be 0 (greedy) or a positive"),
        (["--prompt=a", "--max_new_tokens=0"], 2, "max_new_tokens"),
        (["--prompt=a", "--seed=-1"], 2, "seed"),
        (["--prompt=a", "--stop="], 2, "a stop string cannot be empty"),
        (["--prompt=\udcff"], 1, "the prompt (--prompt) is not UTF-8 text"),
        (["--prompt="], 1, "the prompt is empty, and no token stood before the documents"),
        (["--prompt=a", "--temperature=1e-40"], 2, "use 0 to take the most likely token"),
        (["--prompt=a", "--max_new_tokens=99999999999"], 2, "below 2^31, not 99999999999"),
        (["--prompt=a", "--num_return_sequences=1000000000000"], 2, "1000000000000 sequences of"),
        (["--prompt=abX"], 1, "X"),
        (["--prompt=a", "--weights=int4"], 2, "--weights"),
        (["--prompt=a", "--draft_tokens=2"], 2, "--draft_tokens is of a draft: give --draft with"),
        (["--prompt=a", "--draft=W", "--draft_tokens=0"], 2, "draft_tokens"),
        (["--prompt=a", "--draft=W", "--num_beams=2"], 2, "--draft does not go with a search (--n"),
        (["--prompt=a", "--draft=other"], 2, "--draft=other has another tokenizer than --workdir"),
        (["--prompt=a", "--num_beams=0"], 2, "num_beams"),
        (["--prompt=a", "--num_beams=2", "--temperature=1"], 2, "--temperature does not go with"),
        (["--prompt=a", "--num_beams=2", "--stop=."], 2, "--stop does not go with --num_beams"),
        (["--prompt=a", "--length_penalty=1"], 2, "--length_penalty is of beam search: give --num"),
        (["--prompt=a", "--num_beams=2", "--suppress="], 2, "--suppress= or --choice= is empty"),
        (["--prompt=a", "--num_beams=2", "--penalty_alpha=0.6"], 2, "--penalty_alpha does not go"),
        (["--prompt=a", "--penalty_alpha=0.6", "--top_p=0.5"], 2, "--top_p does not go with --pen"),
        (["--prompt=a", "--penalty_alpha=2"], 2, "penalty_alpha must be between 0 and 1, not 2"),
        (["--prompt=a", "--penalty_alpha=1", "--num_return_sequences=2"], 2, "one completion of"),
        (["--prompt=a", "--choice=b"], 2, "--choice is of beam search: give --num_beams"),
        (["--prompt=a", "--num_beams=2", "--choice=b"], 2, "choices need an end-of-sequence token"),
        (
            ["--prompt=a", "--num_beams=2", "--num_return_sequences=3"],
            2,
            "num_return_sequences must be between 1 and num_beams=2, not 3",
        ),
        (
            ["--prompt=abc", "--max_new_tokens=64"],
            2,
            "prompt of 3 tokens + max_new_tokens=64 exceeds the 64 positions the model has;",
        ),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_printed(capsys, arguments, status, message):
    got, out, err = generate(capsys, *arguments)
    assert (got, out) == (status, "")
    assert message in err
    assert "Traceback" not in err


def test_the_run_is_required(capsys):
    assert cli.main(["generate", "--prompt=a"]) == 2
    assert "workdir" in capsys.readouterr().err


def test_text_is_streamed_before_the_end(monkeypatch):
    from absl import flags

    from lm.cli import generate as command
    from lm.generate.sampling import SamplingConfig

    class Recorder(io.StringIO):
        def __init__(self) -> None:
            super().__init__()
            self.flushed: list[int] = []

        def flush(self) -> None:
            self.flushed.append(len(self.getvalue()))

    values = flags.FlagValues()
    command.define(values)
    values(["lm generate", "--workdir=W", "--prompt=ab", "--max_new_tokens=16"])
    out = Recorder()
    command.run_with(tiny_run(), "ab", SamplingConfig(temperature=0.0), values, out)
    # The prompt with the first token, and later ones one by one.
    assert out.flushed[:2] == [3, 4] and len(out.flushed) == 16
