"""IMDB: is a film review positive? (Maas et al. 2011)

   lm train --config=experiments/tasks/imdb.py:encoder --workdir=runs/imdb
   cost: 2 min on 2 CPU cores.   measured: F1 0.38 [0.28, 0.47] (always negative: 0)

   lm train --config=experiments/tasks/imdb.py:decoder --workdir=runs/imdb-decoder
   cost: 3 min on 2 CPU cores.   measured: F1 0.24 [0.13, 0.36]

Of a review the first 256 tokens are read; the average has some 300. The corpus is balanced,
these parts of it are not: 13.7 % of the training reviews are positive, 3.3 % of the test's. So look
at the F1 and Matthews' correlation beside what needs no model, not at the accuracy:

   lm evaluate --workdir=runs/imdb --baseline --page=imdb.html

Data, below the data root: imdb/train4000.tsv.gz and test2000.tsv.gz, 4,000 and 2,000 of the 25,000
and 25,000 reviews: label, number, text.
"""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from experiments import common
from experiments.tasks.common import labelled, table, task


def source(name: str) -> dict[str, Any]:
    return table(f"imdb/{name}.tsv.gz", header=False, label=0, text=2)


def config(model: str) -> ConfigDict:
    return task(
        model,
        # one training review in seven is positive
        labelled(("0", "1"), class_weights="balanced"),
        train=source("train4000"),
        validation=source("test2000"),
        length=256,
        # 750 steps * 32 reviews are 6 epochs
        steps=750,
        rows=32,
    )


VARIANTS = {name: functools.partial(config, name) for name in ("encoder", "decoder", "warm")}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
