"""BART (Lewis et al. 2020, section 2.1): base and large.

One table of embeddings for encoder, decoder and logits; positions start at row 2 of theirs, as in
RoBERTa. What the paper leaves open, the dropout of attention and of the feed-forward's activations,
is that of the released configurations. Their `final_logits_bias` is zero and not trained: there is
none here.
"""

from __future__ import annotations

from typing import Any

from experiments import common

# (layers of each stack, width, heads); feed-forward 4 * width
SIZES = {
    "base": (6, 768, 12),
    "large": (12, 1024, 16),
}


def model(size: str) -> dict[str, Any]:
    num_layers, d_model, num_heads = common.of_size(size, SIZES)
    return {
        "architecture": "encoder_decoder",
        "vocab_size": 50265,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "d_ff": 4 * d_model,
        "position": {"kind": "learned", "max_length": 1024, "offset": 2},
        "norm": {"kind": "layer", "placement": "post", "epsilon": 1e-5},
        "activation": "gelu",
        "embedding_norm": True,
        "decoder_start_id": 2,
        "dropout": {"embedding": 0.1, "attention": 0.1, "residual": 0.1, "feed_forward": 0.1},
        "init": {"scale_residual": False},
    }
