"""SciTLDR: one sentence for the abstract of a paper (Cachola et al. 2020).

   lm train --config=experiments/tasks/scitldr.py:tiny --workdir=runs/scitldr
   lm evaluate --workdir=runs/scitldr --num_beams=4 --metrics=rouge:stemmer=true --baseline
   cost: 5 min on 2 CPU cores.   measured: ROUGE-L 13.8 (the first sentence: 23.6)

1,992 abstracts teach nobody to write summaries from scratch: this shows the way to train one, and
what it costs; with --baseline the abstract's first sentence stands beside it. BART,
pre-trained, has a ROUGE-L of 36.0 (Cachola et al. 2020, Table 4).
Data, below the data root: scitldr/{train,dev}.jsonl, the abstract's sentences under "source", and
under "target" the summary (of several in dev the loss is of the first one, and ROUGE of the best).
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from experiments import common
from experiments.transformer.model import model

VOCABULARY = 4096


def source(split: str) -> dict[str, Any]:
    return {
        "kind": "jsonl",
        "paths": [f"scitldr/{split}.jsonl"],
        "field": "source",
        "target_field": "target",
    }


def tiny() -> ConfigDict:
    return ConfigDict(
        {
            # SentencePiece's pad token starts every target.
            "model": {**model("tiny"), "vocab_size": VOCABULARY, "decoder_start_id": 0},
            "data": {
                "train": {"train": source("train")},
                "validation": {"dev": source("dev")},
                "tokenizer": {"kind": "sentencepiece", "vocab_size": VOCABULARY},
                "sequence_length": 256,
                "packing": "none",
                "too_long": "cut",
            },
            "objective": {
                "kind": "sequence_to_sequence",
                "label_smoothing": 0.1,
                "target_length": 64,
            },
            # 250 steps * 32 abstracts are 4 epochs
            **common.minutes(steps=250, rows=32, learning_rate=1e-3),
        }
    )


VARIANTS = {"tiny": tiny}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
