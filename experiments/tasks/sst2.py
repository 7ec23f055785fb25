"""SST-2: is a sentence of a film review positive? (Socher et al. 2013; GLUE, Wang et al. 2019)

   lm train --config=experiments/tasks/sst2.py:encoder --workdir=runs/sst2
   lm evaluate --workdir=runs/sst2 --baseline --page=sst2.html
   cost: 43 s on 2 CPU cores.   measured: accuracy 81.5 % [78.8, 83.9] (always positive: 50.9)

   lm train --config=experiments/tasks/sst2.py:decoder --workdir=runs/sst2-decoder
   cost: 37 s on 2 CPU cores.   measured: accuracy 79.6 % [76.9, 82.1]

   lm train --config=experiments/tasks/sst2.py:warm --workdir=NEW --config.train.warm_start=W

From scratch, which is no way to do well: BERT-base, pre-trained, has 93.5 (Devlin et al. 2019,
Table 1). `warm` begins with the model of a workdir W, converted or trained here, and its tokenizer.
Data, below the data root: glue/SST-2/{train,dev}.tsv, 67,349 phrases and 872 sentences.
"""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from experiments import common
from experiments.tasks.common import labelled, table, task


def config(model: str) -> ConfigDict:
    return task(
        model,
        labelled(("0", "1")),
        train=table("glue/SST-2/train.tsv", text="sentence", label="label"),
        validation=table("glue/SST-2/dev.tsv", text="sentence", label="label"),
        # 427 phrases and 36 sentences of dev are longer, and cut
        length=48,
        # 1500 steps * 64 phrases are 1.4 epochs
        steps=1500,
        rows=64,
    )


VARIANTS = {name: functools.partial(config, name) for name in ("encoder", "decoder", "warm")}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
