"""XQuAD, English: which span of a passage answers a question? (Artetxe et al. 2020; SQuAD's form)

   lm train --config=experiments/tasks/xquad.py:encoder --workdir=runs/xquad
   cost: 2 min on 2 CPU cores.   measured: F1 6.8 (the likeliest sentence: 16.4)

   lm train --config=experiments/tasks/xquad.py:warm --workdir=NEW --config.train.warm_start=W

1,190 questions teach nothing from scratch: this shows that it runs, and what it costs; `warm`
begins with the model of a workdir W (an encoder) and its tokenizer. The same passages have
questions on both sides of the split.
Data, below the data root: xquad/xquad.en.json; all but the last tenth is learned.
"""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments import common
from experiments.tasks.common import task


def source(begin: float, end: float) -> dict[str, Any]:
    squad = {"kind": "examples", "paths": ["xquad/xquad.en.json"], "format": "squad"}
    return {**squad, "fraction": (begin, end)}


def config(model: str) -> ConfigDict:
    return task(
        model,
        {"kind": "question_answering", "stride": 96},
        train=source(0.0, 0.9),
        validation=source(0.9, 1.0),
        length=256,
        # 500 steps * 32 windows are some 14 epochs
        steps=500,
        rows=32,
    )


VARIANTS = {name: functools.partial(config, name) for name in ("encoder", "warm")}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
