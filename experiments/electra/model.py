"""ELECTRA (Clark et al. 2020, Table 6): a generator and a discriminator of each size.

`<size>-generator` fills masks in; `<size>-discriminator` tells for every token whether it was
replaced. In pre-training they share their token, position and type embeddings, which is why a
generator's are as wide as its discriminator's and projected to its own width. Here each is a model
of its own, with all its parameters.

A generator has 1/4 (small, large) or 1/3 (base) of the discriminator's width, heads and
feed-forward, and all its layers. The released small one is the paper's Small++, trained with a
generator of the discriminator's size: `small++-generator`.
What the paper leaves open, the form of GELU, is transformers' exact one, as for BERT.
"""

from __future__ import annotations

from typing import Any

from experiments import common

# (layers, embedding, width, heads); feed-forward 4 * width
SIZES = {
    "small-discriminator": (12, 128, 256, 4),
    "small-generator": (12, 128, 64, 1),
    "small++-generator": (12, 128, 256, 4),
    "base-discriminator": (12, 768, 768, 12),
    "base-generator": (12, 768, 256, 4),
    "large-discriminator": (24, 1024, 1024, 16),
    "large-generator": (24, 1024, 256, 4),
}

GENERATOR: dict[str, Any] = {"lm_head": "transform", "lm_head_bias": True}
DISCRIMINATOR: dict[str, Any] = {
    "lm_head": "none",
    "heads": ({"kind": "replaced_token", "num_labels": 1, "transform": True},),
}


def model(size: str) -> dict[str, Any]:
    num_layers, embedding_size, d_model, num_heads = common.of_size(size, SIZES)
    return {
        "architecture": "encoder",
        "vocab_size": 30522,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "d_ff": 4 * d_model,
        "position": {"kind": "learned", "max_length": 512},
        "norm": {"kind": "layer", "placement": "post", "epsilon": 1e-12},
        "activation": "gelu",
        "embedding_size": embedding_size,
        "token_types": 2,
        "embedding_norm": True,
        "dropout": {"embedding": 0.1, "attention": 0.1, "residual": 0.1},
        "init": {"scale_residual": False},
        **(GENERATOR if size.endswith("-generator") else DISCRIMINATOR),
    }
