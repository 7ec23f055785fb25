"""The size of what trained models say, against their width: muP's coordinate check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lm.config.checks import check
from lm.reproduce.measures.base import Found, Inputs, MeasureBase

_ROWS = 16


@dataclass(frozen=True)
class OutputSizes(MeasureBase):
    """The mean absolute logit of decoders on the first rows of `split`, by run, and for each of
    the `families` (a name, and its runs) FAMILY_slope: that of its logarithm over the logarithm of
    the width, by least squares."""

    families: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    split: str = "text"
    kind: Literal["output_sizes"] = "output_sizes"

    def __post_init__(self) -> None:
        for family, runs in self.families.items():
            check(len(runs) > 1, f"families.{family}: a slope needs two runs")
            for run in runs:
                check(run in self.runs, f"families.{family}: {run!r} is not in runs")

    @property
    def quantities(self) -> tuple[str, ...]:
        return (*self.runs, *(f"{family}_slope" for family in self.families))

    def measure(self, inputs: Inputs) -> Found:
        from lm.train.workdir import read_config

        sizes: dict[str, list[float]] = {}
        for run, workdirs in inputs.runs.items():
            inputs.report(f"{run}: the size of its logits")
            sizes[run] = [self._size(workdir, inputs) for workdir in workdirs]
        values: dict[str, list[float | None]] = {run: list(found) for run, found in sizes.items()}
        for family, runs in self.families.items():
            widths = [read_config(inputs.runs[run][0]).model.d_model for run in runs]
            logs = np.log([sizes[run] for run in runs])
            values[f"{family}_slope"] = np.polyfit(np.log(widths), logs, 1)[0].tolist()
        return Found(values)

    def _size(self, workdir: Path, inputs: Inputs) -> float:
        import jax.numpy as jnp

        from lm.train.setup import open_dataset
        from lm.train.workdir import load_run

        run = load_run(workdir)
        assert run.objective is not None
        dataset = open_dataset(
            run.config, run.objective, inputs.data_root, inputs.cache_dir, run.tokenizer
        )
        batch = next(iter(dataset.validation[self.split].batches(_ROWS, limit=1)))
        found: Any = run.model.apply({"params": run.params}, jnp.asarray(batch["tokens"]))
        return float(jnp.mean(jnp.abs(found[0])))
