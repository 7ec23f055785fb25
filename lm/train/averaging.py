"""Averages of checkpoints: the mean of a run's parameters at several steps, as a model of its own.

The Transformer's results are those of such means (Vaswani et al. 2017, section 6.1: the last 5, or
20). One parameter of one checkpoint is in memory at a time, and a sum in float64.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

import lm
from lm.convert.incoming import check_new
from lm.convert.store import LazyArray, write_checkpoint
from lm.data.cache import new_beside, sync
from lm.errors import ConfigError, UserError
from lm.train.checkpoint import Checkpoints
from lm.train.parameters import Parameters
from lm.train.restoring import nested
from lm.train.workdir import (
    CHECKPOINTS,
    CONVERTED,
    MANIFEST,
    TOKENIZER,
    read_config,
    write_config,
    write_json,
)


class Average(NamedTuple):
    """What was averaged, for a summary."""

    steps: tuple[int, ...]
    parameters: int


def average(
    workdir: Path, output: Path, *, last: int | None = None, steps: Sequence[int] | None = None
) -> Average:
    """Writes the mean of checkpoints of `workdir` as the workdir `output`, whole or not at all: a
    model to use, evaluate, convert and train from, as a converted one.

    The parameters that were trained are averaged, also where the run keeps a moving average.

    Args:
      last: the newest so many; or
      steps: those of these steps.

    Raises:
      ConfigError: neither or both; fewer than two checkpoints, or one twice.
      UserError: there is something in `output`; no run in `workdir`, or not the checkpoints asked
        for; one is damaged, or differs from the others in its parameters; the disk is full.
    """
    check_new(output, "--output")
    config = read_config(workdir)
    checkpoints = Checkpoints(workdir / CHECKPOINTS, report=lambda line: None)
    chosen = _chosen(workdir, checkpoints.steps(), last, steps)
    lora = config.train.lora
    found = [Parameters(checkpoints, step, ("params",), lora) for step in chosen]
    for step, parameters in zip(chosen, found):
        if parameters.shapes != found[0].shapes:
            raise UserError(
                f"the checkpoints of steps {chosen[0]} and {step} in {workdir} have different "
                "parameters: their mean is no model"
            )
    data = checkpoints.restore_parts((), chosen[-1]).data
    leaves = {
        path: LazyArray(shape, np.dtype(np.float32), partial(_mean, found, path))
        for path, shape in found[0].shapes.items()
    }
    try:
        partial_dir = new_beside(output)
    except OSError as error:
        raise UserError(f"cannot make --output={output}: {error.strerror}") from error
    try:
        shutil.copytree(workdir / TOKENIZER, partial_dir / TOKENIZER)
        if (workdir / MANIFEST).exists():
            # Where the data is.
            shutil.copy(workdir / MANIFEST, partial_dir)
        # What is averaged are whole models: a mean of adapters' factors is no model's.
        train = dataclasses.replace(config.train, lora=None)
        write_config(partial_dir, dataclasses.replace(config, train=train))
        write_checkpoint(
            partial_dir / CHECKPOINTS, nested(leaves), data=data, meta={"evaluation": {}}
        )
        write_json(partial_dir / CONVERTED, {
            "from": str(workdir.absolute()),
            "format": "average",
            "steps": list(chosen),
            "converted": datetime.now(UTC).isoformat(timespec="seconds"),
            "lm_version": lm.__version__,
        })  # fmt: skip
        sync(partial_dir)
        os.rename(partial_dir, output)
    except OSError as error:
        raise UserError(f"could not write --output={output}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial_dir, ignore_errors=True)
    return Average(tuple(chosen), sum(map(math.prod, found[0].shapes.values())))


def _chosen(
    workdir: Path, present: Sequence[int], last: int | None, steps: Sequence[int] | None
) -> list[int]:
    """The steps to average, oldest first."""
    if (last is None) == (steps is None):
        raise ConfigError("say which checkpoints: either --last=N, or --steps=A,B,...")
    listed = ", ".join(map(str, present)) or "none"
    keep = "checkpoint.keep_last says how many a run keeps"
    if steps is None:
        assert last is not None
        if last < 2:
            raise ConfigError(f"--last must be at least 2, not {last}: one has no mean")
        if last > len(present):
            raise UserError(
                f"{workdir} has {len(present)} checkpoints, not {last} (of steps {listed}); {keep}"
            )
        return list(present[-last:])
    if len(set(steps)) != len(steps) or len(steps) < 2:
        raise ConfigError(f"--steps must be at least two different ones, not {list(steps)}")
    missing = [step for step in steps if step not in present]
    if missing:
        raise UserError(
            f"no checkpoint of step {missing[0]} in {workdir}; there are: {listed}; {keep}"
        )
    return sorted(steps)


def _mean(checkpoints: Sequence[Parameters], path: str) -> np.ndarray:
    """One parameter's mean, float32."""
    total = np.zeros((), np.float64)
    for parameters in checkpoints:
        total = total + parameters.read(path)
    return np.ascontiguousarray(total / len(checkpoints), dtype=np.float32)
