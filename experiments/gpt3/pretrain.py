"""GPT-3's eight sizes (Brown et al. 2020, Table 2.1 and appendix B).

   lm train --config=experiments/gpt3/pretrain.py:125m --workdir=runs/gpt3
   cost: 300 G tokens a size; 175b: 3.14e23 FLOPs, a pod for months.   measured: not run

Where the paper leaves room or this differs (for the model, see model.py):
- The paper's cosine ends at 260 G tokens and stays at 10 %; ours ends with the training.
- The paper's batch grows linearly to its full size over the first 4-12 G tokens; ours is constant.
Data: gpt3/*.jsonl ({"text": ...} a line) below the data root: the paper's is not public.
"""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from experiments import common
from experiments.gpt3.model import model

# (rows of 2048 tokens a step, learning rate)
RECIPES = {
    "125m": (256, 6e-4),  # 256 * 2048 = 0.5 M tokens
    "350m": (256, 3e-4),
    "760m": (256, 2.5e-4),
    "1.3b": (512, 2e-4),  # 1 M
    "2.7b": (512, 1.6e-4),
    "6.7b": (1024, 1.2e-4),  # 2 M
    "13b": (1024, 1e-4),
    "175b": (1600, 0.6e-4),  # 3.2 M
}


def config(size: str) -> ConfigDict:
    batch_size, learning_rate = RECIPES[size]
    return ConfigDict(
        {
            "model": {
                **model(size),
                "compute_dtype": "bfloat16",
                "remat": "full",
                "scan_layers": True,
            },
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


VARIANTS = {size: functools.partial(config, size) for size in RECIPES}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
