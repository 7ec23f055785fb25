"""LaMDA (Thoppilan et al. 2022, section 3 and Table 27): the three sizes before fine-tuning.

There is no public reference implementation. Checked by the number of parameters (the paper's
billions, without embeddings) and by the nearest mechanics in tests/parity: T5 v1.1's decoder, with
the same relative attention and gated GELU.

From the paper's text: a decoder with T5's relative attention and gated GELU, 64 layers, width 8192,
feed-forward 65536, 128 heads of 128 for 137b; 32 K SentencePiece tokens.
[from memory, check before quoting]: layers, width and heads of 2b and 8b. Their feed-forward of
8 * width and head width of 128 are 137b's, and give 2.10 G and 8.59 G parameters without
embeddings.
Not stated, ours: RMSNorm and no biases (as in T5), tied embeddings, attention scores divided by the
square root of the head width, GELU by tanh (T5 v1.1's), no dropout.
"""

from __future__ import annotations

from typing import Any

from experiments import common

# (layers, width, heads); feed-forward 8 * width
SIZES = {
    "2b": (10, 2560, 40),
    "8b": (16, 4096, 64),
    "137b": (64, 8192, 128),
}


def model(size: str) -> dict[str, Any]:
    num_layers, d_model, num_heads = common.of_size(size, SIZES)
    return {
        "vocab_size": 32000,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "head_dim": 128,
        "d_ff": 8 * d_model,  # 8 * 8192 = 65536
        "position": {"kind": "t5_relative"},
        "norm": {"kind": "rms", "bias": False, "epsilon": 1e-6},
        "activation": "geglu_tanh",
        **common.no_bias(),
    }
