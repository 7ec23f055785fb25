"""Layer norms before or after: the gradient before any training.

lm reproduce experiments/layer_norm
"""

from __future__ import annotations

from typing import Any

PAPER: dict[str, Any] = {
    "title": "Pre-LN and post-LN: gradients at initialisation",
    "reference": "R. Xiong et al. 2020, On Layer Normalization in the Transformer Architecture",
    "summary": "With norms after the sub-layers, the gradient near the output does not shrink with "
    "depth, which is why such models need a warm-up; with norms before them it does.",
    "deviations": (
        "A decoder on random tokens, 128 wide, for their encoder-decoder of 512 on IWSLT'14.",
    ),
    "measures": {"norms": {"kind": "norm_placement"}},
    "claims": (
        {
            "id": "A7-post",
            "sentence": "Post-LN: the gradient of the last feed-forward matrix is of the same size "
            "at every depth, here from 6 to 14 layers.",
            "where": "Figure 3(c), (d); Theorem 1",
            "published": 1.0,
            "unit": "largest over smallest norm",
            "measure": "norms",
            "quantities": ("post_spread",),
            "check": {"kind": "at_most", "bound": 1.3},
            "proxy": "a narrow decoder on random tokens",
            "scale": "cpu",
            "figure": "norms",
        },
        {
            "id": "A7-pre",
            "sentence": "Pre-LN: it falls as one over the root of the number of layers.",
            "where": "Figure 3(c), (d); Theorem 1",
            "published": -0.5,
            "unit": "slope of log norm over log depth",
            "measure": "norms",
            "quantities": ("pre_slope",),
            "check": {"kind": "within", "tolerance": 0.15},
            "proxy": "a narrow decoder on random tokens",
            "scale": "cpu",
            "figure": "norms",
        },
    ),
    "figures": {
        "norms": {
            "kind": "depth_norms",
            "measure": "norms",
            "title": "Gradient norm of the last feed-forward matrix against depth",
            "message": "Each seed a dot, their mean a line; dotted: what the paper's theorem says.",
        },
    },
}
