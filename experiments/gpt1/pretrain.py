"""GPT-1's pretraining (Radford et al. 2018, section 4.1).

   lm train --config=experiments/gpt1/pretrain.py:117m --workdir=runs/gpt1
   cost: 100 epochs of BooksCorpus, some 100 G tokens.   measured: not run

   lm train --config=experiments/gpt1/pretrain.py:small --workdir=runs/gpt1-small
   cost: 3 min on 2 busy CPU cores, 45k tokens/s.   measured: see below

Next-token prediction in rows of 512 contiguous tokens, 100 epochs. `small` is a toy of ours on two
novels. Measured on its validation split (seed 0): 3.207 nats a token, 27.5 % right, 2.28 bits a
byte (unigram 5.228, the most frequent token 3.4 %).
Data: gpt1/*.jsonl ({"text": ...} a line, a book each: BooksCorpus, as far as you have it) and
tokenizers/openai-gpt (the released tokenizer.json); `small`: gutenberg_books/*.txt; all below the
data root.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments import common
from experiments.gpt1.model import model

VOCABULARY = 512


def published() -> ConfigDict:
    return ConfigDict(
        {
            "model": common.at_scale(model("117m"), remat="none"),
            "data": {
                **common.split({"kind": "jsonl", "paths": ["gpt1/*.jsonl*"]}, held_out=0.001),
                "tokenizer": {"kind": "huggingface", "path": "tokenizers/openai-gpt"},
                "sequence_length": 512,
                "add_eos": False,  # it has no such token
            },
            "train": {"batch_size": 64, "duration": {"epochs": 100}},
            "optimizer": {
                "kind": "adamw",
                "learning_rate": 2.5e-4,
                "schedule": {"kind": "cosine", "warmup": {"steps": 2000}, "final": 0.0},
                "weight_decay": 0.01,
            },
            "evaluation": {"every": {"steps": 5000}, "batches": 50},
            "checkpoint": {"every": {"steps": 5000}},
        }
    )


def small() -> ConfigDict:
    novels = {"kind": "text", "paths": ["gutenberg_books/*.txt"], "document": "paragraph"}
    position = {"kind": "learned", "max_length": 64}
    return ConfigDict(
        {
            "model": common.resized(
                model("117m"), vocab_size=VOCABULARY, position=position, **common.TINY
            ),
            "data": {
                **common.split(novels, held_out=0.1),
                "tokenizer": {"kind": "bpe", "vocab_size": VOCABULARY},
                "sequence_length": 64,
            },
            **common.minutes(steps=2000, rows=64, learning_rate=3e-3),
        }
    )


VARIANTS = {"117m": published, "small": small}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
