"""CoLA: is a sentence acceptable English? (Warstadt et al. 2019; GLUE, Wang et al. 2019)

   lm train --config=experiments/tasks/cola.py:encoder --workdir=runs/cola
   cost: 3 min on 2 CPU cores.   measured: not run

By Matthews' correlation; from scratch it stays near 0 (BERT-base, pre-trained, has 52.1: Devlin et
al. 2019, Table 1). The labels are unbalanced, 70 % are acceptable, so they are weighed.
Data, below the data root: glue/CoLA/{train,dev}.tsv, 8,551 and 1,043 sentences, without a header.
"""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments import common
from experiments.tasks.common import labelled, table, task


def source(split: str) -> dict[str, Any]:
    return table(f"glue/CoLA/{split}.tsv", header=False, text=3, label=1)


def config(model: str) -> ConfigDict:
    return task(
        model,
        labelled(("0", "1"), class_weights="balanced"),
        train=source("train"),
        validation=source("dev"),
        length=48,
        # 1000 steps * 64 sentences are 7.5 epochs
        steps=1000,
        rows=64,
    )


VARIANTS = {name: functools.partial(config, name) for name in ("encoder", "decoder", "warm")}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
