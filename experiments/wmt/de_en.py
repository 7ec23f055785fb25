"""WMT 2017, German to English, with the Transformer of Flax's own example (examples/wmt).

   lm train --config=experiments/wmt/de_en.py:big --workdir=runs/wmt
   cost: 13 G tokens; theirs: 3 h on 32 TPU v3 cores.   measured: not run

Theirs, with a beam of 4: BLEU 32.45 on newstest2014. It is the paper's big model with norms before
the sub-layers and less dropout, trained for 25,000 steps, a quarter of the default for the eight
cores of a v3-8, on four times the rows.
Where this differs:
- They draw embeddings from a normal of 1 and divide logits by the root of the width; ours are drawn
  from a normal of one over that root and multiplied by it, which is the same at the beginning.
- Matrices are Xavier's, theirs uniform; of queries, keys and values each by itself.
- Their 32,000 pieces are learnt from ten million characters, ours from all of the text.
Data, below the data root: wmt17_de_en/train.{de,en} and wmt14_de_en/test.{de,en}, a sentence a
line. Their evaluation in training is on that test set too; so is this one's.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from experiments import common
from experiments.transformer.model import model


def pairs(path: str) -> dict[str, Any]:
    return {
        "kind": "text",
        "paths": [f"{path}.de"],
        "target_paths": [f"{path}.en"],
        "document": "line",
    }


def config() -> ConfigDict:
    big = {
        **model("big"),
        "vocab_size": 32000,
        "position": {"kind": "sinusoidal", "layout": "tensor2tensor"},
        "norm": {"kind": "layer", "placement": "pre", "epsilon": 1e-6},
        "dropout": {"embedding": 0.1, "attention": 0.1, "residual": 0.1, "feed_forward": 0.1},
        "init": {"stddev": 1024**-0.5, "scale_residual": False, "projections": "xavier"},
    }
    return ConfigDict(
        {
            "model": common.at_scale(big, remat="none"),
            "data": {
                "train": {"de-en": pairs("wmt17_de_en/train")},
                "validation": {"de-en": pairs("wmt14_de_en/test")},
                "tokenizer": {"kind": "sentencepiece", "vocab_size": 32000},
                "sequence_length": 256,
                "packing": "first_fit",
                "too_long": "drop",
            },
            "objective": {"kind": "sequence_to_sequence", "label_smoothing": 0.1},
            # 32 rows * 32 cores, of 256 source and 256 target tokens
            "train": {"batch_size": 1024, "duration": {"steps": 25_000}},
            "optimizer": {
                "kind": "adam",
                "learning_rate": 2e-3,
                "schedule": {"kind": "inverse_sqrt", "warmup": {"steps": 250}},
                "beta2": 0.98,
                "epsilon": 1e-9,
            },
            "evaluation": {"every": {"steps": 1000}},
            "checkpoint": {"every": {"steps": 2500}},
        }
    )


VARIANTS = {"big": config}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)
