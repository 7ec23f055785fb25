"""GPT-1 (Radford et al. 2018, section 4.1): post-norm, 12 layers, a BPE of 40,000 merges.

What the paper leaves open: the vocabulary is the released one's, 40,478 (the merges, and the bytes
they start from); GELU is computed by tanh, as in the authors' code.
"""

from __future__ import annotations

from typing import Any

from experiments import common

# (layers, width); heads of 64, feed-forward 4 * width
SIZES = {"117m": (12, 768)}


def model(size: str) -> dict[str, Any]:
    num_layers, d_model = common.of_size(size, SIZES)
    return {
        "vocab_size": 40478,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": d_model // 64,
        "d_ff": 4 * d_model,
        "position": {"kind": "learned", "max_length": 512},
        "norm": {"kind": "layer", "placement": "post", "epsilon": 1e-5},
        "activation": "gelu_tanh",
        "dropout": {"embedding": 0.1, "attention": 0.1, "residual": 0.1},
        "init": {"scale_residual": False},
    }
