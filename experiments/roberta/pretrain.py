"""RoBERTa's pretraining (Liu et al. 2019, sections 4 and 5, Table 9).

   lm train --config=experiments/roberta/pretrain.py:base --workdir=runs/roberta
   cost: 2.1 T tokens; the paper: a day on 1024 V100 for 100,000 steps.   measured: not run

   lm train --config=experiments/roberta/pretrain.py:small --workdir=runs/roberta-small
   cost: 5 min on 2 CPU cores, 50k tokens/s.   measured: see below

Masked language model alone, masked anew at every reading, on full sentences: rows are filled from
document to document, with a separator (</s>) between them. `small` is a toy of ours on Shakespeare.
Measured on its validation split (seed 0): masked tokens 2.444 nats, 43.6 % right (without a model
4.900 and 12.7 %).
Where this differs: rows are cut at their 510 tokens, not at the end of a sentence before.
Data: roberta/*.jsonl ({"text": ...} a line) and tokenizers/roberta (the released tokenizer.json and
what lies beside it); `small`: tinyshakespeare/input.txt; all below the data root.
"""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from experiments import common
from experiments.roberta.model import model

# (learning rate, warm-up steps)
RECIPES = {"base": (6e-4, 24_000), "large": (4e-4, 30_000)}
VOCABULARY = 512


def config(size: str) -> ConfigDict:
    learning_rate, warmup = RECIPES[size]
    return ConfigDict(
        {
            "model": common.at_scale(model(size)),
            "data": {
                **common.split({"kind": "jsonl", "paths": ["roberta/*.jsonl*"]}, held_out=0.0001),
                "tokenizer": {"kind": "huggingface", "path": "tokenizers/roberta"},
                "sequence_length": 512,
            },
            "objective": {"kind": "masked_lm", "wrap": True},
            # "8K" rows * 512 = 4.2 M tokens a step
            "train": {"batch_size": 8192, "microbatches": 4, "duration": {"steps": 500_000}},
            "optimizer": {
                "kind": "adamw",
                "learning_rate": learning_rate,
                "schedule": {"kind": "linear", "warmup": {"steps": warmup}},
                "beta2": 0.98,
                "epsilon": 1e-6,
                "weight_decay": 0.01,
            },
            "evaluation": {"every": {"steps": 1000}, "batches": 10},
            "checkpoint": {"every": {"steps": 1000}},
        }
    )


def small() -> ConfigDict:
    position = {"kind": "learned", "max_length": 32, "offset": 2}
    play = {"kind": "text", "paths": ["tinyshakespeare/input.txt"], "document": "paragraph"}
    return ConfigDict(
        {
            "model": common.resized(
                model("base"), vocab_size=VOCABULARY, position=position, **common.TINY
            ),
            "data": {
                **common.split(play, held_out=0.1),
                # The last id of the model's is the mask.
                "tokenizer": {"kind": "bpe", "vocab_size": VOCABULARY - 1},
                "sequence_length": 32,
            },
            "objective": {"kind": "masked_lm", "wrap": True},
            **common.minutes(steps=4000, rows=128, learning_rate=3e-3),
        }
    )


VARIANTS = {**{size: functools.partial(config, size) for size in RECIPES}, "small": small}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
