"""T5-Base's scores after pre-training and fine-tuning.

lm reproduce experiments/t5 --scale=paper
"""

from __future__ import annotations

from typing import Any

# Their baseline, with the deviation over ten runs that they give for it.
SCORES = {
    "GLUE": (83.28, 0.24, "average score"),
    "CNNDM": (19.24, 0.07, "ROUGE-2-F"),
    "SQuAD": (80.88, 0.34, "exact match, %"),
    "EnDe": (26.98, 0.11, "BLEU"),
}

PAPER: dict[str, Any] = {
    "title": "T5's baseline, fine-tuned",
    "reference": "C. Raffel et al. 2020, Exploring the Limits of Transfer Learning with a Unified "
    "Text-to-Text Transformer",
    "runs": {
        "base": {
            "config": "experiments/t5/pretrain.py:base",
            "cost": "34 G tokens and the fine-tunings; a TPU pod slice",
        }
    },
    "measures": {
        "scores": {
            "kind": "recorded",
            "runs": ("base",),
            "names": tuple(SCORES),
            "how": "fine-tune the pre-trained model on each task for 262,144 steps",
        }
    },
    "claims": tuple(
        {
            "id": f"C5-{task}",
            "sentence": f"T5's baseline has {score:g} on {task}.",
            "where": "Table 1",
            "published": score,
            "unit": unit,
            "measure": "scores",
            "quantities": (task,),
            "check": {"kind": "within", "tolerance": round(4 * deviation, 2)},
            "why": "four of their standard deviations over ten runs",
            "scale": "paper",
        }
        for task, (score, deviation, unit) in SCORES.items()
    ),
}
