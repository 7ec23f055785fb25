"""Decoders that do linear regression in their context.

lm reproduce experiments/regression
"""

from __future__ import annotations

from typing import Any

FILE = "experiments/regression/linear.py"
UNIT = "squared error over coordinates"

PAPER: dict[str, Any] = {
    "title": "Linear regression in context",
    "reference": "S. Garg, D. Tsipras, P. Liang, G. Valiant 2022, What Can Transformers Learn "
    "In-Context? A Case Study of Simple Function Classes",
    "summary": "From examples (x, w x) in its context a decoder says w x of the next x, nearly as "
    "least squares do.",
    "deviations": ("Of 20 coordinates: 200,000 steps of the paper's 500,001.",),
    "runs": {
        "d5": {"config": f"{FILE}:d5", "seeds": (0, 1, 2), "cost": "6 min a seed on one CPU core"},
        "d20": {"config": f"{FILE}:d20", "cost": "half an hour on one H100"},
    },
    "measures": {
        "d5_twice": {
            "kind": "metric", "runs": ("d5",), "split": "functions", "metric": "error_10",
        },
        "d20_once": {
            "kind": "metric", "runs": ("d20",), "split": "functions", "metric": "error_20",
        },
        "d20_twice": {
            "kind": "metric", "runs": ("d20",), "split": "functions", "metric": "error_40",
        },
    },
    "claims": (
        {
            "id": "B3-d5",
            "sentence": "After twice as many examples as coordinates, 10 of 5, a decoder is within "
            "a twentieth of the variance (guessing zero: 1).",
            "where": "Figure 2",
            "unit": UNIT,
            "measure": "d5_twice",
            "quantities": ("d5",),
            "check": {"kind": "at_most", "bound": 0.05},
            "why": "the paper's, of 20 coordinates and a larger model, is 0.0006",
            "proxy": "5 coordinates, 3 layers of 64, 20,000 steps",
            "scale": "cpu",
            "figure": "curves",
        },
        {
            "id": "B3-once",
            "sentence": "Of 20 coordinates, after 20 examples the error is 0.02.",
            "where": "Figure 2",
            "published": 0.02,
            "unit": UNIT,
            "measure": "d20_once",
            "quantities": ("d20",),
            "check": {"kind": "factor", "times": 2.5},
            "why": "two fifths of the paper's steps",
            "proxy": "200,000 steps of 500,001",
            "scale": "gpu",
        },
        {
            "id": "B3-twice",
            "sentence": "Of 20 coordinates, after 40 examples the error is 0.0006.",
            "where": "Figure 2",
            "published": 0.0006,
            "unit": UNIT,
            "measure": "d20_twice",
            "quantities": ("d20",),
            "check": {"kind": "factor", "times": 2.5},
            "why": "two fifths of the paper's steps",
            "proxy": "200,000 steps of 500,001",
            "scale": "gpu",
        },
    ),
    "figures": {
        "curves": {
            "kind": "curves",
            "measure": "d5_twice",
            "title": "Error after ten examples over training, five coordinates",
            "message": "Training thin, functions never seen bold, a line for each seed.",
            "splits": ("functions",),
            "metric": "error_10",
            "levels": {"guessing zero": 1.0},
            "y_label": UNIT,
            "log_y": True,
        },
    },
}  # fmt: skip
