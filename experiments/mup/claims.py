"""muP: outputs that do not grow with the width, and a learning rate that stays the best.

lm reproduce experiments/mup
"""

from __future__ import annotations

from typing import Any

from experiments.mup import rates, wikitext
from experiments.mup.widths import FAMILIES, VARIANTS, WIDTHS

SEEDS = (0, 1, 2)
CHECK = "two layers, widths 64 to 512, bytes, ten steps"
TRANSFER = "two layers, widths 64 to 256, bytes, 500 steps of 1,024"


def runs_of(sweep: Any, file: str, cost: str) -> dict[str, dict[str, Any]]:
    """The cells of a file's sweep, as runs."""
    found: dict[str, dict[str, Any]] = {}

    def add(name: str, overrides: dict[str, Any], *, variant: str) -> None:
        found[name] = {"config": f"{file}:{variant}", "overrides": overrides, "cost": cost}

    sweep(add)
    return found


TRANSFER_RUNS = runs_of(rates.sweep, "experiments/mup/rates.py", "a minute on 2 CPU cores")
WIKITEXT_RUNS = runs_of(wikitext.sweep, "experiments/mup/wikitext.py", "half a minute on one H100")

PAPER: dict[str, Any] = {
    "title": "muP: the coordinate check, and learning rates that transfer",
    "reference": "G. Yang et al. 2022, Tensor Programs V: Tuning Large Neural Networks via "
    "Zero-Shot Hyperparameter Transfer; the released code's coordinate check",
    "summary": "After ten steps at one learning rate, the logits of standard networks grow with "
    "their width; under muP they are of one size, and so the best learning rate of a narrow "
    "network is that of a wide one.",
    "deviations": (
        "Small Transformers on bytes of documentation; theirs are on WikiText-2.",
        "The best learning rate is one of a grid of octaves, of one seed.",
        "Judged is where the best rate lies, not how good it is: at these widths the best losses "
        "under muP are above those of the standard parametrisation.",
    ),
    "runs": {
        **{
            name: {
                "config": f"experiments/mup/widths.py:{name}",
                "seeds": SEEDS,
                "cost": "seconds on 2 CPU cores",
            }
            for name in VARIANTS
        },
        **TRANSFER_RUNS,
        **WIKITEXT_RUNS,
    },
    "measures": {
        "sizes": {
            "kind": "output_sizes",
            "runs": tuple(VARIANTS),
            "families": {
                family: tuple(f"{family}-w{width}" for width in WIDTHS) for family in FAMILIES
            },
        },
        "rates": {
            "kind": "best_rates",
            "runs": tuple(TRANSFER_RUNS),
            "families": {
                family: tuple(name for name in TRANSFER_RUNS if name.startswith(f"{family}-"))
                for family in FAMILIES
            },
        },
        "wikitext": {
            "kind": "best_rates",
            "runs": tuple(WIKITEXT_RUNS),
            "families": {"mup": tuple(WIKITEXT_RUNS)},
        },
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
            "proxy": CHECK,
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
            "proxy": CHECK,
            "scale": "cpu",
            "figure": "sizes",
        },
        {
            "id": "A8-transfer",
            "sentence": "Under muP the best learning rate is the same at every width: at most an "
            "octave, a step of the grid, apart.",
            "where": "Figure 1",
            "published": 0.0,
            "unit": "octaves between the best learning rates of the widths",
            "measure": "rates",
            "quantities": ("mup_octaves",),
            "check": {"kind": "at_most", "bound": 1},
            "why": "the grid tells octaves apart",
            "proxy": TRANSFER,
            "scale": "cpu",
            "figure": "rates",
        },
        {
            "id": "A8-no-transfer",
            "sentence": "Under the standard parametrisation it moves with the width: by an octave "
            "or more.",
            "where": "Figure 1",
            "unit": "octaves between the best learning rates of the widths",
            "measure": "rates",
            "quantities": ("standard_octaves",),
            "check": {"kind": "at_least", "bound": 1},
            "why": "Adam's best falls as 1 / width in theory: two octaves over these widths",
            "proxy": TRANSFER,
            "scale": "cpu",
            "figure": "rates",
        },
        {
            "id": "B4",
            "sentence": "Under muP the best learning rate is the same from width 128 to 2048: at "
            "most an octave, a step of the grid, apart.",
            "where": "Figure 1",
            "published": 0.0,
            "unit": "octaves between the best learning rates of the widths",
            "measure": "wikitext",
            "quantities": ("mup_octaves",),
            "check": {"kind": "at_most", "bound": 1},
            "why": "the grid tells octaves apart",
            "proxy": "two layers, 1,000 steps of 4,096 words of WikiText-2",
            "scale": "gpu",
            "figure": "wikitext",
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
        },
        "rates": {
            "kind": "panels",
            "measure": "rates",
            "title": "Loss against learning rate, a line a width",
            "message": "Held-out loss after 500 steps; a star is the best learning rate.",
            "panels": {
                family: {
                    f"width {width}": {rates.cell(family, width, r): r for r in rates.RATES}
                    for width in rates.WIDTHS
                }
                for family in FAMILIES
            },
            "lowest": True,
            "x_label": "learning rate",
            "y_label": "loss (nats per byte)",
            "log_x": True,
        },
        "wikitext": {
            "kind": "panels",
            "measure": "wikitext",
            "title": "Loss against learning rate, a line a width, WikiText-2",
            "message": "Held-out loss after 1,000 steps; a star is the best learning rate.",
            "panels": {
                "muP": {
                    f"width {width}": {wikitext.cell(width, r): r for r in wikitext.RATES}
                    for width in wikitext.WIDTHS
                }
            },
            "lowest": True,
            "x_label": "learning rate",
            "y_label": "loss (nats per word)",
            "log_x": True,
        },
    },
}
