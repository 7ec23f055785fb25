"""MRPC: do two sentences say the same? (Dolan & Brockett 2005; GLUE, Wang et al. 2019)

   lm train --config=experiments/tasks/mrpc.py:encoder --workdir=runs/mrpc
   cost: 3 min on 2 CPU cores.   measured: not run

From scratch it stays near the majority, an F1 of 81 (BERT-base, pre-trained, has 88.9: Devlin et
al. 2019, Table 1).
Data, below the data root: glue/MRPC/{train,dev}.tsv, 3,668 and 408 pairs.
"""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments import common
from experiments.tasks.common import labelled, table, task


def source(split: str) -> dict[str, Any]:
    return table(f"glue/MRPC/{split}.tsv", text="#1 String", text_pair="#2 String", label="Quality")


def config(model: str) -> ConfigDict:
    return task(
        model,
        labelled(("0", "1")),
        train=source("train"),
        validation=source("dev"),
        length=128,
        # 500 steps * 32 pairs are 4.4 epochs
        steps=500,
        rows=32,
    )


VARIANTS = {name: functools.partial(config, name) for name in ("encoder", "decoder", "warm")}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
