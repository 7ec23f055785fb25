"""GPT-3 (Brown et al. 2020, Table 2.1): the eight sizes.

There is no public reference implementation. Checked by the number of parameters (Table 2.1's, and
exactly GPT-2's of the same shape) and by the nearest mechanics in tests/parity: GPT-Neo's
alternating global and local attention.

Where the paper leaves room or this differs:
- Dense and locally banded attention alternate; the band's width is not stated. 256 is ours.
- Table 2.1 gives 1.3b 24 heads of 128, which would make 1.5 G parameters; 16 make its 1.3 G.
- GELU by tanh, as in GPT-2; dropout is not mentioned, and there is none here.
"""

from __future__ import annotations

from typing import Any

from experiments import common

# (layers, width, heads, head width); feed-forward 4 * width
SIZES = {
    "125m": (12, 768, 12, 64),
    "350m": (24, 1024, 16, 64),
    "760m": (24, 1536, 16, 96),
    "1.3b": (24, 2048, 16, 128),
    "2.7b": (32, 2560, 32, 80),
    "6.7b": (32, 4096, 32, 128),
    "13b": (40, 5140, 40, 128),  # 5140 as printed, although 40 * 128 = 5120
    "175b": (96, 12288, 96, 128),
}


def model(size: str) -> dict[str, Any]:
    num_layers, d_model, num_heads, head_dim = common.of_size(size, SIZES)
    return {
        "vocab_size": 50257,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "head_dim": head_dim,
        "d_ff": 4 * d_model,
        "position": {"kind": "learned", "max_length": 2048},
        "activation": "gelu_tanh",
        "layer_pattern": ("global", "local"),
        "window": 256,
    }
