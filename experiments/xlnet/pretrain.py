"""XLNet's pretraining (Yang et al. 2019, section 3.1 and Table 8).

   lm train --config=experiments/xlnet/pretrain.py:large --workdir=runs/xlnet
   cost: 2.1 T tokens; the paper: 5.5 days on 512 TPU v3 (:large).   measured: not run

   lm train --config=experiments/xlnet/pretrain.py:small --workdir=runs/xlnet-small
   cost: 3 min on 2 CPU cores, 40k tokens/s.   measured: see below

Permutation language model: 85 of a row's 512 tokens (1 in 6) are predicted, in spans of up to five
words; the row's first half sees nothing of the second. `small` is a toy of ours on two novels, with
one order over the whole row. Measured on its validation split (seed 0): 2.721 nats a predicted
token, 36.6 % right (unigram 4.895, the most frequent token 5.8 %).
The paper gives the recipe of large; base has the same one here. Not stated, from the authors' code
[from memory, check before quoting]: the bound on the gradient norm.
Where this differs:
- The authors keep each row's hidden states as a memory for the next; our rows start without.
- Their rows are two segments with <sep> and <cls>; ours are text alone.
- Each part of a row has an order of its own; the authors' code draws one for all.
Data: xlnet/*.jsonl ({"text": ...} a line) and tokenizers/xlnet/spiece.model; `small`:
gutenberg_books/*.txt; all below the data root.
"""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from experiments import common
from experiments.xlnet.model import model

VOCABULARY = 512


def config(size: str) -> ConfigDict:
    return ConfigDict(
        {
            "model": common.at_scale(model(size)),
            "data": {
                **common.split({"kind": "jsonl", "paths": ["xlnet/*.jsonl*"]}, held_out=0.0001),
                "tokenizer": {"kind": "sentencepiece", "path": "tokenizers/xlnet/spiece.model"},
                "sequence_length": 512,
            },
            "objective": {
                "kind": "permutation_lm",
                "num_predict": 85,
                "reuse_length": 256,
                "perm_size": 256,
            },
            # 8192 rows * 512 = 4.2 M tokens a step
            "train": {"batch_size": 8192, "microbatches": 4, "duration": {"steps": 500_000}},
            "optimizer": {
                "kind": "adamw",
                "learning_rate": 4e-4,
                "schedule": {"kind": "linear", "warmup": {"steps": 40_000}},
                "epsilon": 1e-6,
                "weight_decay": 0.01,
                "clip_norm": 0.25,
            },
            "evaluation": {"every": {"steps": 1000}, "batches": 10},
            "checkpoint": {"every": {"steps": 1000}},
        }
    )


def small() -> ConfigDict:
    novels = {"kind": "text", "paths": ["gutenberg_books/*.txt"], "document": "paragraph"}
    return ConfigDict(
        {
            "model": common.resized(model("base"), vocab_size=VOCABULARY, **common.TINY),
            "data": {
                **common.split(novels, held_out=0.1),
                "tokenizer": {"kind": "sentencepiece", "vocab_size": VOCABULARY},
                "sequence_length": 32,
            },
            "objective": {"kind": "permutation_lm", "num_predict": 6},
            **common.minutes(steps=2000, rows=128, learning_rate=3e-3),
        }
    )


VARIANTS = {
    "large": functools.partial(config, "large"),
    "base": functools.partial(config, "base"),
    "small": small,
}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
