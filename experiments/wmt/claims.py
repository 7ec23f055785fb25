"""Flax's own Transformer on WMT 2017, German to English.

lm reproduce experiments/wmt --scale=paper
"""

from __future__ import annotations

from typing import Any

PAPER: dict[str, Any] = {
    "title": "Flax's example on WMT 2017, German to English",
    "reference": "The README of examples/wmt in google/flax; A. Vaswani et al. 2017",
    "summary": "A big Transformer with norms before the sub-layers.",
    "runs": {
        "big": {
            "config": "experiments/wmt/de_en.py:big",
            "cost": "13 G tokens, 3 hours on 32 TPU v3 cores",
        },
    },
    "measures": {
        "bleu": {
            "kind": "recorded",
            "runs": ("big",),
            "names": ("BLEU",),
            "how": "translate newstest2014 with a beam of 4 and a length penalty of 0.6, and score "
            "it as tensor2tensor does",
        },
    },
    "claims": (
        {
            "id": "C1",
            "sentence": "Flax's example translates newstest2014 from German to English with a BLEU "
            "of 32.45.",
            "where": "the README, the run on a v3-32",
            "published": 32.45,
            "unit": "BLEU (tensor2tensor's)",
            "measure": "bleu",
            "quantities": ("BLEU",),
            "check": {"kind": "within", "tolerance": 0.5},
            "why": "the README has 32.87 for four times as many steps of a quarter of the rows",
            "scale": "paper",
        },
    ),
}
