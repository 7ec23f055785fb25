"""Runs that were never trained, one a kind of answer: tiny models of bytes, and their workdirs."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from lm.config import (
    ByteTokenizer,
    CausalLM,
    ChatTemplate,
    Classification,
    Config,
    DataConfig,
    Duration,
    Embedded,
    ExampleFiles,
    InitConfig,
    Instruction,
    JsonlFiles,
    Learned,
    MaskedLM,
    ModelConfig,
    NormConfig,
    QuestionAnswering,
    Rotary,
    SequenceToSequence,
    TokenClassification,
    TrainConfig,
)
from lm.convert.store import LazyArray, write_checkpoint
from lm.data.tokenizers.simple import Bytes
from lm.objectives import build_objective
from lm.train.workdir import CHECKPOINTS, TOKENIZER, Run, write_config

LENGTH = 24
# Large weights, so that what is answered depends on what is read.
BASE: dict[str, Any] = dict(
    vocab_size=300, num_layers=1, d_model=16, num_heads=2, d_ff=32,
    init=InitConfig(stddev=0.5, scale_residual=False),
)  # fmt: skip
ENCODER = ModelConfig(
    **BASE, position=Learned(LENGTH), architecture="encoder", token_types=2, embedding_norm=True,
    norm=NormConfig(placement="post"), lm_head="none",
)  # fmt: skip
DECODER = ModelConfig(**BASE, position=Rotary())
LEARNED = ModelConfig(**BASE, position=Learned(LENGTH))
JOINED = dataclasses.replace(DECODER, architecture="encoder_decoder", decoder_start_id=256)
LABELS = Classification(labels=("bad", "good"))
FIELDS = {"text": "sentence", "label": "label"}
TABLE = ExampleFiles(paths=("train.tsv",), format="tsv", header=True, fields=FIELDS)
EXAMPLES = Embedded(examples=True)
PAIRS = JsonlFiles(paths=("train.jsonl",), field="source", target_field="target")
CHAT = Instruction(template=ChatTemplate(before="{role}:", after="", between="\n"))
KINDS: dict[str, tuple[Any, ModelConfig, Any]] = {
    "classification": (LABELS, ENCODER, TABLE),
    "tags": (TokenClassification(labels=("O", "N")), ENCODER, EXAMPLES),
    "answers": (QuestionAnswering(stride=4, max_question_tokens=6), ENCODER, EXAMPLES),
    "joined": (SequenceToSequence(target_length=10), JOINED, PAIRS),
    # In one layer nothing that is read depends on which way a prefix looks.
    "prefix": (SequenceToSequence(), dataclasses.replace(LEARNED, num_layers=2), PAIRS),
    "reply": (CHAT, DECODER, EXAMPLES),
    "continuation": (CausalLM(), DECODER, Embedded()),
    "limited": (CausalLM(), LEARNED, Embedded()),
    "masked": (MaskedLM(), dataclasses.replace(ENCODER, lm_head="transform"), Embedded()),
}


def tiny_config(kind: str) -> Config:
    given, model, source = KINDS[kind]
    data = DataConfig(
        train={"t": source}, tokenizer=ByteTokenizer(), sequence_length=LENGTH, packing="none"
    )
    train = TrainConfig(batch_size=1, duration=Duration(steps=1))
    return Config(model=model, data=data, train=train, objective=given)


@functools.cache
def tiny_run(kind: str) -> Run:
    config = tiny_config(kind)
    objective = build_objective(config.objective, config.model)
    tokens = np.zeros((2, LENGTH), np.int32)
    batch = {"tokens": tokens, "source": tokens, "targets": tokens}
    params = nn.unbox(jax.jit(objective.init)(jax.random.key(3), batch))
    return Run(Path("W"), config, objective, objective.model, params, Bytes(), 7, {}, params)


def saved(kind: str, workdir: Path) -> Path:
    """The run's workdir, as training and conversion leave one."""
    run = tiny_run(kind)
    workdir.mkdir(parents=True)
    write_config(workdir, run.config)
    run.tokenizer.save(workdir / TOKENIZER)

    def lazy(x: Any) -> LazyArray:
        array = np.ascontiguousarray(x)
        return LazyArray(array.shape, array.dtype, lambda: array)

    params = jax.tree.map(lazy, run.params)
    write_checkpoint(workdir / CHECKPOINTS, params, data={}, meta={"evaluation": {}})
    return workdir
