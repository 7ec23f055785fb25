"""GPT-2 124M on 10 G tokens of FineWeb, trained as llm.c does (scripts/run_gpt2_124M.sh).

   lm train --config=experiments/gpt2/fineweb.py:124m --workdir=runs/gpt2-fineweb
   cost: 9.9 G tokens; theirs: 90 min on 8 A100.   measured: not run

llm.c's validation loss is about 3.28 nats per token. Half a million tokens a step, 18,865 steps,
which is each token once; the learning rate falls to zero by a cosine. There is no dropout.
Data: fineweb10B/train/*.jsonl* and fineweb10B/val/*.jsonl* ({"text": ...} a line: the sample of
10 billion tokens, the first 100 million of which theirs validates on) and tokenizers/gpt2, below
the data root. Theirs has the end of a text before each one, ours after.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from experiments import common
from experiments.gpt2.model import model


def source(split: str) -> dict[str, Any]:
    return {"kind": "jsonl", "paths": [f"fineweb10B/{split}/*.jsonl*"]}


def config() -> ConfigDict:
    return ConfigDict(
        {
            "model": {**model("124m"), "dropout": {}, "compute_dtype": "bfloat16"},
            "data": {
                "train": {"text": source("train")},
                "validation": {"text": source("val")},
                "tokenizer": {"kind": "bpe", "path": "tokenizers/gpt2"},
                "sequence_length": 1024,
            },
            # 64 rows * 8 GPUs; * 1024 tokens = 524,288 tokens a step; * 18,865 = 9.9 G tokens
            "train": {"batch_size": 512, "duration": {"steps": 18_865}},
            "optimizer": {
                "kind": "adamw",
                "learning_rate": 6e-4,
                "schedule": {"kind": "cosine", "warmup": {"steps": 700}, "final": 0.0},
                "beta2": 0.95,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            },
            # 20 * 524,288 = 10.5 M tokens
            "evaluation": {"every": {"steps": 250}, "batches": 20},
            "checkpoint": {"every": {"steps": 1000}},
        }
    )


VARIANTS = {"124m": config}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
