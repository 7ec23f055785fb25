"""muP's coordinate check: outputs that do not grow with the width.

lm reproduce experiments/mup
"""

from __future__ import annotations

from typing import Any

from experiments.mup.widths import FAMILIES, VARIANTS, WIDTHS

SEEDS = (0, 1, 2)
PROXY = "two layers, widths 64 to 512, bytes, ten steps"

PAPER: dict[str, Any] = {
    "title": "muP: the coordinate check",
    "reference": "G. Yang et al. 2022, Tensor Programs V: Tuning Large Neural Networks via "
    "Zero-Shot Hyperparameter Transfer; the released code's coordinate check",
    "summary": "After ten steps at one learning rate, the logits of standard networks are the "
    "larger the wider they are; under muP they are of one size.",
    "deviations": (
        "Readout and queries do not start at zero.",
        "That the best learning rate stays the same over widths is not run here.",
    ),
    "runs": {
        name: {
            "config": f"experiments/mup/widths.py:{name}",
            "seeds": SEEDS,
            "cost": "seconds on 2 CPU cores",
        }
        for name in VARIANTS
    },
    "measures": {
        "sizes": {
            "kind": "output_sizes",
            "runs": tuple(VARIANTS),
            "families": {
                family: tuple(f"{family}-w{width}" for width in WIDTHS) for family in FAMILIES
            },
        }
    },
    "claims": (
        {
            "id": "A8-mup",
            "sentence": "Under muP the size of the logits after some steps does not depend on the "
            "width.",
            "where": "Figure 5, and the README of the code",
            "published": 0.0,
            "unit": "slope of log size over log width",
            "measure": "sizes",
            "quantities": ("mup_slope",),
            "check": {"kind": "within", "tolerance": 0.1},
            "proxy": PROXY,
            "scale": "cpu",
            "figure": "sizes",
        },
        {
            "id": "A8-standard",
            "sentence": "Under the standard parametrisation it grows with the width.",
            "where": "Figure 5, and the README of the code",
            "unit": "slope of log size over log width",
            "measure": "sizes",
            "quantities": ("standard_slope",),
            "check": {"kind": "at_least", "bound": 0.3},
            "proxy": PROXY,
            "scale": "cpu",
            "figure": "sizes",
        },
    ),
    "figures": {
        "sizes": {
            "kind": "lines",
            "measure": "sizes",
            "title": "Size of the logits after ten steps against width",
            "message": "The mean absolute logit on held-out text; under muP published as flat.",
            "lines": {
                family: {f"{family}-w{width}": width for width in WIDTHS} for family in FAMILIES
            },
            "x_label": "width (d_model)",
            "y_label": "mean absolute logit",
            "log_x": True,
            "log_y": True,
        }
    },
}
