"""BERT, uncased (Devlin et al. 2019, section 3: base, large; Turc et al. 2019, Table 1: the rest).

With the heads of its pre-training, masked language model and next sentence; before them there is no
dropout (a fine-tuned head has 0.1 before it).

What the paper leaves open: the exact or the tanh form of GELU. The authors' code computes the tanh
form, transformers the exact one; these follow transformers, in which the weights are served.
"""

from __future__ import annotations

from typing import Any

from experiments import common

# (layers, width); heads of 64, feed-forward 4 * width
SIZES = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}


def model(size: str) -> dict[str, Any]:
    num_layers, d_model = common.of_size(size, SIZES)
    return {
        "architecture": "encoder",
        "vocab_size": 30522,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": d_model // 64,
        "d_ff": 4 * d_model,
        "position": {"kind": "learned", "max_length": 512},
        "norm": {"kind": "layer", "placement": "post", "epsilon": 1e-12},
        "activation": "gelu",
        "token_types": 2,
        "embedding_norm": True,
        "lm_head": "transform",
        "lm_head_bias": True,
        "pooler": {"token": "first", "dense": True, "activation": "tanh"},
        "heads": ({"kind": "next_sentence", "num_labels": 2},),
        "dropout": {"embedding": 0.1, "attention": 0.1, "residual": 0.1},
        "init": {"scale_residual": False},
    }
