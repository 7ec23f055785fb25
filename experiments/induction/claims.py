"""Two layers learn to count pairs in their context, one layer does not.

lm reproduce experiments/induction
"""

from __future__ import annotations

from typing import Any

from experiments.induction.markov import LEVELS

FILE = "experiments/induction/markov.py"
RUNS = ("two-layers", "one-layer")
GAP = "share of the gap between unigram and bigram"

PAPER: dict[str, Any] = {
    "title": "Statistical induction heads: Markov chains in context",
    "reference": "E. Edelman, N. Tsilivis, B. Edelman, E. Malach, S. Goel 2024, The Evolution of "
    "Statistical Induction Heads: In-Context Learning Markov Chains",
    "summary": "Attention alone, 16 wide, one head, chains of three states: two layers come to "
    "guess from the pairs in their context, after a while of guessing from single states.",
    "deviations": (
        "No dropout (the released code has 0.1), and 2,500 steps of its 10,000.",
        "Losses are of 2,048 held-out chains, and compared with counting on the same chains.",
    ),
    "runs": {
        name: {
            "config": f"{FILE}:{name}",
            "seeds": (0, 1, 2),
            "cost": "3 x 2 min on one CPU core or less",
        }
        for name in RUNS
    },
    "measures": {"chains": {"kind": "chain_gap", "runs": RUNS}},
    "claims": (
        {
            "id": "A4-two-layers",
            "sentence": "Two layers come from the loss of unigrams in context to that of bigrams: "
            "80 % of the way or more.",
            "where": "section 3",
            "unit": GAP,
            "measure": "chains",
            "quantities": ("two-layers-closed",),
            "check": {"kind": "at_least", "bound": 0.8},
            "why": "the paper has curves, and no number",
            "scale": "cpu",
            "figure": "curves",
        },
        {
            "id": "A4-one-layer",
            "sentence": "One layer does not: 30 % of the way or less.",
            "where": "section 3",
            "unit": GAP,
            "measure": "chains",
            "quantities": ("one-layer-closed",),
            "check": {"kind": "at_most", "bound": 0.3},
            "why": "the paper has curves, and no number",
            "scale": "cpu",
            "figure": "curves",
        },
        {
            "id": "A4-previous",
            "sentence": "The first of two layers looks at the token before.",
            "where": "section 3, attention maps",
            "unit": "share of attention",
            "measure": "chains",
            "quantities": ("two-layers-previous",),
            "check": {"kind": "reported"},
            "scale": "cpu",
            "figure": "attention",
        },
        {
            "id": "A4-induction",
            "sentence": "The second looks at tokens that came after the present state.",
            "where": "section 3, attention maps",
            "unit": "share of attention",
            "measure": "chains",
            "quantities": ("two-layers-induction",),
            "check": {"kind": "reported"},
            "scale": "cpu",
            "figure": "attention",
        },
    ),
    "figures": {
        "curves": {
            "kind": "curves",
            "measure": "chains",
            "title": "Loss over training, two layers and one",
            "message": "Training loss thin, that of held-out chains bold, a line for each seed. "
            "Across: knowing nothing, counting states, counting pairs.",
            "splits": ("chains",),
            "levels": LEVELS,
            "y_label": "loss (nats per state)",
        },
        "attention": {
            "kind": "attention_maps",
            "measure": "chains",
            "title": "Attention of two layers on a held-out chain",
            "message": "The first layer looks at the token before, the second at those that came "
            "after the same state.",
            "run": "two-layers",
        },
    },
}
