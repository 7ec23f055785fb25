"""ELECTRA-Small-OWT's scores on GLUE.

lm reproduce experiments/electra --scale=paper
"""

from __future__ import annotations

from typing import Any

# Of the released code's README: dev set, medians of several fine-tunings.
GLUE = {
    "CoLA": (56.8, "Matthews' correlation x 100"),
    "SST": (88.3, "accuracy, %"),
    "MRPC": (87.4, "accuracy, %"),
    "STS": (86.8, "Spearman's correlation x 100"),
    "QQP": (88.3, "accuracy, %"),
    "MNLI": (78.9, "accuracy, %"),
    "QNLI": (87.9, "accuracy, %"),
    "RTE": (68.5, "accuracy, %"),
}

PAPER: dict[str, Any] = {
    "title": "ELECTRA-Small pre-trained on OpenWebText, on GLUE",
    "reference": "K. Clark, M.-T. Luong, Q. Le, C. Manning 2020; the released code's README",
    "runs": {
        "electra-small": {
            "config": "experiments/electra/pretrain.py:electra-small",
            "cost": "16 G tokens, 4 days on one V100",
        }
    },
    "measures": {
        "glue": {
            "kind": "recorded",
            "runs": ("electra-small",),
            "names": tuple(GLUE),
            "how": "fine-tune the pre-trained model on each task (experiments/tasks, with "
            "--config.train.warm_start) and take the median of several seeds",
        }
    },
    "claims": tuple(
        {
            "id": f"C3-{task}",
            "sentence": f"ELECTRA-Small-OWT has {score:g} on {task}.",
            "where": "the released code's README",
            "published": score,
            "unit": unit,
            "measure": "glue",
            "quantities": (task,),
            "check": {"kind": "within", "tolerance": 1.5},
            "why": "what fine-tunings of one model differ by",
            "scale": "paper",
        }
        for task, (score, unit) in GLUE.items()
    ),
}
