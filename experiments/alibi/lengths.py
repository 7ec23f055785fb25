"""Train short, test long: three position schemes on bytes (Press et al. 2022, ALiBi; Chen et al.
2023, position interpolation).

   lm train --config=experiments/alibi/lengths.py:alibi --workdir=runs/lengths-alibi
   cost: about 6 min on 2 CPU cores.   measured: not run

4 layers of 128, 8 heads, rows of 64 bytes; what matters is how the perplexity goes on rows 2 to 16
times as long. The papers' are 247 M and 7 G parameters, on WikiText-103 and on web text. Here: the
documentation inside Python, which needs no download.
"""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments import common

POSITIONS: dict[str, dict[str, Any]] = {
    "sinusoidal": {"kind": "sinusoidal"},
    "alibi": {"kind": "alibi"},
    "rotary": {"kind": "rotary"},
}


def config(name: str) -> ConfigDict:
    return ConfigDict(
        {
            "model": {
                "vocab_size": 259,
                "num_layers": 4,
                "d_model": 128,
                "num_heads": 8,
                "d_ff": 512,
                "position": POSITIONS[name],
                # What sinusoids are added to is of their size (Vaswani et al. 2017, section 3.4).
                "scale_embeddings": name == "sinusoidal",
                **common.no_bias(),
            },
            "data": {
                **common.split({"kind": "embedded"}, held_out=0.05),
                "tokenizer": {"kind": "byte"},
                "sequence_length": 64,
            },
            # 2000 steps * 64 rows * 64 bytes = 8.2 M bytes: 4 epochs
            "train": {
                "batch_size": 64,
                "duration": {"steps": 2000},
                "steps_per_dispatch": 10,
                "log_every": 50,
            },
            "optimizer": {
                "kind": "adamw",
                "learning_rate": 2e-3,
                "schedule": {"kind": "cosine", "warmup": {"steps": 200}, "final": 0.1},
                "beta2": 0.98,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            },
            "evaluation": {"every": {"steps": 500}},
            "checkpoint": {"every": {"steps": 500}},
        }
    )


VARIANTS = {name: functools.partial(config, name) for name in POSITIONS}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
