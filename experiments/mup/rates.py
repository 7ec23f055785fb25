"""muP's promise: the learning rate that is best for a narrow model is best for a wide one (Yang et
al. 2022, "Tensor Programs V", Figure 1), beside the standard parametrisation.

   lm train --config=experiments/mup/rates.py:mup-w64 --workdir=runs/mup-w64
   cost: some 25 min on one CPU core for its sweep.   measured: best at 0.008, 0.016, 0.008

   lm sweep --config=experiments/mup/rates.py --workdir=runs/mup-rates

The models of widths.py, of three widths and at seven learning rates an octave apart, 42 runs in
all: 500 steps of 1,024 bytes, with a linear decay to zero.
Theirs are Transformers of widths 128 to 8192 on WikiText-2.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from experiments import common
from experiments.mup import widths

WIDTHS = (64, 128, 256)
FAMILIES = widths.FAMILIES
RATES = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
STEPS = 500


def config(family: str, width: int) -> ConfigDict:
    values = widths.config(family, width).to_dict()
    # 500 steps * 8 rows * 128 = 0.5 M bytes: a quarter of an epoch
    values["train"].update(
        batch_size=8, duration={"steps": STEPS}, steps_per_dispatch=10, log_every=10
    )
    values["optimizer"]["schedule"] = {"kind": "linear", "warmup": {"steps": STEPS // 10}}
    values["evaluation"] = {"every": {"steps": STEPS}, "batches": 60}
    values["checkpoint"] = {"every": {"steps": STEPS}}
    return ConfigDict(values)


VARIANTS = {
    f"{family}-w{width}": functools.partial(config, family, width)
    for family in FAMILIES
    for width in WIDTHS
}


def get_config(arg: str = "") -> ConfigDict:
    return common.select(arg, VARIANTS)


def cell(family: str, width: int, rate: float) -> str:
    """The name of a run."""
    return f"{family}-w{width}-lr{rate:g}"


def sweep(add: Callable[..., Any]) -> None:
    for family in FAMILIES:
        for width in WIDTHS:
            for rate in RATES:
                add(
                    cell(family, width, rate),
                    {"optimizer.learning_rate": rate},
                    variant=f"{family}-w{width}",
                )
