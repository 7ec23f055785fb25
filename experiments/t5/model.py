"""T5 v1.0 (Raffel et al. 2020, section 3.7) and v1.1 (its repository's released_checkpoints.md).

v1.0 has a ReLU feed-forward and one table for embeddings and logits, which it divides by the square
root of the width; v1.1 has a gated GELU (Shazeer 2020) and a table of logits of its own, and its
pre-training has no dropout: `v1.1-*` neither (its fine-tuning has 0.1).

The vocabulary of 32,000 and 100 sentinels is padded to 32,128. Attention scores are not divided by
the square root of the head width; T5 puts that into its initial weights, which differ by the kind
of matrix. Ours are one normal of 0.02: a run from scratch starts elsewhere than the paper's.
"""

from __future__ import annotations

from typing import Any

from experiments import common

# (layers of each stack, width, heads, head width, feed-forward)
SIZES = {
    "small": (6, 512, 8, 64, 2048),
    "base": (12, 768, 12, 64, 3072),
    "large": (24, 1024, 16, 64, 4096),
    "3b": (24, 1024, 32, 128, 16384),
    "11b": (24, 1024, 128, 128, 65536),
    "v1.1-small": (8, 512, 6, 64, 1024),
    "v1.1-base": (12, 768, 12, 64, 2048),
    "v1.1-large": (24, 1024, 16, 64, 2816),
    "v1.1-xl": (24, 2048, 32, 64, 5120),
    "v1.1-xxl": (24, 4096, 64, 64, 10240),
}


def model(size: str) -> dict[str, Any]:
    num_layers, d_model, num_heads, head_dim, d_ff = common.of_size(size, SIZES)
    first = {
        "activation": "relu",
        "tie_embeddings": True,
        "logit_scale": d_model**-0.5,
        "dropout": {
            "embedding": 0.1,
            "attention": 0.1,
            "residual": 0.1,
            "feed_forward": 0.1,
            "output": 0.1,
        },
    }
    second = {"activation": "geglu_tanh", "tie_embeddings": False}
    return {
        "architecture": "encoder_decoder",
        "vocab_size": 32128,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "head_dim": head_dim,
        "d_ff": d_ff,
        "position": {"kind": "t5_relative"},
        "norm": {"kind": "rms", "bias": False, "epsilon": 1e-6},
        **common.no_bias(),
        "attention_scale": 1.0,
        "decoder_start_id": 0,
        "init": {"scale_residual": False},
        **(second if size.startswith("v1.1-") else first),
    }
