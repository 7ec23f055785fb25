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
from experiments.llama import model as architecture

LLAMA_2_TOKENIZER = {"kind": "sentencepiece", "path": "tokenizers/llama2/tokenizer.model"}
LLAMA_3_TOKENIZER = {"kind": "bpe", "path": "tokenizers/llama3"}

# (size in model.py, tokenizer, row length, rows a step, tokens in all, warm-up steps,
#  learning rate, FSDP devices)
RECIPES: dict[str, tuple[str, dict[str, str], int, int, float, int, float, int]] = {
    # 256 rows * 1024 = 0.26 M tokens a step; 20 * 56.0 M = 1.12 G tokens: 4,273 steps
    "60m": ("60m", LLAMA_2_TOKENIZER, 1024, 256, 1.12e9, 400, 1e-3, 1),
    # 512 * 8192 = 4 M tokens a step
    "1b": ("3.2-1b", LLAMA_3_TOKENIZER, 8192, 512, 9e12, 2000, 3e-4, 8),
    # 1024 * 4096 = 4 M
    "7b": ("2-7b", LLAMA_2_TOKENIZER, 4096, 1024, 2e12, 2000, 3e-4, 8),
    "8b": ("3-8b", LLAMA_3_TOKENIZER, 8192, 512, 15e12, 2000, 3e-4, 8),
}


def in_training(size: str) -> dict[str, Any]:
    """The model as it is pretrained: at its first length, without stretched rotations."""
    values = architecture.model(size)
    small = size == "60m"
    return {
        **values,
        "position": {key: value for key, value in values["position"].items() if key != "scaling"},
        "compute_dtype": "bfloat16",
        "remat": "none" if small else "full",
        "scan_layers": not small,
    }


def config(variant: str) -> ConfigDict:
    size, tokenizer, length, rows, tokens, warmup, learning_rate, fsdp = RECIPES[variant]
    return ConfigDict(
        {
            "model": in_training(size),
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


VARIANTS = {name: functools.partial(config, name) for name in RECIPES}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
