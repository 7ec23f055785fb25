"""What the tasks share: their files, small models that learn them from scratch, and how they train.

The models are of sizes that two cores train in minutes: no BERT, and no GPT-2, but their shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments import common
from experiments.bert.model import model as bert
from experiments.gpt2.model import model as gpt2

SIZE = {"num_layers": 1, "d_model": 128, "num_heads": 4, "d_ff": 256}
VOCABULARY = 8192
# From scratch there is nothing but a few thousand examples: most of what is learned are words, so
# they are dropped often, and an encoder takes the mean over a sequence's tokens.
DROPOUT = {"embedding": 0.4, "attention": 0.1, "residual": 0.2, "head": 0.2}
MEAN = {"token": "mean", "dense": False, "activation": "none"}


def table(path: str, *, header: bool = True, **fields: int | str) -> dict[str, Any]:
    """A file of tab-separated columns: what is where, by number or by the header's name."""
    return {
        "kind": "examples",
        "paths": [path],
        "format": "tsv",
        "header": header,
        "fields": fields,
    }


def encoder(length: int) -> dict[str, Any]:
    """BERT's switches at the size of these tasks, with WordPiece of its own."""
    body = {**bert("base"), "lm_head": "none", "lm_head_bias": False, "heads": ()}
    model = common.resized(body, **SIZE)
    position = {"kind": "learned", "max_length": length}
    return {**model, "position": position, "dropout": DROPOUT, "pooler": MEAN}


def decoder(length: int) -> dict[str, Any]:
    """GPT-2's switches, likewise; it reads the last token."""
    model = common.resized(gpt2("124m"), **SIZE)
    position = {"kind": "learned", "max_length": length}
    return {**model, "position": position, "dropout": {**DROPOUT, "head": 0.0}}


MODELS = {"encoder": encoder, "decoder": decoder}
TOKENIZERS = {"encoder": "wordpiece", "decoder": "bpe"}


def task(
    architecture: str,
    objective: Mapping[str, Any],
    *,
    train: Mapping[str, Any],
    validation: Mapping[str, Any],
    length: int,
    steps: int,
    rows: int,
    learning_rate: float = 1e-3,
    vocabulary: int = VOCABULARY,
) -> ConfigDict:
    """A task from scratch by an "encoder" or a "decoder"; "warm" has neither model nor tokenizer:
    they are those of the workdir that train.warm_start names, and the rate is 5e-5."""
    values: dict[str, Any] = {
        "data": {
            "train": {"train": train},
            "validation": {"dev": validation},
            "sequence_length": length,
            "packing": "none",
            "too_long": "cut",
        },
        "objective": dict(objective),
        "train": {
            "batch_size": rows,
            "duration": {"steps": steps},
            "steps_per_dispatch": 10,
            "log_every": 20,
        },
        "optimizer": {
            "kind": "adamw",
            "learning_rate": 5e-5 if architecture == "warm" else learning_rate,
            "schedule": {"kind": "linear", "warmup": {"steps": steps // 10}},
            "weight_decay": 0.01,
            "clip_norm": 1.0,
        },
        "evaluation": {"every": {"steps": steps // 5}},
        "checkpoint": {"every": {"steps": steps}},
    }
    if architecture != "warm":
        values["model"] = {**MODELS[architecture](length), "vocab_size": vocabulary}
        values["data"]["tokenizer"] = {
            "kind": TOKENIZERS[architecture],
            "vocab_size": vocabulary,
        }
    return ConfigDict(values)


def labelled(labels: Sequence[str], **more: Any) -> dict[str, Any]:
    """The objective of classification."""
    return {"kind": "classification", "labels": tuple(labels), **more}
