"""The original Transformer (Vaswani et al. 2017, Table 3): base and big, English to German.

There is no reference implementation in transformers. Checked by its number of parameters (Table 3)
and by the nearest mechanics in tests/parity (Marian: post-norm, sinusoids, one table for all).

What the paper leaves open, and what stands here:
- Its vocabulary is "about 37000 tokens", shared by both languages and the output: 37000.
- The projections of attention (section 3.2.2) have no biases, the feed-forward (equation 2) has.
- The layer norm's epsilon is tensor2tensor's, and so is the token before every target, padding (0).
- Initial weights are not given: ours, a normal of 0.02.
"""

from __future__ import annotations

from typing import Any

from experiments import common

# (width, heads, feed-forward, dropout)
SIZES = {
    "base": (512, 8, 2048, 0.1),
    "big": (1024, 16, 4096, 0.3),
}


def model(size: str) -> dict[str, Any]:
    d_model, num_heads, d_ff, dropout = common.of_size(size, SIZES)
    return {
        "architecture": "encoder_decoder",
        "vocab_size": 37000,
        "num_layers": 6,
        "d_model": d_model,
        "num_heads": num_heads,
        "d_ff": d_ff,
        "position": {"kind": "sinusoidal", "layout": "interleaved"},
        "norm": {"kind": "layer", "placement": "post", "epsilon": 1e-6},
        "activation": "relu",
        "attention_bias": False,
        "attention_output_bias": False,
        "scale_embeddings": True,
        "decoder_start_id": 0,
        "dropout": {"embedding": dropout, "residual": dropout},
        "init": {"scale_residual": False},
    }
