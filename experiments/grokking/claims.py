"""When a one-layer Transformer groks addition, against the share of sums it trains on.

lm reproduce experiments/grokking
"""

from __future__ import annotations

from typing import Any

from experiments.grokking.modular import PUBLISHED

FILE = "experiments/grokking/modular.py"
# Those that two cores do in three quarters of an hour, and those that take one more.
CPU, GPU = (80, 70, 60, 50), (40, 30)
SHARES = tuple(sorted(PUBLISHED, reverse=True))


def grokked(percent: int) -> dict[str, Any]:
    return {
        "id": f"A3-f{percent}",
        "sentence": f"With {percent} % of the sums in training, the test loss falls below 0.1 at "
        f"epoch {PUBLISHED[percent]}.",
        "where": "the saved runs of the released code",
        "published": PUBLISHED[percent],
        "unit": "epoch",
        "measure": "grokked" if percent in CPU else f"grokked_{percent}",
        "quantities": (f"f{percent}",),
        "check": {"kind": "factor", "times": 2.5},
        "why": "theirs is one run a share: 80 % took longer than 70 %",
        "scale": "cpu" if percent in CPU else "gpu",
        "figure": "epochs" if percent in CPU else None,
    }


PAPER: dict[str, Any] = {
    "title": "Grokking: addition modulo 113",
    "reference": "N. Nanda, L. Chan, T. Lieberum, J. Smith, J. Steinhardt 2023, Progress measures "
    "for grokking via mechanistic interpretability; A. Power et al. 2022, Grokking",
    "summary": "The fewer sums are shown, the longer after memorising them the rule is found.",
    "deviations": (
        "A step sees all training sums but up to 7, other ones each time.",
        "The test loss is looked at every 10 epochs; float32, theirs float64.",
    ),
    "runs": {
        f"f{percent}": {
            "config": f"{FILE}:f{percent}",
            "cost": f"{PUBLISHED[percent] * 5 // 2} epochs",
        }
        for percent in (*CPU, *GPU)
    },
    "measures": {
        "grokked": {
            "kind": "first_below",
            "runs": tuple(f"f{percent}" for percent in CPU),
            "split": "test",
        },
        "memorised": {"kind": "first_below", "runs": ("f50",), "split": "train"},
        **{
            f"grokked_{percent}": {
                "kind": "first_below",
                "runs": (f"f{percent}",),
                "split": "test",
            }
            for percent in GPU
        },
    },
    "claims": (
        *map(grokked, (*CPU, *GPU)),
        {
            "id": "A3-memorised",
            "sentence": "Memorising takes 134 to 217 epochs whatever the share; here, of half the "
            "sums, at most 300.",
            "where": "the saved runs of the released code",
            "unit": "epoch",
            "measure": "memorised",
            "quantities": ("f50",),
            "check": {"kind": "at_most", "bound": 300},
            "scale": "cpu",
            "figure": "curves",
        },
        {
            "id": "A3-later",
            "sentence": "Of 50 % of the sums the rule is found later than of 60 %.",
            "where": "the saved runs of the released code",
            "unit": "epochs between",
            "measure": "grokked",
            "quantities": ("f60", "f50"),
            "check": {"kind": "ordered", "direction": "rising"},
            "scale": "cpu",
            "figure": "epochs",
        },
    ),
    "figures": {
        "epochs": {
            "kind": "points",
            "measure": "grokked",
            "title": "The epoch of grokking against the share of sums in training",
            "message": "First epoch with a test loss below 0.1; the published points come from "
            "one saved run each.",
            "x": {f"f{percent}": percent / 100 for percent in CPU},
            "published_x": tuple(percent / 100 for percent in SHARES),
            "published_y": tuple(PUBLISHED[percent] for percent in SHARES),
            "x_label": "share of all sums in training",
            "y_label": "epoch of a test loss below 0.1",
            "log_y": True,
        },
        "curves": {
            "kind": "curves",
            "measure": "grokked",
            "title": "Train and test loss over epochs",
            "message": "Training loss thin, test loss bold: memorised first, understood later.",
            "splits": ("test",),
            "published": {"line of 'learned'": 0.1},
            "y_label": "loss (nats per sum)",
            "log_x": True,
            "log_y": True,
        },
    },
}
