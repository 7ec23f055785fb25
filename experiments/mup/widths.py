"""muP, maximal update parametrisation, beside the standard one (Yang et al. 2022, "Tensor Programs
V", Table 8): small decoders of four widths, ten steps each.

   lm train --config=experiments/mup/widths.py:mup-w128 --workdir=runs/mup-w128
   cost: seconds on 2 CPU cores.   measured: logits of 1.7 at every width

It is a matter of initial sizes and learning rates, which a config says, with m = width / 64:
- matrices of the layers start at 1 / sqrt(width) and learn at 1 / m of the rate;
- embeddings are of unit size at every width (1 / sqrt(width), times sqrt(width) where they are
  read) and learn alike, 1 / sqrt(width) of the rate before that factor;
- the readout starts at 1 / sqrt(width), its product divided by sqrt(m), at 1 / sqrt(m) of the rate;
- attention's scores are divided by the width of a head, not its root, and equal at width 64;
- readout and queries start at zero (their appendix D.2).
"""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments import common

BASE, HEADS = 64, 4
WIDTHS = (64, 128, 256, 512)
FAMILIES = ("standard", "mup")


def initial(width: int, **more: Any) -> dict[str, Any]:
    """Initial weights of either parametrisation."""
    return {"stddev": width**-0.5, "scale_residual": False, **more}


def mup(width: int, base: int = BASE) -> tuple[dict[str, Any], dict[str, Any]]:
    """What differs from the standard parametrisation: in the model, and in the optimiser."""
    m = width / base
    model = {
        "attention_scale": (base / HEADS) ** 0.5 / (width / HEADS),
        "logit_scale": m**-0.5,
        "init": initial(width, zero=("query", "readout")),
    }
    rules = (
        {"pattern": r"layer_\d+/.*/kernel", "learning_rate": 1 / m},
        {"pattern": r"lm_head/kernel", "learning_rate": m**-0.5},
        {"pattern": r"token_embedding/embedding", "learning_rate": width**-0.5},
        {"pattern": r".*/scale", "decay": False},
    )
    return model, {"rules": rules}


def config(family: str, width: int) -> ConfigDict:
    model, optimizer = mup(width) if family == "mup" else ({}, {})
    return ConfigDict(
        {
            "model": {
                "vocab_size": 259,
                "num_layers": 2,
                "d_model": width,
                "num_heads": HEADS,
                "d_ff": 4 * width,
                "position": {"kind": "rotary"},
                "norm": {"kind": "rms"},
                "tie_embeddings": False,
                "scale_embeddings": True,
                "init": initial(width),
                **common.no_bias(),
                **model,
            },
            "data": {
                **common.split({"kind": "embedded"}, held_out=0.1),
                "tokenizer": {"kind": "byte"},
                "sequence_length": 128,
            },
            # 16 rows * 128 = 2048 bytes a step
            "train": {"batch_size": 16, "duration": {"steps": 10}, "log_every": 1},
            "optimizer": {"kind": "adamw", "learning_rate": 3e-3, "beta2": 0.98, **optimizer},
            "evaluation": {"every": {"steps": 10}, "batches": 4},
            "checkpoint": {"every": {"steps": 10}},
        }
    )


VARIANTS = {
    f"{family}-w{width}": functools.partial(config, family, width)
    for family in FAMILIES
    for width in WIDTHS
}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
