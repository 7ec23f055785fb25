"""GPT-3's eight sizes (Brown et al. 2020, Table 2.1 and appendix B).

   lm train --config=experiments/gpt3/pretrain.py:125m --workdir=runs/gpt3
   cost: 300 G tokens a size; 175b: 3.14e23 FLOPs, a pod for months.   measured: not run

Where the paper leaves room or this differs:
- Dense and locally banded attention alternate; the band's width is not stated. 256 is ours.
- Table 2.1 gives 1.3b 24 heads of 128, which would make 1.5 G parameters; 16 make its 1.3 G.
- The paper's cosine ends at 260 G tokens and stays at 10 %; ours ends with the training.
- The paper's batch grows linearly to its full size over the first 4-12 G tokens; ours is constant.
Data: gpt3/*.jsonl ({"text": ...} a line) below the data root: the paper's is not public.
"""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments import common

# (layers, width, heads, head width, rows of 2048 tokens a step, learning rate)
SIZES = {
    "125m": (12, 768, 12, 64, 256, 6e-4),  # 256 * 2048 = 0.5 M tokens
    "350m": (24, 1024, 16, 64, 256, 3e-4),
    "760m": (24, 1536, 16, 96, 256, 2.5e-4),
    "1.3b": (24, 2048, 16, 128, 512, 2e-4),  # 1 M
    "2.7b": (32, 2560, 32, 80, 512, 1.6e-4),
    "6.7b": (32, 4096, 32, 128, 1024, 1.2e-4),  # 2 M
    "13b": (40, 5140, 40, 128, 1024, 1e-4),  # 5140 as printed, although 40 * 128 = 5120
    "175b": (96, 12288, 96, 128, 1600, 0.6e-4),  # 3.2 M
}


def model(size: str) -> dict[str, Any]:
    num_layers, d_model, num_heads, head_dim, _, _ = SIZES[size]
    return {
        "vocab_size": 50257,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "head_dim": head_dim,
        "d_ff": 4 * d_model,
        "position": {"kind": "learned", "max_length": 2048},
        "activation": "gelu_tanh",
        "layer_pattern": ("global", "local"),
        "window": 256,
        "compute_dtype": "bfloat16",
        "remat": "full",
        "scan_layers": True,
    }


def config(size: str) -> ConfigDict:
    *_, batch_size, learning_rate = SIZES[size]
    return ConfigDict(
        {
            "model": model(size),
            "data": {
                **common.split({"kind": "jsonl", "paths": ["gpt3/*.jsonl*"]}, held_out=0.0001),
                "tokenizer": {"kind": "bpe", "path": "tokenizers/gpt2"},
                "sequence_length": 2048,
            },
            "train": {"batch_size": batch_size, "duration": {"tokens": 300_000_000_000}},
            "optimizer": {
                "kind": "adamw",
                "learning_rate": learning_rate,
                "schedule": {"kind": "cosine", "warmup": {"tokens": 375_000_000}, "final": 0.1},
                "beta2": 0.95,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            },
            "evaluation": {"every": {"steps": 1000}, "batches": 20},
            "checkpoint": {"every": {"steps": 1000}},
            # Parameters and optimiser state over 8 devices; the rest of the devices over the data.
            "parallel": {"fsdp": 1 if size in ("125m", "350m", "760m") else 8},
        }
    )


VARIANTS = {size: functools.partial(config, size) for size in SIZES}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
