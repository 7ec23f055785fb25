"""RoBERTa's ablation of BERT's input (Liu et al. 2019, section 4.2, Table 2): with and without next
sentence prediction.

   lm train --config=experiments/nsp/pretrain.py:segment-nsp --workdir=runs/segment-nsp
   cost: 131 G tokens.   measured: not run

   lm train --config=experiments/nsp/pretrain.py:doc --workdir=runs/doc
   cost: 131 G tokens, less what rows of short documents lack.   measured: not run

BERT-base on BERT's text, a million steps of 256 rows of 512 tokens, masked anew at every reading.
`segment-nsp` has rows of two segments, and predicts whether the second one follows (their
SEGMENT-PAIR+NSP); `doc` fills rows from one document and predicts masked tokens alone (their
DOC-SENTENCES). After fine-tuning the second is better on SQuAD and MNLI.
Where this differs:
- For `doc` they raise the number of rows so that a step has as many tokens; ours are 256.
- Segments and rows are cut as in experiments/bert/pretrain.py, and their learning rate is tuned for
  each: not given, ours is BERT's.
Data: as experiments/bert/pretrain.py:base.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments import common
from experiments.bert import pretrain


def segment_nsp() -> ConfigDict:
    return pretrain.config("base")


def doc() -> ConfigDict:
    config = pretrain.config("base")
    # One segment, and nothing to say of it.
    config.model.token_types = 1
    config.model.heads = ()
    del config.model["pooler"]
    config.objective = {"kind": "masked_lm", "wrap": True}
    return config


VARIANTS = {"segment-nsp": segment_nsp, "doc": doc}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
