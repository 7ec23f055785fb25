"""UL2's mixture of denoisers (Tay et al. 2022, sections 3 to 5), on T5's architecture.

   lm train --config=experiments/ul2/pretrain.py:base --workdir=runs/ul2
   cost: 33 G tokens (:base), 1.05 T (:20b).   measured: not run

   lm train --config=experiments/ul2/pretrain.py:small --workdir=runs/ul2-small
   cost: 11 min on 2 busy CPU cores, 31k tokens/s.   measured: see below

Every row goes to one of seven denoisers and begins with a token for its mode: R, S or X. `base` is
the ablations' model (T5's base with SwiGLU), 500,000 steps of 128 rows; `20b` the released one's
sizes, of its config.json, 2 M steps of 1024 rows. Neither has dropout. `small` is a toy of ours on
Python's documentation, in English and Chinese. Measured on its validation splits (seed 0): English
3.541 nats a target token, 34.0 % right (unigram 5.864, the most frequent token 9.0 %), Chinese
3.759 and 34.9 % (6.154 and 9.1 %). [from memory, check before quoting]: the numbers of steps and
rows, base's feed-forward width.
Where this differs: all denoisers have the same share (the paper gives S 20 % in some runs), the
learning rate warms up over its first 10,000 steps, and mode tokens are ids of their own, not text.
Data: ul2/*.jsonl ({"text": ...} a line: C4) and tokenizers/t5_sentencepiece; `small`:
pydocs_en_zh/pydocs_en_zh.tsv.gz; all below the data root.
"""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments import common
from experiments.t5.model import model
from experiments.t5.pretrain import OPTIMIZER, TOKENIZER

# (sizes, rows a step, steps, FSDP devices)
RECIPES: dict[str, tuple[dict[str, int], int, int, int]] = {
    "base": ({"num_layers": 12, "d_model": 768, "num_heads": 12, "d_ff": 2048}, 128, 500_000, 1),
    "20b": (
        {"num_layers": 32, "d_model": 4096, "num_heads": 16, "d_ff": 16384},
        1024,
        2_000_000,
        8,
    ),
}
# T5's 32,000 and 100 sentinels; the mode tokens are the last three of the padded 32,128.
VOCABULARY, MORE = 4096, 64


def architecture(vocab_size: int, **sizes: int) -> dict[str, Any]:
    values = common.resized(model("base"), vocab_size=vocab_size, **sizes)
    return {**values, "activation": "swiglu"}


def config(variant: str) -> ConfigDict:
    sizes, rows, steps, fsdp = RECIPES[variant]
    return ConfigDict(
        {
            "model": common.at_scale(architecture(32128, **sizes)),
            "data": {
                **common.split({"kind": "jsonl", "paths": ["ul2/*.jsonl*"]}, held_out=0.0001),
                "tokenizer": dict(TOKENIZER),
                "sequence_length": 512,
            },
            "objective": {"kind": "mixture_of_denoisers"},
            "train": {"batch_size": rows, "duration": {"steps": steps}},
            "optimizer": dict(OPTIMIZER),
            "evaluation": {"every": {"steps": 5000}, "batches": 50},
            "checkpoint": {"every": {"steps": 5000}},
            "parallel": {"fsdp": fsdp},
        }
    )


def small() -> ConfigDict:
    files = {"kind": "tsv", "paths": ["pydocs_en_zh/pydocs_en_zh.tsv.gz"]}
    languages = {
        "english": common.split({**files, "column": 1}, held_out=0.05),
        "chinese": common.split({**files, "column": 2}, held_out=0.05),
    }
    return ConfigDict(
        {
            "model": architecture(VOCABULARY, num_layers=2, d_model=64, num_heads=4, d_ff=192),
            "data": {
                **{
                    part: {name: split[part]["text"] for name, split in languages.items()}
                    for part in ("train", "validation")
                },
                # The last ids of the model's are the sentinels and the mode tokens.
                "tokenizer": {"kind": "sentencepiece", "vocab_size": VOCABULARY - MORE},
                "sequence_length": 32,
            },
            "objective": {"kind": "mixture_of_denoisers"},
            **common.minutes(steps=3000, rows=128, learning_rate=3e-3),
        }
    )


VARIANTS = {**{name: functools.partial(config, name) for name in RECIPES}, "small": small}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
