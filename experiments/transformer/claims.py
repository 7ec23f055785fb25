"""A tiny Transformer on Multi30k, English to German.

lm reproduce experiments/transformer
"""

from __future__ import annotations

from typing import Any

FILE = "experiments/transformer/multi30k.py"
TEST = "multi30k_tokenised_bpe/test.2016"
BLEU = {"kind": "translation", "source": f"{TEST}.en", "target": f"{TEST}.de", "average": 10}

PAPER: dict[str, Any] = {
    "title": "Transformer-Tiny on Multi30k, English to German",
    "reference": "Z. Wu et al. 2021, Good for Misconceived Reasons: An Empirical Revisiting on the "
    "Need for Visual Context in Multimodal Machine Translation; A. Vaswani et al. 2017",
    "summary": "2.55 million parameters translate captions; tokenised BLEU on test2016, in lower "
    "case, of the last ten epochs' mean with a beam of 5.",
    "deviations": (
        "Rows of 64 + 64 tokens filled with pairs that do not see each other, for batches of like "
        "lengths.",
        "No early stopping: theirs stops after 10 epochs without a better validation loss.",
    ),
    "runs": {
        "hour": {"config": f"{FILE}:hour", "cost": "one hour on 2 CPU cores"},
        "tiny": {
            "config": f"{FILE}:tiny",
            "seeds": (0, 1, 2, 3, 4),
            "cost": "minutes a seed on one GPU",
        },
    },
    "measures": {
        "hour_bleu": {**BLEU, "runs": ("hour",)},
        "tiny_bleu": {**BLEU, "runs": ("tiny",)},
    },
    "claims": (
        {
            "id": "A5",
            "sentence": "Transformer-Tiny has a BLEU of 41.02; on half the tokens a step and half "
            "the warm-up, for an hour, 39 or more.",
            "where": "their README",
            "published": 41.02,
            "unit": "BLEU (tokenised)",
            "measure": "hour_bleu",
            "quantities": ("hour",),
            "check": {"kind": "at_least", "bound": 39.0},
            "proxy": "8000 steps of half as many tokens",
            "why": "a shorter run than theirs",
            "scale": "cpu",
            "figure": "hour",
        },
        {
            "id": "B2",
            "sentence": "Transformer-Tiny, its full recipe, has a BLEU of 41.02.",
            "where": "their README",
            "published": 41.02,
            "unit": "BLEU (tokenised)",
            "measure": "tiny_bleu",
            "quantities": ("tiny",),
            "check": {"kind": "within", "tolerance": 0.8},
            "why": "what seeds of so small a model differ by",
            "scale": "gpu",
            "figure": "tiny",
        },
    ),
    "figures": {
        name: {
            "kind": "curves",
            "measure": f"{name}_bleu",
            "title": f"Loss over training, {name}",
            "message": "Training loss (label-smoothed while training) thin, validation bold.",
            "splits": ("en-de",),
        }
        for name in ("hour", "tiny")
    },
}
