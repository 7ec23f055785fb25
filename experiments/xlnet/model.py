"""XLNet (Yang et al. 2019, Table 8: large; base as released), with its language-model head.

What the paper leaves open: Table 8 has one dropout of 0.1 and an attention dropout of 0.1; where
they fall is the authors' code's. That code's GELU is the tanh form, transformers' the exact one;
these follow transformers, in which the weights are served. The published runs clamp no distance.
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
        "architecture": "two_stream",
        "vocab_size": 32000,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": d_model // 64,
        "head_dim": 64,
        "d_ff": 4 * d_model,
        "position": {"kind": "xlnet_relative"},
        "norm": {"kind": "layer", "placement": "post", "epsilon": 1e-12},
        "activation": "gelu",
        "token_types": 2,
        "attention_bias": False,
        "attention_output_bias": False,
        "lm_head_bias": True,
        "dropout": {
            "embedding": 0.1,
            "attention": 0.1,
            "residual": 0.1,
            "feed_forward": 0.1,
            "output": 0.1,
        },
        "init": {"scale_residual": False},
    }
