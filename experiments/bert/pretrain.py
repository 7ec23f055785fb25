"""BERT's pretraining (Devlin et al. 2019, section 3.1 and appendix A.2).

   lm train --config=experiments/bert/pretrain.py:base --workdir=runs/bert
   cost: 131 G tokens; the paper: 4 days on 16 TPU v2 (:base), 64 (:large).   measured: not run

   lm train --config=experiments/bert/pretrain.py:small --workdir=runs/bert-small
   cost: 5 min on 2 CPU cores, 48k tokens/s.   measured: see below

Masked language model and next sentence, in rows of two segments. `small` is a toy of ours on
Chinese poems, characters as tokens. Measured on its validation split (seed 0): masked tokens 5.555
nats, 20.5 % right (without a model 6.457 and 15.0 %); next sentence 69 % right (51 %).
Where this differs:
- The paper trains 90 % of the steps on rows of 128 tokens, the rest on 512; ours all on 512.
- The authors' Adam has no bias correction.
- Segments: see lm/data/corruption/pairs.py. Texts are masked anew each time they are read; the
  authors mask ten copies of the data beforehand.
Data: bert/*.jsonl ({"text": ...} a line: BooksCorpus and English Wikipedia, as far as you have
them) and tokenizers/bert-base-uncased; `small`: zh_poetry/poems_plain.txt.gz and
tokenizers/bert-base-chinese; all below the data root.
"""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from experiments import common
from experiments.bert.model import model


def config(size: str) -> ConfigDict:
    return ConfigDict(
        {
            "model": common.at_scale(model(size), remat="none" if size == "base" else "full"),
            "data": {
                **common.split({"kind": "jsonl", "paths": ["bert/*.jsonl*"]}, held_out=0.001),
                "tokenizer": {"kind": "wordpiece", "path": "tokenizers/bert-base-uncased"},
                "sequence_length": 512,
                "packing": "none",
                "add_eos": False,
            },
            "objective": {"kind": "masked_lm", "pairs": "next_sentence"},
            # 256 rows * 512 tokens = 128,000 tokens a step
            "train": {"batch_size": 256, "duration": {"steps": 1_000_000}},
            "optimizer": {
                "kind": "adamw",
                "learning_rate": 1e-4,
                "schedule": {"kind": "linear", "warmup": {"steps": 10_000}},
                "beta2": 0.999,
                "epsilon": 1e-6,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
            },
            "evaluation": {"every": {"steps": 5000}, "batches": 50},
            "checkpoint": {"every": {"steps": 5000}},
        }
    )


def small() -> ConfigDict:
    poems = {"kind": "text", "paths": ["zh_poetry/poems_plain.txt.gz"], "document": "paragraph"}
    position = {"kind": "learned", "max_length": 32}
    return ConfigDict(
        {
            "model": common.resized(
                model("base"), vocab_size=21128, position=position, **common.TINY
            ),
            "data": {
                **common.split(poems, held_out=0.01),
                "tokenizer": {"kind": "wordpiece", "path": "tokenizers/bert-base-chinese"},
                "sequence_length": 32,
                "packing": "none",
                "add_eos": False,
            },
            "objective": {"kind": "masked_lm", "pairs": "next_sentence"},
            **common.minutes(steps=3000, rows=128, learning_rate=3e-3),
        }
    )


VARIANTS = {
    "base": functools.partial(config, "base"),
    "large": functools.partial(config, "large"),
    "small": small,
}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
