"""Llama 1 to 3.2 (Touvron et al. 2023a, 2023b; Llama Team 2024): rotary, RMSNorm, SwiGLU, GQA.

A size is named `<generation>-<size>`; 60m is a toy of ours. Shapes are those of the papers' tables
(Llama 1: Table 2; Llama 3: Table 3) and of the released configurations, which alone give the 3.2
models and the stretched rotary frequencies of 3.1 (by 8) and 3.2 (by 32), for contexts of 131,072.
"""

from __future__ import annotations

from typing import Any

from experiments import common

# (layers, width, heads, key/value heads, feed-forward)
SIZES = {
    "60m": (8, 512, 8, 4, 1376),
    # 7b's feed-forward is 8/3 * 4096 = 10923, up to a multiple of 256
    "1-7b": (32, 4096, 32, 32, 11008),
    "1-13b": (40, 5120, 40, 40, 13824),
    "1-33b": (60, 6656, 52, 52, 17920),
    "1-65b": (80, 8192, 64, 64, 22016),
    "2-7b": (32, 4096, 32, 32, 11008),
    "2-13b": (40, 5120, 40, 40, 13824),
    "2-70b": (80, 8192, 64, 8, 28672),
    "3-8b": (32, 4096, 32, 8, 14336),
    "3-70b": (80, 8192, 64, 8, 28672),
    "3.1-8b": (32, 4096, 32, 8, 14336),
    "3.1-70b": (80, 8192, 64, 8, 28672),
    "3.1-405b": (126, 16384, 128, 8, 53248),
    "3.2-1b": (16, 2048, 32, 8, 8192),
    "3.2-3b": (28, 3072, 24, 8, 8192),
}


def _generation(name: str) -> dict[str, Any]:
    """What the sizes of one generation share."""
    if not name.startswith("3"):
        return {
            "vocab_size": 32000,
            "position": {"kind": "rotary"},
            "norm": {"kind": "rms", "bias": False, "epsilon": 1e-6 if name == "1" else 1e-5},
            "tie_embeddings": False,
        }
    position: dict[str, Any] = {"kind": "rotary", "base": 500_000.0}
    if name != "3":
        position["scaling"] = {
            "kind": "llama3",
            "factor": {"3.1": 8.0, "3.2": 32.0}[name],
            "low_frequency_factor": 1.0,
            "high_frequency_factor": 4.0,
            "original_length": 8192,
        }
    return {
        "vocab_size": 128256,
        "position": position,
        "norm": {"kind": "rms", "bias": False, "epsilon": 1e-5},
        "tie_embeddings": name == "3.2",
    }


def model(size: str) -> dict[str, Any]:
    num_layers, d_model, num_heads, num_kv_heads, d_ff = common.of_size(size, SIZES)
    return {
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "d_ff": d_ff,
        "activation": "swiglu",
        **common.no_bias(),
        "init": {"scale_residual": False},
        **_generation("2" if size == "60m" else size.partition("-")[0]),
    }
