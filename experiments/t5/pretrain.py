"""T5's pretraining (Raffel et al. 2020, sections 3.1 and 3.7), v1.0 and v1.1.

   lm train --config=experiments/t5/pretrain.py:base --workdir=runs/t5
   cost: 34 G tokens (:base); 1.05 T each for the others.   measured: not run

   lm train --config=experiments/t5/pretrain.py:small --workdir=runs/t5-small
   cost: 9 min on 2 busy CPU cores, 38k tokens/s.   measured: see below

Span corruption: 15 % of the tokens, in spans of 3 on average. `base` is the paper's baseline, 2^19
steps of 128 rows; the others are the final recipe's 1 M steps of 2048 rows (the paper's `small` is
`t5-small`). `small` is a toy of ours on the Chinese documentation of Python.
Measured on its validation split (seed 0): 3.360 nats a target token, 46.0 % right (unigram 5.165,
the most frequent token 13.6 %; a part of the targets are sentinels, whose order is easily learnt).
Where this differs:
- The paper's learning rate is 0.01 from the first step; ours warms up over its first 10,000.
- The final v1.0 models are trained on a mixture with supervised tasks; ours on text alone, as v1.1.
Data: t5/*.jsonl ({"text": ...} a line: C4) and tokenizers/t5_sentencepiece; `small`:
pydocs_en_zh/pydocs_en_zh.tsv.gz; all below the data root.
"""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from experiments import common
from experiments.t5.model import model

TOKENIZER = {
    "kind": "sentencepiece",
    "path": "tokenizers/t5_sentencepiece/cc_all.32000.100extra.model",
}
# 1 / sqrt(max(step, 10,000))
OPTIMIZER = {
    "kind": "adafactor",
    "learning_rate": 1e-2,
    "multiply_by_parameter_scale": True,
    "schedule": {"kind": "inverse_sqrt", "warmup": {"steps": 10_000}},
}
# (size in model.py, rows a step, steps, FSDP devices)
RECIPES: dict[str, tuple[str, int, int, int]] = {
    "base": ("base", 128, 2**19, 1),
    "t5-small": ("small", 2048, 1_000_000, 1),
    "t5-base": ("base", 2048, 1_000_000, 1),
    "large": ("large", 2048, 1_000_000, 1),
    "3b": ("3b", 2048, 1_000_000, 8),
    "11b": ("11b", 2048, 1_000_000, 8),
    "v1.1-small": ("v1.1-small", 2048, 1_000_000, 1),
    "v1.1-base": ("v1.1-base", 2048, 1_000_000, 1),
    "v1.1-large": ("v1.1-large", 2048, 1_000_000, 1),
    "v1.1-xl": ("v1.1-xl", 2048, 1_000_000, 8),
    "v1.1-xxl": ("v1.1-xxl", 2048, 1_000_000, 8),
}
VOCABULARY, SENTINELS = 4096, 32


def config(variant: str) -> ConfigDict:
    size, rows, steps, fsdp = RECIPES[variant]
    return ConfigDict(
        {
            "model": common.at_scale(model(size)),
            "data": {
                **common.split({"kind": "jsonl", "paths": ["t5/*.jsonl*"]}, held_out=0.0001),
                "tokenizer": dict(TOKENIZER),
                "sequence_length": 512,
            },
            "objective": {"kind": "span_corruption", "density": 0.15, "mean_length": 3.0},
            "train": {"batch_size": rows, "duration": {"steps": steps}},
            "optimizer": dict(OPTIMIZER),
            "evaluation": {"every": {"steps": 5000}, "batches": 50},
            "checkpoint": {"every": {"steps": 5000}},
            "parallel": {"fsdp": fsdp},
        }
    )


def small() -> ConfigDict:
    chinese = {"kind": "tsv", "paths": ["pydocs_en_zh/pydocs_en_zh.tsv.gz"], "column": 2}
    return ConfigDict(
        {
            "model": common.resized(model("base"), vocab_size=VOCABULARY, **common.TINY),
            "data": {
                **common.split(chinese, held_out=0.05),
                # The last ids of the model's are the sentinels.
                "tokenizer": {"kind": "sentencepiece", "vocab_size": VOCABULARY - SENTINELS},
                "sequence_length": 32,
            },
            "objective": {"kind": "span_corruption"},
            **common.minutes(steps=3000, rows=128, learning_rate=3e-3),
        }
    )


VARIANTS = {**{name: functools.partial(config, name) for name in RECIPES}, "small": small}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
