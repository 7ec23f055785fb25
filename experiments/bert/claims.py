"""BERT-base's scores on SQuAD 1.1.

lm reproduce experiments/bert --scale=paper
"""

from __future__ import annotations

from typing import Any

# Of the released code's README, one run from the released weights.
SQUAD = {"EM": (81.25, "exact match, %"), "F1": (88.41, "F1, %")}

PAPER: dict[str, Any] = {
    "title": "BERT-base, fine-tuned on SQuAD 1.1",
    "reference": "J. Devlin, M.-W. Chang, K. Lee, K. Toutanova 2019, BERT: Pre-training of Deep "
    "Bidirectional Transformers for Language Understanding; the released code's README",
    "runs": {
        "base": {
            "config": "experiments/bert/pretrain.py:base",
            "cost": "131 G tokens, 4 days on 16 TPU v2",
        },
        "squad": {
            "config": "experiments/tasks/squad.py:base",
            "after": "base",
            "cost": "under an hour on one GPU",
        },
    },
    "measures": {
        "squad": {
            "kind": "recorded",
            "runs": ("base", "squad"),
            "names": tuple(SQUAD),
            "how": "pre-train, or convert the released weights; fine-tune with "
            "experiments/tasks/squad.py and --config.train.warm_start; lm evaluate answers the "
            "development set",
        }
    },
    "claims": tuple(
        {
            "id": f"C2-BERT-{name}",
            "sentence": f"BERT-base has {score:g} on SQuAD 1.1 ({unit}).",
            "where": "the released code's README",
            "published": score,
            "unit": unit,
            "measure": "squad",
            "quantities": (name,),
            "check": {"kind": "within", "tolerance": 0.5},
            "why": "what fine-tunings of one model differ by",
            "scale": "paper",
        }
        for name, (score, unit) in SQUAD.items()
    ),
}
