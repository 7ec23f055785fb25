"""Small models of four widths on three amounts of text, for a scaling law of our own (after
Hoffmann et al. 2022, approach 3).

   lm train --config=experiments/chinchilla/sweep.py:w64-t2 --workdir=runs/chinchilla-w64-t2
   cost: 10 to 20 min on one CPU core for all twelve.   measured: alpha 0.23, beta 0.43

w32 to w128 are 2 layers of 32, 3 of 48, 4 of 64 and 4 of 128; t1, t2, t4 are 0.37, 0.74 and 1.5 M
bytes, each with a cosine that ends where the run does (their appendix B: what matters is that it
does). No byte is read twice. The text is the documentation inside Python: it needs no download.
"""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments import common

WIDTHS = {"w32": (2, 32, 2), "w48": (3, 48, 3), "w64": (4, 64, 4), "w128": (4, 128, 4)}
ROWS, LENGTH = 24, 128
# 24 * 128 = 3072 bytes a step
STEPS = {"t1": 120, "t2": 240, "t4": 480}


def config(width: str, tokens: str) -> ConfigDict:
    num_layers, d_model, num_heads = WIDTHS[width]
    steps = STEPS[tokens]
    model: dict[str, Any] = {
        "vocab_size": 259,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "d_ff": 4 * d_model,
        "position": {"kind": "rotary"},
        "norm": {"kind": "rms"},
        **common.no_bias(),
    }
    return ConfigDict(
        {
            "model": model,
            "data": {
                **common.split({"kind": "embedded"}, held_out=0.1),
                "tokenizer": {"kind": "byte"},
                "sequence_length": LENGTH,
            },
            "train": {
                "batch_size": ROWS,
                "duration": {"steps": steps},
                "steps_per_dispatch": 10,
                "log_every": 10,
            },
            "optimizer": {
                "kind": "adamw",
                "learning_rate": 4e-3,
                "schedule": {"kind": "cosine", "warmup": {"steps": steps // 10}, "final": 0.1},
                "beta2": 0.98,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            },
            "evaluation": {"every": {"steps": steps // 2}, "batches": 60},
            "checkpoint": {"every": {"steps": steps}},
        }
    )


VARIANTS = {
    f"{width}-{tokens}": functools.partial(config, width, tokens)
    for width in WIDTHS
    for tokens in STEPS
}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
