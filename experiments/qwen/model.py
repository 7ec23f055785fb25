"""Qwen2.5 and Qwen3, dense (Qwen Team 2024, Table 1; Qwen Team 2025, Table 1).

Llama's parts, with biases on queries, keys and values (2.5), or normalised queries and keys (3).
The tables give layers and heads; widths, vocabularies and rotary bases are those of the released
configurations.
"""

from __future__ import annotations

from typing import Any

from experiments import common

# (layers, width, heads, key/value heads, feed-forward, tied embeddings)
SIZES = {
    "2.5-0.5b": (24, 896, 14, 2, 4864, True),
    "2.5-1.5b": (28, 1536, 12, 2, 8960, True),
    "2.5-7b": (28, 3584, 28, 4, 18944, False),
    "3-0.6b": (28, 1024, 16, 8, 3072, True),
    "3-1.7b": (28, 2048, 16, 8, 6144, True),
    "3-4b": (36, 2560, 32, 8, 9728, True),
    "3-8b": (36, 4096, 32, 8, 12288, False),
}


def model(size: str) -> dict[str, Any]:
    num_layers, d_model, num_heads, num_kv_heads, d_ff, tied = common.of_size(size, SIZES)
    third = size.startswith("3-")
    return {
        "vocab_size": 152064 if size == "2.5-7b" else 151936,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": 128 if third else d_model // num_heads,
        "d_ff": d_ff,
        "position": {"kind": "rotary", "base": 1_000_000.0},
        "norm": {"kind": "rms", "bias": False, "epsilon": 1e-6},
        "activation": "swiglu",
        **common.no_bias(),
        "attention_bias": not third,
        "qk_norm": third,
        "tie_embeddings": tied,
        "init": {"scale_residual": False},
    }
