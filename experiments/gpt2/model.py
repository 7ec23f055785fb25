"""GPT-2 (Radford et al. 2019, Table 2): the four sizes.

Table 2 counts 117 M, 345 M, 762 M and 1542 M; the released models, with the same layers and widths,
have the sizes that name them here. What the paper leaves open: GELU is computed by tanh, as in the
authors' code; the dropout of 0.1 is that of transformers' configurations.
"""

from __future__ import annotations

from typing import Any

from experiments import common

# (layers, width); heads of 64, feed-forward 4 * width
SIZES = {
    "124m": (12, 768),
    "355m": (24, 1024),
    "774m": (36, 1280),
    "1558m": (48, 1600),
}


def model(size: str) -> dict[str, Any]:
    num_layers, d_model = common.of_size(size, SIZES)
    return {
        "vocab_size": 50257,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": d_model // 64,
        "d_ff": 4 * d_model,
        "position": {"kind": "learned", "max_length": 1024},
        "activation": "gelu_tanh",
        "dropout": {"embedding": 0.1, "attention": 0.1, "residual": 0.1},
    }
