"""muP from width 128 to 2048 on WikiText-2 (Yang et al. 2022, "Tensor Programs V", Figure 1): one
learning rate for all.

   lm train --config=experiments/mup/wikitext.py:w128 --workdir=runs/mup-wikitext
   cost: some 20 min on one H100 for all of its sweep.   measured: not run

   lm sweep --config=experiments/mup/wikitext.py --workdir=runs/mup-wikitext

Two layers as in widths.py, words, five widths at seven learning rates an octave apart: 35 runs of
1,000 steps of 4,096 words, 2.0 epochs.
Data: wikitext2/train.txt and valid.txt, tokenised, below the data root.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from experiments import common
from experiments.mup import widths

BASE = 128
WIDTHS = (128, 256, 512, 1024, 2048)
RATES = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
STEPS = 1000


def config(width: int) -> ConfigDict:
    values = widths.config("standard", width).to_dict()
    model, optimizer = widths.mup(width, BASE)
    # 33,277 words and the tokenizer's own four, rounded up to a multiple of 128.
    values["model"].update(model, vocab_size=33_408, compute_dtype="bfloat16")
    values["data"] = {
        "train": {"text": {"kind": "text", "paths": ["wikitext2/train.txt"]}},
        "validation": {"text": {"kind": "text", "paths": ["wikitext2/valid.txt"]}},
        "tokenizer": {"kind": "words"},
        "sequence_length": 128,
        "add_eos": False,
    }
    values["train"] = {
        # 32 rows * 128 = 4096 words a step
        "batch_size": 32,
        "duration": {"steps": STEPS},
        "steps_per_dispatch": 10,
        "log_every": 10,
    }
    values["optimizer"].update(
        optimizer, schedule={"kind": "linear", "warmup": {"steps": STEPS // 10}}
    )
    values["evaluation"] = {"every": {"steps": STEPS}}
    values["checkpoint"] = {"every": {"steps": STEPS}}
    return ConfigDict(values)


VARIANTS = {f"w{width}": functools.partial(config, width) for width in WIDTHS}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)


def cell(width: int, rate: float) -> str:
    """The name of a run."""
    return f"w{width}-lr{rate:g}"


def sweep(add: Callable[..., Any]) -> None:
    for width in WIDTHS:
        for rate in RATES:
            add(cell(width, rate), {"optimizer.learning_rate": rate}, variant=f"w{width}")
