"""SmolLM2 (Ben Allal et al. 2025): Llama's parts, small, with tied embeddings.

The paper describes 1.7b; the shapes of 135m and 360m, and the rotary bases (130,000 for 1.7b and
100,000 for the others, at a length of 8192), are those of the released configurations.
"""

from __future__ import annotations

from typing import Any

from experiments import common

# (layers, width, heads, key/value heads, feed-forward, rotary base, stddev of the initial weights)
SIZES = {
    "135m": (30, 576, 9, 3, 1536, 100_000.0, 576**-0.5),
    "360m": (32, 960, 15, 5, 2560, 100_000.0, 0.02),
    "1.7b": (24, 2048, 32, 32, 8192, 130_000.0, 0.02),
}


def model(size: str) -> dict[str, Any]:
    num_layers, d_model, num_heads, num_kv_heads, d_ff, base, stddev = common.of_size(size, SIZES)
    return {
        "vocab_size": 49152,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "d_ff": d_ff,
        "position": {"kind": "rotary", "base": base},
        "norm": {"kind": "rms", "bias": False, "epsilon": 1e-5},
        "activation": "swiglu",
        **common.no_bias(),
        "tie_embeddings": True,
        "init": {"stddev": stddev, "scale_residual": False},
    }
