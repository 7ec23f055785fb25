"""Grokking: a one-layer Transformer learns addition modulo 113 (Nanda et al. 2023, "Progress
measures for grokking via mechanistic interpretability"; Power et al. 2022).

   lm train --config=experiments/grokking/modular.py:f50 --workdir=runs/grokking-f50
   cost: 11 min on one CPU core (:f50).   measured: epoch 640 (theirs: 956)

The model reads "a b =" and says the sum at the last of the three. It memorises the training sums
in some 150 steps, and long after that, under weight decay, those it was never shown. f95 to f25
are the share of all 12,769 sums in training; a step is one epoch. Theirs, the first epoch with a
test loss below 0.1: .95: 157, .9: 222, .8: 252, .7: 222, .6: 440, .5: 956, .4: 3109, .3: 7930,
.28: 15037, .25: 21848. A run is 2.5 times as long.
Where this differs: a batch are all training sums but up to 7 (a multiple of 8), other ones each
step; losses are in float32, theirs in float64.
"""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from experiments import common

MODULUS = 113
PUBLISHED = {
    95: 157,
    90: 222,
    80: 252,
    70: 222,
    60: 440,
    50: 956,
    40: 3109,
    30: 7930,
    28: 15037,
    25: 21848,
}
WIDTH = 128


def config(percent: int) -> ConfigDict:
    source = {"kind": "arithmetic", "modulus": MODULUS}
    border = percent / 100
    rows = round(border * MODULUS**2) // 8 * 8
    return ConfigDict(
        {
            "model": {
                # 113 numbers, "=", and the tokenizer's own four
                "vocab_size": MODULUS + 5,
                "num_layers": 1,
                "d_model": WIDTH,
                "num_heads": 4,
                "d_ff": 4 * WIDTH,
                "position": {"kind": "learned", "max_length": 3},
                "norm": {"kind": "none"},
                "activation": "relu",
                "attention_bias": False,
                "attention_output_bias": False,
                "init": {"stddev": WIDTH**-0.5, "scale_residual": False},
            },
            "objective": {
                "kind": "classification",
                "labels": tuple(str(number) for number in range(MODULUS)),
            },
            "data": {
                "train": {"sums": {**source, "fraction": (0.0, border)}},
                "validation": {"test": {**source, "fraction": (border, 1.0)}},
                "tokenizer": {"kind": "words"},
                "sequence_length": 3,
                "packing": "none",
                "add_eos": False,
            },
            "train": {
                "batch_size": rows,
                "duration": {"steps": -(-PUBLISHED[percent] * 5 // 2) // 10 * 10},
                "steps_per_dispatch": 10,
                "log_every": 10,
            },
            "optimizer": {
                "kind": "adamw",
                "learning_rate": 1e-3,
                "schedule": {"kind": "constant", "warmup": {"steps": 10}},
                "beta2": 0.98,
                "weight_decay": 1.0,
                "rules": ({"pattern": ".*", "decay": True},),
            },
            "evaluation": {"every": {"steps": 10}, "batch_size": 4096},
            "checkpoint": {"every": {"steps": 500}},
        }
    )


VARIANTS = {
    "f50": functools.partial(config, 50),
    **{f"f{percent}": functools.partial(config, percent) for percent in PUBLISHED if percent != 50},
}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
