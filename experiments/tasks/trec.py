"""TREC: what does a question ask for? Six kinds (Li & Roth 2002; split and numbered by Kim 2014).

   lm train --config=experiments/tasks/trec.py:encoder --workdir=runs/trec
   cost: 3 min on 2 CPU cores.   measured: not run

Kim's convolutions, with word vectors, have 93.6 (Kim 2014, Table 2).
Data, below the data root: trec/TREC.{train,test}.all, 5,452 and 500 questions, a number, a space
and the question a line, in Latin-1.
"""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments import common
from experiments.tasks.common import labelled, table, task


def source(split: str) -> dict[str, Any]:
    columns = table(f"trec/TREC.{split}.all", header=False, label=0, text=1)
    return {**columns, "separator": " ", "most_columns": 2, "encoding": "latin-1"}


def config(model: str) -> ConfigDict:
    return task(
        model,
        labelled(tuple(map(str, range(6)))),
        train=source("train"),
        validation=source("test"),
        length=48,
        vocabulary=6144,
        # 1000 steps * 64 questions are 12 epochs
        steps=1000,
        rows=64,
    )


VARIANTS = {name: functools.partial(config, name) for name in ("encoder", "decoder", "warm")}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
