"""Llama-style decoders (Touvron et al. 2023; Llama Team 2024): rotary, RMSNorm, SwiGLU, GQA.

   lm train --config=experiments/llama/pretrain.py:60m --workdir=runs/llama
   cost: 1.1 G tokens, about an hour on one accelerator (:60m, an estimate).   measured: not run

60m is a toy of ours at Chinchilla's 20 tokens a parameter. 7b is Llama 2's with its recipe; 8b is
Llama 3's and 1b Llama 3.2's, at their pretraining length of 8192 (Llama 3.2's rescaled rotary
frequencies, for longer contexts, are left out). The papers' learning rate and schedule for 1b are
not published: 8b's are taken.
Data: llama/*.jsonl ({"text": ...} a line) and tokenizers/llama2 or tokenizers/llama3 below the data
root.
"""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments import common

LLAMA_2 = {"vocab_size": 32000, "position": {"kind": "rotary"}}
LLAMA_3 = {"vocab_size": 128256, "position": {"kind": "rotary", "base": 500_000.0}}

SIZES: dict[str, dict[str, Any]] = {
    # 2 * 32000 * 512 + 8 * (3 * 512^2 + 3 * 512 * 1376) = 56.0 M
    "60m": {
        "num_layers": 8,
        "d_model": 512,
        "num_heads": 8,
        "num_kv_heads": 4,
        "d_ff": 1376,
        **LLAMA_2,
    },
    # 1,235,814,400 parameters
    "1b": {
        "num_layers": 16,
        "d_model": 2048,
        "num_heads": 32,
        "num_kv_heads": 8,
        "d_ff": 8192,
        "tie_embeddings": True,
        **LLAMA_3,
    },
    # 6,738,415,616; d_ff is 8/3 * 4096 = 10923, up to a multiple of 256
    "7b": {"num_layers": 32, "d_model": 4096, "num_heads": 32, "d_ff": 11008, **LLAMA_2},
    # 8,030,261,248
    "8b": {
        "num_layers": 32,
        "d_model": 4096,
        "num_heads": 32,
        "num_kv_heads": 8,
        "d_ff": 14336,
        **LLAMA_3,
    },
}

LLAMA_2_TOKENIZER = {"kind": "sentencepiece", "path": "tokenizers/llama2/tokenizer.model"}
LLAMA_3_TOKENIZER = {"kind": "bpe", "path": "tokenizers/llama3"}

# (tokenizer, row length, rows a step, tokens in all, warm-up steps, learning rate, FSDP devices)
RECIPES: dict[str, tuple[dict[str, str], int, int, float, int, float, int]] = {
    # 256 rows * 1024 = 0.26 M tokens a step; 20 * 56.0 M = 1.12 G tokens: 4,273 steps
    "60m": (LLAMA_2_TOKENIZER, 1024, 256, 1.12e9, 400, 1e-3, 1),
    # 512 * 8192 = 4 M tokens a step
    "1b": (LLAMA_3_TOKENIZER, 8192, 512, 9e12, 2000, 3e-4, 8),
    # 1024 * 4096 = 4 M
    "7b": (LLAMA_2_TOKENIZER, 4096, 1024, 2e12, 2000, 3e-4, 8),
    "8b": (LLAMA_3_TOKENIZER, 8192, 512, 15e12, 2000, 3e-4, 8),
}


def model(size: str) -> dict[str, Any]:
    small = size == "60m"
    return {
        "norm": {"kind": "rms", "bias": False},
        "activation": "swiglu",
        **common.no_bias(),
        "tie_embeddings": False,
        "init": {"scale_residual": False},
        "compute_dtype": "bfloat16",
        "remat": "none" if small else "full",
        "scan_layers": not small,
        **SIZES[size],
    }


def config(size: str) -> ConfigDict:
    tokenizer, length, rows, tokens, warmup, learning_rate, fsdp = RECIPES[size]
    return ConfigDict(
        {
            "model": model(size),
            "data": {
                **common.split({"kind": "jsonl", "paths": ["llama/*.jsonl*"]}, held_out=0.0001),
                "tokenizer": dict(tokenizer),
                "sequence_length": length,
                "add_bos": True,
            },
            "train": {"batch_size": rows, "duration": {"tokens": int(tokens)}},
            "optimizer": {
                "kind": "adamw",
                "learning_rate": learning_rate,
                "schedule": {"kind": "cosine", "warmup": {"steps": warmup}, "final": 0.1},
                "beta2": 0.95,
                "epsilon": 1e-5,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            },
            "evaluation": {"every": {"steps": 500}, "batches": 20},
            "checkpoint": {"every": {"steps": 500}},
            "parallel": {"fsdp": fsdp},
        }
    )


VARIANTS = {size: functools.partial(config, size) for size in SIZES}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
