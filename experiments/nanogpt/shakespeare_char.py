"""nanoGPT: character-level Shakespeare (Karpathy, nanoGPT's README: the CPU and the GPU recipe).

   lm train --config=experiments/nanogpt/shakespeare_char.py:cpu --workdir=runs/shakespeare
   cost: 2 min on 2 CPU cores (:cpu).   measured: 1.904 (:cpu, seed 0); :gpu not run

nanoGPT reports a validation loss of 1.88 nats per character for :cpu and 1.4697 (the best of the
run) for :gpu. Its loss is a mean over random batches; ours is over the whole validation split.
Data: tinyshakespeare/input.txt (1,115,394 characters) below the data root.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from experiments import common


def base(*, sequence_length: int, dropout: float, **model: Any) -> dict[str, Any]:
    """What both recipes share; `model` has the sizes."""
    return {
        "model": {
            "vocab_size": 65,
            "d_ff": 4 * model["d_model"],
            "position": {"kind": "learned", "max_length": sequence_length},
            "norm": {"kind": "layer", "bias": False},
            "activation": "gelu",
            **common.no_bias(),
            "dropout": {"embedding": dropout, "attention": dropout, "residual": dropout},
            **model,
        },
        "data": {
            # One document, the whole play list: the first 90 % of its characters to train on.
            **common.split({"kind": "text", "paths": ["tinyshakespeare/input.txt"]}, held_out=0.1),
            "tokenizer": {"kind": "character"},
            "sequence_length": sequence_length,
            "add_eos": False,
        },
        "optimizer": {
            "kind": "adamw",
            "learning_rate": 1e-3,
            "schedule": {"kind": "cosine", "warmup": {"steps": 100}, "final": 0.1},
            "beta2": 0.99,
            "weight_decay": 0.1,
            "clip_norm": 1.0,
        },
        "evaluation": {"every": {"steps": 250}},
    }


def cpu() -> ConfigDict:
    values = base(sequence_length=64, dropout=0.0, num_layers=4, num_heads=4, d_model=128)
    # 2000 steps * 12 rows * 64 characters = 1.54 M characters: 1.5 epochs
    values["train"] = {
        "batch_size": 12,
        "duration": {"steps": 2000},
        "steps_per_dispatch": 10,
        "log_every": 50,
    }
    values["checkpoint"] = {"every": {"steps": 500}}
    return ConfigDict(values)


def gpu() -> ConfigDict:
    values = base(sequence_length=256, dropout=0.2, num_layers=6, num_heads=6, d_model=384)
    values["model"]["compute_dtype"] = "bfloat16"
    # 5000 steps * 64 rows * 256 characters = 81.9 M characters: 82 epochs, so the best one is kept
    values["train"] = {"batch_size": 64, "duration": {"steps": 5000}, "log_every": 50}
    values["checkpoint"] = {"every": {"steps": 250}, "keep_best": 1}
    return ConfigDict(values)


VARIANTS = {"cpu": cpu, "gpu": gpu}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
