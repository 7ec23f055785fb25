"""Samples on the way: the same after a kill, of the step, and nothing that training depends on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from lm.cli.main import main
from lm.config import (
    AdamW,
    ByteTokenizer,
    Config,
    DataConfig,
    Duration,
    EvaluationConfig,
    Learned,
    MaskedLM,
    ModelConfig,
    Rotary,
    Samples,
    SequenceToSequence,
    T5Relative,
    TrainConfig,
)
from lm.data.tokenizers.simple import Bytes
from lm.errors import ConfigError
from lm.objectives import build_objective
from lm.reproduce.sweep_results import run_digest
from lm.train.samples import Sampler

SMOKE = "--config=experiments/quickstart.py:smoke"
ASKED = "--config.evaluation.samples={'prompts': ['The ', ''], 'max_new_tokens': 5}"


def lines(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "samples.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mapping", ["sharded", "data_parallel"])
def test_a_resumed_run_has_the_samples_of_one_that_was_not_killed(
    tmp_path: Path, mapping: str
) -> None:
    run = tmp_path / "run"
    command = ["train", SMOKE, f"--workdir={run}", f"--config.parallel.mapping={mapping}",
               "--config.train.ema_decay=0.5"]  # fmt: skip
    assert main([*command, ASKED]) == 0
    found = lines(run)
    assert [(row["step"], row["prompt"]) for row in found] == [
        (2, "The "), (2, ""), (4, "The "), (4, "")
    ]  # fmt: skip
    assert all(set(row) == {"step", "prompt", "text", "finish_reason"} for row in found)
    # Killed after its last evaluation, before the checkpoint.
    whole, digest = (run / "samples.jsonl").read_bytes(), run_digest(run)
    shutil.rmtree(run / "checkpoints" / "4")
    assert main([*command, ASKED]) == 0
    assert (run / "samples.jsonl").read_bytes() == whole
    if mapping == "data_parallel":
        return
    # It may be changed on the way: nothing that is learned depends on it.
    shutil.rmtree(run / "checkpoints" / "4")
    assert main(command) == 0
    assert (run / "samples.jsonl").read_bytes() == b"".join(whole.splitlines(True)[:2])
    assert run_digest(run) == digest


def test_divided_parameters_say_what_whole_ones_do(tmp_path: Path) -> None:
    found = []
    for fsdp in (1, 2):
        run = tmp_path / str(fsdp)
        divided = f"--config.parallel={{'data': -1, 'fsdp': {fsdp}}}"
        assert main(["train", SMOKE, f"--workdir={run}", ASKED, divided]) == 0
        found.append(lines(run))
    assert found[0] == found[1]


def test_adapters_are_heard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # As `lm generate` hears them: merged with the model below, which alone says something else.
    base, run = tmp_path / "base", tmp_path / "run"
    assert main(["train", SMOKE, f"--workdir={base}", "--config.evaluation={}"]) == 0
    asked = "{'prompts': ['The '], 'max_new_tokens': 8, 'temperature': 0.0}"
    adapted = ["train", "--config=experiments/continue.py:smoke", f"--workdir={run}",
               f"--config.train.warm_start={base}", "--config.train.lora.rank=2",
               "--config.optimizer.learning_rate=0.1"]  # fmt: skip
    assert main([*adapted, f"--config.evaluation.samples={asked}"]) == 0
    said = {}
    for workdir in (base, run):
        capsys.readouterr()
        command = ["generate", f"--workdir={workdir}", "--prompt=The ", "--temperature=0", "--json"]
        assert main([*command, "--max_new_tokens=8"]) == 0
        [completion] = json.loads(capsys.readouterr().out)["completions"]
        said[workdir] = completion["text"]
    assert lines(run)[-1]["text"] == said[run] != said[base]


BASE: dict[str, Any] = dict(vocab_size=259, num_layers=1, d_model=16, num_heads=2, d_ff=32)
DECODER = ModelConfig(**BASE, position=Rotary())
SHORT = ModelConfig(**BASE, position=Learned(32))
ENCODER = ModelConfig(**{**BASE, "vocab_size": 264}, position=Learned(32), architecture="encoder")
JOINED = ModelConfig(
    **BASE, position=T5Relative(8, 16), architecture="encoder_decoder", decoder_start_id=256
)


def config(model: ModelConfig, objective: Any = None, **samples: Any) -> Config:
    given = {} if objective is None else {"objective": objective}
    return Config(
        model=model,
        data=DataConfig(
            train={}, tokenizer=ByteTokenizer(), sequence_length=16,
            packing="none" if given else "stream",
        ),
        train=TrainConfig(batch_size=1, duration=Duration(steps=1)),
        optimizer=AdamW(),
        evaluation=EvaluationConfig(samples=Samples(**{"prompts": ("ab", "c"), **samples})),
        **given,
    )  # fmt: skip


def sampler_of(settings: Config) -> tuple[Sampler, Any]:
    assert settings.objective is not None
    objective = build_objective(settings.objective, settings.model)
    ids = np.zeros((1, 8), np.int32)
    inputs = {"source": ids} if settings.model.architecture == "encoder_decoder" else {}
    params = jax.jit(objective.model.init)(jax.random.key(0), ids, **inputs)["params"]
    return Sampler(settings, objective, Bytes()), nn.unbox(params)


@pytest.mark.parametrize(
    ("model", "objective"), [(DECODER, None), (JOINED, SequenceToSequence(target_length=8))]
)
def test_samples_are_of_the_step(model: ModelConfig, objective: Any) -> None:
    sampler, params = sampler_of(config(model, objective, max_new_tokens=6))
    once, again, later = (sampler.take(params, step) for step in (5, 5, 6))
    assert once == again != later
    assert [row["prompt"] for row in once] == ["ab", "c"]


@pytest.mark.parametrize(
    ("model", "objective", "samples", "words"),
    [
        (ENCODER, MaskedLM(), {}, "evaluation.samples: only a decoder or an encoder_decoder gen"),
        (SHORT, None, {"max_new_tokens": 31},
         "evaluation.samples: prompt of 2 tokens . max_new_tokens=31 exceeds the 32 positions"),
        (DECODER, None, {"top_p": 1.5}, "top_p must be in"),
        (DECODER, None, {"prompts": ()}, "prompts names none"),
        (DECODER, None, {"prompts": ("a", "a")}, "prompts has one twice"),
        (DECODER, None, {"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant(model: ModelConfig, objective: Any, samples: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings = config(model, objective, **samples)
        assert settings.objective is not None
        Sampler(settings, build_objective(settings.objective, settings.model), Bytes())
