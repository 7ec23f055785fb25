"""GPT-2's four sizes (Radford et al. 2019, Table 2) on OpenWebText, trained as nanoGPT does.

   lm train --config=experiments/gpt2/openwebtext.py:124m --workdir=runs/gpt2
   cost: 295 G tokens, days on 8 A100 (:124m).   measured: not run

nanoGPT reports a validation loss of ~2.85 nats per token for 124m. Its model leaves out the biases
and computes GELU exactly; this is GPT-2's own, biases and tanh, but as nanoGPT without dropout.
Only 124m's training recipe is nanoGPT's; the larger sizes take GPT-3's learning rates for theirs.
Data: openwebtext/*.jsonl* ({"text": ...} a line) and tokenizers/gpt2 below the data root.
"""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from experiments import common
from experiments.gpt2.model import model

LEARNING_RATES = {"124m": 6e-4, "355m": 3e-4, "774m": 2.5e-4, "1558m": 2e-4}


def config(size: str) -> ConfigDict:
    return ConfigDict(
        {
            "model": {
                # --config.model.vocab_size=50304 (a multiple of 128) is faster on accelerators.
                **model(size),
                "dropout": {},
                "compute_dtype": "bfloat16",
            },
            "data": {
                # The last 0.05 % of the text; nanoGPT holds out a random 0.05 % of the documents.
                **common.split(
                    {"kind": "jsonl", "paths": ["openwebtext/*.jsonl*"]}, held_out=0.0005
                ),
                "tokenizer": {"kind": "bpe", "path": "tokenizers/gpt2"},
                "sequence_length": 1024,
            },
            "train": {
                # 12 rows * 8 GPUs * 5 microbatches; * 1024 tokens = 491,520 tokens a step
                "batch_size": 480,
                "microbatches": 5,
                # * 491,520 = 295 G tokens
                "duration": {"steps": 600_000},
            },
            "optimizer": {
                "kind": "adamw",
                "learning_rate": LEARNING_RATES[size],
                "schedule": {"kind": "cosine", "warmup": {"steps": 2000}, "final": 0.1},
                "beta2": 0.95,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            },
            "evaluation": {"every": {"steps": 1000}, "batches": 20},
            "checkpoint": {"every": {"steps": 1000}, "keep_last": 2},
        }
    )


VARIANTS = {size: functools.partial(config, size) for size in LEARNING_RATES}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
