"""Statistical induction heads: small Transformers of attention alone read Markov chains (Edelman et
al. 2024, "The Evolution of Statistical Induction Heads: In-Context Learning Markov Chains").

   lm train --config=experiments/induction/markov.py:two-layers --workdir=runs/induction
   cost: some 2 min on 2 CPU cores (:two-layers), 1 min (:one-layer).   measured: loss 0.904, 0.994

A row is one chain of three states, whose transition probabilities are its own. Two layers first
guess from how often each state was there (unigrams, 1.0045 nats), then within some hundred steps
from what came after the present state (bigrams, 0.8855); one layer cannot.
Where this differs from the released code: no dropout (there 0.1), 2,500 steps of its 10,000.
"""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from experiments import common

STATES, LENGTH = 3, 100
ROWS, STEPS = 64, 2_500
# What losses are expected of those who know nothing, and of those who count states, or pairs of
# them (`lm.data.markov`): means over the positions of a row, of 20,000 chains.
LEVELS = {"uniform": 1.0986, "unigram": 1.0045, "bigram": 0.8855}


def config(num_layers: int) -> ConfigDict:
    source = {"kind": "markov_chains", "states": STATES, "length": LENGTH + 1}
    return ConfigDict(
        {
            "model": {
                "vocab_size": STATES,
                "num_layers": num_layers,
                "d_model": 16,
                "num_heads": 1,
                "d_ff": 0,
                "position": {"kind": "relative_keys", "max_distance": LENGTH - 1},
                "tie_embeddings": False,
                **common.no_bias(),
            },
            "data": {
                # No chain is read twice.
                "train": {"chains": {**source, "chains": STEPS * ROWS}},
                "validation": {"chains": {**source, "chains": 2048, "seed": 1}},
                "tokenizer": {"kind": "character"},
                "sequence_length": LENGTH,
                "packing": "none",
                "add_eos": False,
            },
            "train": {
                "batch_size": ROWS,
                "duration": {"steps": STEPS},
                "steps_per_dispatch": 50,
                "log_every": 50,
            },
            "optimizer": {
                "kind": "adamw",
                "learning_rate": 5e-4,
                "beta2": 0.95,
                "weight_decay": 0.1,
                # Theirs is of the matrices that multiply.
                "rules": (
                    {"pattern": ".*/kernel", "decay": True},
                    {"pattern": ".*/(embedding|bias|scale)", "decay": False},
                ),
            },
            "evaluation": {"every": {"steps": 100}, "batch_size": 256},
            "checkpoint": {"every": {"steps": 500}},
        }
    )


VARIANTS = {
    "two-layers": functools.partial(config, 2),
    "one-layer": functools.partial(config, 1),
}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
