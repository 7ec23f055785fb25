"""RoBERTa's ablation: BERT's input with and without next sentence prediction.

lm reproduce experiments/nsp --scale=paper
"""

from __future__ import annotations

from typing import Any

INPUTS = {
    "segment-nsp": ("two segments and next sentence prediction", (90.4, 84.0, 92.9)),
    "doc": ("rows from one document and no such prediction", (90.6, 84.7, 92.7)),
}
TASKS = {"SQuAD": "F1 (1.1), %", "MNLI": "accuracy (matched), %", "SST": "accuracy, %"}
SCORES = [
    (name, words, task, score)
    for name, (words, scores) in INPUTS.items()
    for task, score in zip(TASKS, scores)
]

PAPER: dict[str, Any] = {
    "title": "RoBERTa: is next sentence prediction needed?",
    "reference": "Y. Liu et al. 2019, RoBERTa: A Robustly Optimized BERT Pretraining Approach",
    "summary": "BERT-base pre-trained on its own text, on inputs of two kinds, then fine-tuned.",
    "deviations": (
        "Without next sentence prediction, rows of short documents stay short: theirs raise the "
        "number of rows for that.",
    ),
    "runs": {
        name: {"config": f"experiments/nsp/pretrain.py:{name}", "cost": "131 G tokens"}
        for name in INPUTS
    },
    "measures": {
        "scores": {
            "kind": "recorded",
            "runs": tuple(INPUTS),
            "names": tuple(f"{name}-{task}" for name, _, task, _ in SCORES),
            "how": "fine-tune each on each task (experiments/tasks/squad.py, "
            "experiments/tasks/sst2.py:warm and the like, with --config.train.warm_start) and take "
            "the median of five seeds",
        }
    },
    "claims": tuple(
        {
            "id": f"C2-{name}-{task}",
            "sentence": f"BERT-base trained on {words} has {score:g} on {task}.",
            "where": "Table 2",
            "published": score,
            "unit": TASKS[task],
            "measure": "scores",
            "quantities": (f"{name}-{task}",),
            "check": {"kind": "within", "tolerance": 0.5},
            "why": "what medians of fine-tunings differ by",
            "scale": "paper",
        }
        for name, words, task, score in SCORES
    ),
}
