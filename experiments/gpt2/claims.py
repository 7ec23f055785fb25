"""GPT-2 124M on OpenWebText, as nanoGPT trains it.

lm reproduce experiments/gpt2 --scale=paper
"""

from __future__ import annotations

from typing import Any

PAPER: dict[str, Any] = {
    "title": "GPT-2 124M on OpenWebText",
    "reference": "A. Radford et al. 2019; the recipe and the loss are nanoGPT's (README)",
    "runs": {
        "124m": {
            "config": "experiments/gpt2/openwebtext.py:124m",
            "cost": "295 G tokens, 4 days on 8 A100",
        }
    },
    "measures": {"loss": {"kind": "metric", "runs": ("124m",)}},
    "claims": (
        {
            "id": "C4",
            "sentence": "GPT-2 124M trained on OpenWebText comes to a validation loss of 2.85.",
            "where": "nanoGPT's README",
            "published": 2.85,
            "unit": "nats per token",
            "measure": "loss",
            "quantities": ("124m",),
            "check": {"kind": "within", "tolerance": 0.03},
            "why": "published as about 2.85",
            "scale": "paper",
        },
    ),
}
