"""LaMDA's three sizes (Thoppilan et al. 2022, section 3 and Table 27).

   lm train --config=experiments/lamda/pretrain.py:137b --workdir=runs/lamda
   cost: 3 M steps of 256 K tokens; the paper: 57.7 days on 1024 TPU v3 (:137b).   measured: not run

From the paper's text: 256 K tokens a step. [from memory, check before quoting]: the steps of 2b and
8b. Not stated, ours: rows of 1024 tokens, Adafactor with an inverse square root schedule. For the
model, see model.py.
Data: lamda/*.jsonl ({"text": ...} a line) and lamda/tokenizer.model (SentencePiece, 32,000) below
the data root: the paper's dialogues are not public.
"""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from experiments import common
from experiments.lamda.model import model

STEPS = {"2b": 501_000, "8b": 504_000, "137b": 3_000_000}


def config(size: str) -> ConfigDict:
    return ConfigDict(
        {
            "model": {
                **model(size),
                "compute_dtype": "bfloat16",
                "remat": "full",
                "scan_layers": True,
            },
            "data": {
                **common.split({"kind": "jsonl", "paths": ["lamda/*.jsonl*"]}, held_out=0.0001),
                "tokenizer": {"kind": "sentencepiece", "path": "lamda/tokenizer.model"},
                "sequence_length": 1024,
            },
            # 256 rows * 1024 tokens = 256 K tokens
            "train": {"batch_size": 256, "duration": {"steps": STEPS[size]}},
            "optimizer": {
                "kind": "adafactor",
                "learning_rate": 1e-2,  # * sqrt(10,000 / step) = T5's 1 / sqrt(step)
                "multiply_by_parameter_scale": True,
                "schedule": {"kind": "inverse_sqrt", "warmup": {"steps": 10_000}},
            },
            "evaluation": {"every": {"steps": 1000}, "batches": 20},
            "checkpoint": {"every": {"steps": 1000}},
            # Parameters and optimiser state over 8 devices; the rest of the devices over the data.
            "parallel": {"fsdp": 8},
        }
    )


VARIANTS = {size: functools.partial(config, size) for size in STEPS}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
