"""Linear regression in context: a decoder reads examples of a function and says its next value
(Garg et al. 2022, "What Can Transformers Learn In-Context? A Case Study of Simple Function
Classes").

   lm train --config=experiments/regression/linear.py:d5 --workdir=runs/regression-d5
   cost: 6 min on one CPU core (:d5).   measured: 0.046 after 10 examples (:d5)

:d20 is the paper's: 12 layers, 8 heads, 256 wide, 20 coordinates, 41 points, Adam at 1e-4, batches
of 64, and its curriculum: 5 coordinates and 11 points at first, every 2,000 steps one coordinate
and two points more. Its error after 20 examples is 0.02, after 40 it is 0.0006 (guessing 0: 1).
:d5 is smaller in everything: the released code's "tiny", 3 layers of 64, 5 coordinates, 11 points.
Where :d20 differs: 200,000 steps of its 500,001.
"""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments import common

ROWS = 64
# Examples after which the error is reported: as many as there are coordinates, and twice that.
REPORTED = {"d5": (5, 10), "d20": (20, 40)}


def config(
    name: str, *, dims: int, steps: int, learning_rate: float, curriculum: bool, **model: Any
) -> ConfigDict:
    points = 2 * dims + 1
    source: dict[str, Any] = {"kind": "linear_functions", "dims": dims, "points": points}
    growing: dict[str, Any] = {}
    if curriculum:
        growing = {"first_dims": 5, "first_points": 11, "grow_every": 2_000 * ROWS}
    # Theirs is constant; a short run gains by coming to rest.
    decay = {"kind": "constant"} if curriculum else {"kind": "linear", "warmup": {"steps": 500}}
    return ConfigDict(
        {
            "model": {
                # No tokens are read.
                "vocab_size": 1,
                "d_ff": 4 * model["d_model"],
                "position": {"kind": "learned", "max_length": 2 * points},
                "activation": "gelu_tanh",
                "lm_head": "none",
                **model,
            },
            "objective": {"kind": "in_context_regression", "report": REPORTED[name]},
            "data": {
                "train": {"functions": {**source, **growing, "functions": ROWS * steps}},
                "validation": {"functions": {**source, "functions": 2_048}},
                "tokenizer": {"kind": "byte"},
                "sequence_length": 2 * points,
            },
            "train": {
                "batch_size": ROWS,
                "duration": {"steps": steps},
                "steps_per_dispatch": 50,
                "log_every": 100,
            },
            "optimizer": {
                "kind": "adamw",
                "learning_rate": learning_rate,
                "schedule": decay,
                "beta2": 0.999,
            },
            "evaluation": {"every": {"steps": steps // 20}, "batch_size": 256},
            "checkpoint": {"every": {"steps": steps // 20}},
        }
    )


VARIANTS = {
    "d5": functools.partial(
        config, "d5", dims=5, steps=20_000, learning_rate=1e-3, curriculum=False,
        num_layers=3, num_heads=2, d_model=64,
    ),
    "d20": functools.partial(
        config, "d20", dims=20, steps=200_000, learning_rate=1e-4, curriculum=True,
        num_layers=12, num_heads=8, d_model=256,
    ),
}  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
