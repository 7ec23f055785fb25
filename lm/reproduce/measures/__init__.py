"""What is measured: of runs, of files, of models that were not trained. One number a seed.

A measure is a value, told apart by its `kind` in `experiments/<paper>/claims.py`; what it computes
is a function of finished runs, files below the data root, and its own options.
"""

from __future__ import annotations

from typing import Union

from lm.reproduce.measures.base import Found, Inputs, MeasureBase
from lm.reproduce.measures.chains import ChainGap
from lm.reproduce.measures.differences import Differences
from lm.reproduce.measures.gradients import NormPlacement
from lm.reproduce.measures.lengths import Lengths
from lm.reproduce.measures.outputs import OutputSizes
from lm.reproduce.measures.rates import BestRates
from lm.reproduce.measures.recorded import Recorded
from lm.reproduce.measures.scaling import ScalingPoints, ScalingRuns
from lm.reproduce.measures.training import FirstBelow, Metric
from lm.reproduce.measures.translation import Translation

Measure = Union[
    Metric,
    FirstBelow,
    ScalingPoints,
    ScalingRuns,
    Translation,
    NormPlacement,
    Lengths,
    OutputSizes,
    ChainGap,
    BestRates,
    Differences,
    Recorded,
]

__all__ = ["Found", "Inputs", "Measure", "MeasureBase"]
