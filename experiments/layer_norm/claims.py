"""Layer norms before or after: the gradient before any training, and whether warm-up is needed.

lm reproduce experiments/layer_norm
"""

from __future__ import annotations

from typing import Any

SEEDS = (0, 1, 2)
PROXY = "12 layers of 64 on bytes; the loss in place of BLEU"

PAPER: dict[str, Any] = {
    "title": "Pre-LN and post-LN: gradients at initialisation, and warm-up",
    "reference": "R. Xiong et al. 2020, On Layer Normalization in the Transformer Architecture",
    "summary": "With norms after the sub-layers, the gradient near the output does not shrink with "
    "depth, which is why such models need a warm-up; with norms before them it does.",
    "deviations": (
        "Decoders, 128 wide on random tokens and 64 wide on bytes, for their encoder-decoder of "
        "512 on IWSLT'14.",
        "What is compared of runs is the validation loss, not BLEU, and the learning rate falls "
        "linearly.",
    ),
    "runs": {
        name: {
            "config": f"experiments/layer_norm/warmup.py:{name}",
            "seeds": SEEDS,
            "cost": "90 s a seed on one CPU core",
        }
        for name in ("post", "post-warmup", "pre", "pre-warmup")
    },
    "measures": {
        "norms": {"kind": "norm_placement"},
        "warmup": {
            "kind": "differences",
            "runs": ("post", "post-warmup", "pre", "pre-warmup"),
            "between": {
                "post-without": ("post", "post-warmup"),
                "pre-without": ("pre", "pre-warmup"),
            },
        },
    },
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
        {
            "id": "A7-post-warmup",
            "sentence": "Post-LN needs a warm-up: without it, the model is much worse (theirs, "
            "with Adam: BLEU 8.45 without and some 34 with).",
            "where": "Figure 2 and section 3.2",
            "unit": "validation loss without warm-up less that with (nats per byte)",
            "measure": "warmup",
            "quantities": ("post-without",),
            "check": {"kind": "at_least", "bound": 0.2},
            "proxy": PROXY,
            "why": "well above what seeds differ by",
            "scale": "cpu",
            "figure": "curves",
        },
        {
            "id": "A7-pre-warmup",
            "sentence": "Pre-LN does not: without it, the model is hardly worse (theirs: BLEU of "
            "some 34 without too).",
            "where": "Figure 3 and section 4",
            "unit": "validation loss without warm-up less that with (nats per byte)",
            "measure": "warmup",
            "quantities": ("pre-without",),
            "check": {"kind": "at_most", "bound": 0.05},
            "proxy": PROXY,
            "scale": "cpu",
            "figure": "curves",
        },
    ),
    "figures": {
        "norms": {
            "kind": "depth_norms",
            "measure": "norms",
            "title": "Gradient norm of the last feed-forward matrix against depth",
            "message": "Each seed a dot, their mean a line; dotted: what the paper's theorem says.",
        },
        "curves": {
            "kind": "curves",
            "measure": "warmup",
            "title": "Loss over training, with and without warm-up",
            "message": "Training loss thin, validation bold; a colour for each of the four, a line "
            "for each seed.",
            "by_run": True,
            "y_label": "loss (nats per byte)",
        },
    },
}
