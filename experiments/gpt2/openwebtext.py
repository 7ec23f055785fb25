"""GPT-2's four sizes (Radford et al. 2019, Table 2) on OpenWebText, trained as nanoGPT does.

   lm train --config=experiments/gpt2/openwebtext.py:124m --workdir=runs/gpt2
   cost: 295 G tokens, days on 8 A100 (:124m).   measured: not run

nanoGPT reports a validation loss of ~2.85 nats per token for 124m. Its model leaves out the biases
and computes GELU exactly; this is GPT-2's own: biases, and GELU by tanh. Only 124m's training
recipe is nanoGPT's; the larger sizes take GPT-3's learning rates for their size.
Data: openwebtext/*.jsonl* ({"text": ...} a line) and tokenizers/gpt2 below the data root.
"""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments import common

# (layers, width, heads, learning rate)
SIZES = {
    "124m": (12, 768, 12, 6e-4),  # 124,439,808 parameters
    "355m": (24, 1024, 16, 3e-4),  # 354,823,168
    "774m": (36, 1280, 20, 2.5e-4),  # 774,030,080
    "1558m": (48, 1600, 25, 2e-4),  # 1,557,611,200
}


def model(size: str) -> dict[str, Any]:
    num_layers, d_model, num_heads, _ = SIZES[size]
    return {
        # --config.model.vocab_size=50304 (a multiple of 128) is faster on most accelerators.
        "vocab_size": 50257,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "d_ff": 4 * d_model,
        "position": {"kind": "learned", "max_length": 1024},
        "activation": "gelu_tanh",
        "compute_dtype": "bfloat16",
    }


def config(size: str) -> ConfigDict:
    return ConfigDict(
        {
            "model": model(size),
            "data": {
                # The last 0.05 % of the text; nanoGPT holds out a random 0.05 % of the documents.
                **common.split(
                    {"kind": "jsonl", "paths": ["openwebtext/*.jsonl*"]}, held_out=0.0005
                ),
                "tokenizer": {"kind": "bpe", "path": "tokenizers/gpt2"},
                "sequence_length": 1024,
            },
            "train": {
                # 12 rows * 8 GPUs * 5 microbatches; * 1024 tokens = 491,520 tokens a step
                "batch_size": 480,
                "microbatches": 5,
                # * 491,520 = 295 G tokens
                "duration": {"steps": 600_000},
            },
            "optimizer": {
                "kind": "adamw",
                "learning_rate": SIZES[size][3],
                "schedule": {"kind": "cosine", "warmup": {"steps": 2000}, "final": 0.1},
                "beta2": 0.95,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            },
            "evaluation": {"every": {"steps": 1000}, "batches": 20},
            "checkpoint": {"every": {"steps": 1000}, "keep_last": 2},
        }
    )


VARIANTS = {size: functools.partial(config, size) for size in SIZES}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
