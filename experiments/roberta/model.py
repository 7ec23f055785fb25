"""RoBERTa (Liu et al. 2019, Table 9): BERT's shapes, a byte-level BPE of 50265, no next sentence.

There are no segments, and yet one token type: the released weights have that one row. Positions
start at row 2 of their table, since fairseq keeps the first two for padding.
"""

from __future__ import annotations

from typing import Any

from experiments import common

# (layers, width); heads of 64, feed-forward 4 * width
SIZES = {
    "base": (12, 768),
    "large": (24, 1024),
}


def model(size: str) -> dict[str, Any]:
    num_layers, d_model = common.of_size(size, SIZES)
    return {
        "architecture": "encoder",
        "vocab_size": 50265,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": d_model // 64,
        "d_ff": 4 * d_model,
        "position": {"kind": "learned", "max_length": 512, "offset": 2},
        "norm": {"kind": "layer", "placement": "post", "epsilon": 1e-5},
        "activation": "gelu",
        "token_types": 1,
        "embedding_norm": True,
        "lm_head": "transform",
        "lm_head_bias": True,
        "dropout": {"embedding": 0.1, "attention": 0.1, "residual": 0.1},
        "init": {"scale_residual": False},
    }
