"""GPT-2 124M on OpenWebText, as nanoGPT trains it, and on FineWeb, as llm.c does.

lm reproduce experiments/gpt2 --scale=paper
"""

from __future__ import annotations

from typing import Any

PAPER: dict[str, Any] = {
    "title": "GPT-2 124M on OpenWebText and on FineWeb",
    "reference": "A. Radford et al. 2019; the recipes and the losses are those of A. Karpathy's "
    "nanoGPT (README) and llm.c (discussion 481)",
    "runs": {
        "124m": {
            "config": "experiments/gpt2/openwebtext.py:124m",
            "cost": "295 G tokens, 4 days on 8 A100",
        },
        "fineweb": {
            "config": "experiments/gpt2/fineweb.py:124m",
            "cost": "9.9 G tokens, 90 minutes on 8 A100",
        },
    },
    "measures": {
        "loss": {"kind": "metric", "runs": ("124m",)},
        "fineweb_loss": {"kind": "metric", "runs": ("fineweb",)},
    },
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
        {
            "id": "C4-fineweb",
            "sentence": "GPT-2 124M trained on 10 G tokens of FineWeb comes to a validation loss "
            "of 3.28.",
            "where": "llm.c, scripts/run_gpt2_124M.sh and discussion 481",
            "published": 3.28,
            "unit": "nats per token",
            "measure": "fineweb_loss",
            "quantities": ("fineweb",),
            "check": {"kind": "within", "tolerance": 0.02},
            "why": "published as 3.28 and as about 3.29",
            "scale": "paper",
        },
    ),
}
