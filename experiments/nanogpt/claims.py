"""nanoGPT's two validation losses on character-level Shakespeare.

lm reproduce experiments/nanogpt
"""

from __future__ import annotations

from typing import Any

FILE = "experiments/nanogpt/shakespeare_char.py"

PAPER: dict[str, Any] = {
    "title": "nanoGPT: character-level Shakespeare",
    "reference": "A. Karpathy, nanoGPT (2022), README: quick start",
    "summary": "A small GPT-2 without biases learns Shakespeare's plays letter by letter.",
    "deviations": (
        "Its loss is a mean over random batches of the last tenth of the text; ours is over all "
        "of that tenth.",
    ),
    "runs": {
        "cpu": {
            "config": f"{FILE}:cpu",
            "seeds": (0, 1, 2),
            "cost": "3 x 2 min 20 s on 2 CPU cores",
        },
        "gpu": {"config": f"{FILE}:gpu", "cost": "82 M characters; minutes on one GPU"},
    },
    "measures": {
        "cpu_loss": {"kind": "metric", "runs": ("cpu",)},
        "gpu_loss": {"kind": "metric", "runs": ("gpu",), "take": "best"},
    },
    "claims": (
        {
            "id": "A1",
            "sentence": "The CPU recipe (4 layers of 128, 2000 steps of 12 x 64 characters) comes "
            "to a validation loss of 1.88.",
            "where": "README, the CPU recipe",
            "published": 1.88,
            "unit": "nats per character",
            "measure": "cpu_loss",
            "quantities": ("cpu",),
            "check": {"kind": "within", "tolerance": 0.05},
            "why": "their estimate is from random batches, and rounded",
            "scale": "cpu",
            "figure": "curves",
        },
        {
            "id": "B1",
            "sentence": "The GPU recipe (6 layers of 384, 5000 steps of 64 x 256 characters) has a "
            "best validation loss of 1.4697.",
            "where": "README, the GPU recipe",
            "published": 1.4697,
            "unit": "nats per character",
            "measure": "gpu_loss",
            "quantities": ("gpu",),
            "check": {"kind": "within", "tolerance": 0.03},
            "why": "one run of theirs, and the best of its evaluations",
            "scale": "gpu",
            "figure": "curves_gpu",
        },
    ),
    "figures": {
        "curves": {
            "kind": "curves",
            "measure": "cpu_loss",
            "title": "Loss over training, the CPU recipe",
            "message": "Training loss thin, the loss of the whole validation split bold, a line "
            "for each seed.",
            "published": {"validation loss": 1.88},
            "y_label": "loss (nats per character)",
        },
        "curves_gpu": {
            "kind": "curves",
            "measure": "gpu_loss",
            "title": "Loss over training, the GPU recipe",
            "published": {"best validation loss": 1.4697},
            "y_label": "loss (nats per character)",
        },
    },
}
