"""BERT-base on SQuAD 1.1 (Devlin et al. 2019, section 4.2), as the released code fine-tunes it.

   lm train --config=experiments/tasks/squad.py:base --workdir=NEW --config.train.warm_start=W
   cost: 14,800 steps of 12 rows; under an hour on one GPU.   measured: not run

W is a workdir with BERT-base: the released weights, converted, or a run of
experiments/bert/pretrain.py:base. The released code's README has 81.25 exact match and 88.41 F1 on
the development set.
Where this differs: the code's Adam has no bias correction.
Data, below the data root: squad/train-v1.1.json, squad/dev-v1.1.json and
tokenizers/bert-base-uncased.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from experiments import common
from experiments.bert.model import model


def source(split: str) -> dict[str, Any]:
    return {"kind": "examples", "paths": [f"squad/{split}-v1.1.json"], "format": "squad"}


def config() -> ConfigDict:
    body = {**model("base"), "lm_head": "none", "lm_head_bias": False, "heads": (), "pooler": None}
    return ConfigDict(
        {
            "model": {**body, "compute_dtype": "bfloat16"},
            "data": {
                "train": {"train": source("train")},
                "validation": {"dev": source("dev")},
                "tokenizer": {"kind": "wordpiece", "path": "tokenizers/bert-base-uncased"},
                "sequence_length": 384,
                "packing": "none",
                "too_long": "cut",
            },
            "objective": {
                "kind": "question_answering",
                "stride": 128,
                "max_question_tokens": 64,
                "max_answer_tokens": 30,
            },
            "train": {"batch_size": 12, "duration": {"epochs": 2}, "log_every": 100},
            "optimizer": {
                "kind": "adamw",
                "learning_rate": 3e-5,
                # A tenth of the steps.
                "schedule": {"kind": "linear", "warmup": {"epochs": 0.2}},
                "beta2": 0.999,
                "epsilon": 1e-6,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
            },
            "evaluation": {"every": {"epochs": 1}},
            "checkpoint": {"every": {"epochs": 1}},
        }
    )


VARIANTS = {"base": config}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
