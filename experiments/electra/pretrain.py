"""ELECTRA's pretraining (Clark et al. 2020, section 3 and Table 6).

   lm train --config=experiments/electra/pretrain.py:electra-small --workdir=runs/electra
   cost: 16 G tokens; the paper: 4 days on one V100 (:electra-small).   measured: not run

   lm train --config=experiments/electra/pretrain.py:small --workdir=runs/electra-small
   cost: 7 min on 2 CPU cores, 120k tokens/s.   measured: see below

A generator fills 15 % of the tokens (large: 25 %), and the model tells which were replaced; they
share their embeddings. `electra-small` has rows of 128 tokens, the others of 512. `large` is
trained for 400,000 steps (ELECTRA-400K; ELECTRA-1.75M is the same for longer). `small` is a toy of
ours on Shakespeare, with pieces of words that are nearly letters and a generator half as wide.
Measured on its validation split (seed 0): 0.368 nats a token, 84.5 % right; of the replaced tokens
25.5 % found, 64.5 % of what it says rightly (F1 0.366). Without a model: 0.464 and 82.5 %, none
found. The generator: 2.507 nats, 40.6 % right (4.018 and 17.7 %). For the first 1200 steps both
learn how often, and nothing of what stands around.
Where this differs: rows are [CLS] text [SEP] of one document; the authors split half of them into
two segments, with a [SEP] between and types of their own.
Data: electra/*.jsonl ({"text": ...} a line) and tokenizers/bert-base-uncased; `small`:
tinyshakespeare/input.txt; all below the data root.
"""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments import common
from experiments.electra.model import model

# (size in model.py, rows a step, tokens a row, learning rate, steps, share of masked tokens)
RECIPES: dict[str, tuple[str, int, int, float, int, float]] = {
    "electra-small": ("small", 128, 128, 5e-4, 1_000_000, 0.15),
    "base": ("base", 256, 512, 2e-4, 766_000, 0.15),
    "large": ("large", 2048, 512, 2e-4, 400_000, 0.25),
}
# Nearly letters: what a word's neighbours say of it is learnt within minutes.
VOCABULARY = 160


def config(variant: str) -> ConfigDict:
    size, rows, length, learning_rate, steps, rate = RECIPES[variant]
    remat = "full" if size == "large" else "none"
    return ConfigDict(
        {
            "model": common.at_scale(model(f"{size}-discriminator"), remat),
            "data": {
                **common.split({"kind": "jsonl", "paths": ["electra/*.jsonl*"]}, held_out=0.001),
                "tokenizer": {"kind": "wordpiece", "path": "tokenizers/bert-base-uncased"},
                "sequence_length": length,
                "packing": "none",
                "add_eos": False,
            },
            "objective": {
                "kind": "replaced_tokens",
                "generator": common.at_scale(model(f"{size}-generator"), remat),
                "rate": rate,
                "wrap": True,
                "coefficient": 50.0,
            },
            "train": {"batch_size": rows, "duration": {"steps": steps}},
            "optimizer": {
                "kind": "adamw",
                "learning_rate": learning_rate,
                "schedule": {"kind": "linear", "warmup": {"steps": 10_000}},
                "epsilon": 1e-6,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
            },
            "evaluation": {"every": {"steps": 5000}, "batches": 50},
            "checkpoint": {"every": {"steps": 5000}},
        }
    )


def small() -> ConfigDict:
    shared: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "position": {"kind": "learned", "max_length": 32},
        "num_layers": 2,
        "embedding_size": 64,
    }
    sizes = {"d_model": 64, "num_heads": 4, "d_ff": 256}
    generator = {"d_model": 32, "num_heads": 2, "d_ff": 128}
    play = {"kind": "text", "paths": ["tinyshakespeare/input.txt"], "document": "paragraph"}
    return ConfigDict(
        {
            "model": common.resized(model("small-discriminator"), **shared, **sizes),
            "data": {
                **common.split(play, held_out=0.1),
                "tokenizer": {"kind": "wordpiece", "vocab_size": VOCABULARY},
                "sequence_length": 32,
            },
            "objective": {
                "kind": "replaced_tokens",
                "generator": common.resized(model("small-generator"), **shared, **generator),
                "rate": 0.25,  # large's: more to learn from in a row
                "wrap": True,
            },
            **common.minutes(steps=12_000, rows=128, learning_rate=3e-3),
        }
    )


VARIANTS = {**{name: functools.partial(config, name) for name in RECIPES}, "small": small}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
