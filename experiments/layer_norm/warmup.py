"""Do norms after the sub-layers need a warm-up, and norms before them not? (Xiong et al. 2020,
section 3.2)

   lm train --config=experiments/layer_norm/warmup.py:post --workdir=runs/post
   cost: 90 s on one CPU core.   measured: 3.28 (:post), 2.33 (:post-warmup), 2.08 (:pre), 2.03

`post` and `pre` begin with the whole learning rate, `post-warmup` and `pre-warmup` come to it in a
fifth of the steps; then it falls to zero. 12 layers of 64 on bytes, Xavier's initial weights, Adam.
The paper's are translation models of 6 and 6 layers of 512, on IWSLT'14. Here: the documentation
inside Python, which needs no download.
"""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments import common

LEARNING_RATE, STEPS = 2e-3, 600


def config(placement: str, warmup: int) -> ConfigDict:
    model: dict[str, Any] = {
        "vocab_size": 259,
        "num_layers": 12,
        "d_model": 64,
        "num_heads": 4,
        "d_ff": 128,
        "position": {"kind": "sinusoidal"},
        "activation": "relu",
        "norm": {"kind": "layer", "placement": placement},
        "scale_embeddings": True,
        "init": {"stddev": 64**-0.5, "scale_residual": False, "projections": "xavier"},
        # Twelve layers are compiled as one.
        "scan_layers": True,
    }
    return ConfigDict(
        {
            "model": model,
            "data": {
                **common.split({"kind": "embedded"}, held_out=0.05),
                "tokenizer": {"kind": "byte"},
                "sequence_length": 64,
            },
            # 600 steps * 32 rows * 64 bytes = 1.2 M bytes
            "train": {
                "batch_size": 32,
                "duration": {"steps": STEPS},
                "steps_per_dispatch": 10,
                "log_every": 10,
            },
            "optimizer": {
                "kind": "adam",
                "learning_rate": LEARNING_RATE,
                "schedule": {"kind": "linear", "warmup": {"steps": warmup}},
                "beta2": 0.98,
                "epsilon": 1e-9,
            },
            "evaluation": {"every": {"steps": STEPS // 6}, "batches": 16},
            "checkpoint": {"every": {"steps": STEPS}},
        }
    )


VARIANTS = {
    "post": functools.partial(config, "post", 0),
    "post-warmup": functools.partial(config, "post", STEPS // 5),
    "pre": functools.partial(config, "pre", 0),
    "pre-warmup": functools.partial(config, "pre", STEPS // 5),
}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
