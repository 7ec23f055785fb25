"""ChnSentiCorp: is a Chinese review of a hotel, a book or a computer positive? (Tan & Zhang 2008)

   lm train --config=experiments/tasks/chnsenticorp.py:encoder --workdir=runs/chnsenticorp
   cost: 39 s on 2 CPU cores.   measured: accuracy 87.8 % [85.8, 89.6] (always negative: 50.6)

BERT-base, pre-trained, has 94.3 on the test split (Cui et al. 2021, ERNIE's figures).
Data, below the data root: zh_chnsenticorp/pengming617_{train,dev}.tsv, 9,600 and 1,200 reviews.
"""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments import common
from experiments.tasks.common import labelled, table, task


def source(split: str) -> dict[str, Any]:
    return table(f"zh_chnsenticorp/pengming617_{split}.tsv", text="text_a", label="label")


def config(model: str) -> ConfigDict:
    return task(
        model,
        labelled(("0", "1")),
        train=source("train"),
        validation=source("dev"),
        length=128,
        # as many as these reviews yield, and not many more
        vocabulary=6144,
        # 900 steps * 32 reviews are 3 epochs
        steps=900,
        rows=32,
    )


VARIANTS = {name: functools.partial(config, name) for name in ("encoder", "decoder", "warm")}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
