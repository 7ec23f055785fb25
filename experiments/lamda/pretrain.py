"""LaMDA's three sizes (Thoppilan et al. 2022, section 3 and Table 27).

   lm train --config=experiments/lamda/pretrain.py:137b --workdir=runs/lamda
   cost: 3 M steps of 256 K tokens; the paper: 57.7 days on 1024 TPU v3 (:137b).   measured: not run

From the paper's text: a decoder with T5's relative attention and gated GELU, 64 layers, width 8192,
feed-forward 65536, 128 heads of 128 for 137b; 32 K SentencePiece tokens; 256 K tokens a step.
[from memory, check before quoting]: layers, width, heads and steps of 2b and 8b. Their
feed-forward of 8 * width and head width of 128 are 137b's, and give 2.10 G and 8.59 G parameters
without embeddings.
Not stated, ours: RMSNorm and no biases (as in T5), tied embeddings, rows of 1024 tokens, Adafactor
with an inverse square root schedule.
Data: lamda/*.jsonl ({"text": ...} a line) and lamda/tokenizer.model (SentencePiece, 32,000) below
the data root: the paper's dialogues are not public.
"""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments import common

# (layers, width, heads, steps)
SIZES = {
    "2b": (10, 2560, 40, 501_000),
    "8b": (16, 4096, 64, 504_000),
    "137b": (64, 8192, 128, 3_000_000),
}


def model(size: str) -> dict[str, Any]:
    num_layers, d_model, num_heads, _ = SIZES[size]
    return {
        "vocab_size": 32000,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "head_dim": 128,
        "d_ff": 8 * d_model,  # 8 * 8192 = 65536
        "position": {"kind": "t5_relative"},
        "norm": {"kind": "rms", "bias": False, "epsilon": 1e-6},
        "activation": "geglu_tanh",
        **common.no_bias(),
        "compute_dtype": "bfloat16",
        "remat": "full",
        "scan_layers": True,
    }


def config(size: str) -> ConfigDict:
    return ConfigDict(
        {
            "model": model(size),
            "data": {
                **common.split({"kind": "jsonl", "paths": ["lamda/*.jsonl*"]}, held_out=0.0001),
                "tokenizer": {"kind": "sentencepiece", "path": "lamda/tokenizer.model"},
                "sequence_length": 1024,
            },
            # 256 rows * 1024 tokens = 256 K tokens
            "train": {"batch_size": 256, "duration": {"steps": SIZES[size][3]}},
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


VARIANTS = {size: functools.partial(config, size) for size in SIZES}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
