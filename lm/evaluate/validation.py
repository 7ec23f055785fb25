"""A trained run measured on its validation splits, the way papers report language models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lm.config import CausalLM, Masking, ReplacedTokens, TaskBase
from lm.data.corruption.vocabulary import vocabulary_of, with_mask
from lm.data.pipeline import Dataset
from lm.errors import ConfigError, UserError
from lm.evaluate.baseline import (
    masked_baseline,
    pair_baseline,
    replaced_baseline,
    token_baseline,
    unigram,
)
from lm.train.evaluation import evaluate_split
from lm.train.setup import open_dataset
from lm.train.step import evaluate_step
from lm.train.workdir import CONVERTED, Run
from lm.types import Features


def evaluate_run(
    run: Run,
    *,
    data_root: Path,
    cache_dir: Path,
    batch_size: int | None,
    limit: int | None,
    baseline: bool = False,
    report: Callable[[str], None] = print,
) -> dict[str, dict[str, Any]]:
    """Metrics of every validation split of a run, with perplexity and bits per byte.

    Args:
      baseline: adds under "baseline" what needs no model (`lm.evaluate.baseline`), by the names of
        the metrics it stands beside.
      batch_size: rows a batch; None is the config's. It changes nothing but the speed.
      limit: batches a split; None is the whole split.

    Raises:
      UserError: the run has no validation data, or its files are missing; a converted model has
        neither data nor, but for decoders, an objective.
      ConfigError: a baseline of a task.
    """
    if not run.config.data.validation:
        converted = ": it is a converted model" if (run.workdir / CONVERTED).exists() else ""
        raise UserError(
            f"the run in {run.workdir} has no data.validation to evaluate on{converted}"
        )
    objective = run.config.objective
    if run.objective is None or objective is None:
        raise UserError(f"the model in {run.workdir} has no objective, so no loss to evaluate")
    if baseline and isinstance(objective, TaskBase):
        raise ConfigError(
            f"--baseline stands beside language models; objective {objective.name!r} is a task"
        )
    dataset = open_dataset(run.config, run.objective, data_root, cache_dir, run.tokenizer)
    for name, fingerprint in dataset.validation_fingerprints.items():
        if run.data["validation"].get(name) != fingerprint:
            report(f"data.validation.{name} is not what the run was evaluated on while training")
    evaluate = jax.jit(partial(evaluate_step, objective=run.objective))
    settings = (batch_size, run.config.evaluation.batch_size, run.config.train.batch_size)
    rows = next(size for size in settings if size is not None)
    results: dict[str, dict[str, Any]] = {}
    probabilities = None
    if baseline:
        probabilities = unigram(_training(dataset, rows), run.config.model.vocab_size)
    for name, split in dataset.validation.items():
        trained = run.trained or run.params
        means = evaluate_split(
            evaluate, trained, split.batches(rows, limit=limit), objective.ratios
        )
        results[name] = {**means}
        if objective.predicts_tokens:
            results[name]["perplexity"] = perplexity(means["loss"])
            # Only next-token prediction gives a text its probability.
            whole = isinstance(objective, CausalLM) and limit is None
            if whole and split.bytes is not None:
                bits = means["loss"] * means["tokens"] / math.log(2)
                results[name]["bits_per_byte"] = bits / split.bytes
        if probabilities is not None:
            results[name]["baseline"] = _baseline(
                run, split.batches(rows, limit=limit), probabilities, means
            )
    return results


def _training(dataset: Dataset, rows: int) -> Iterator[Features]:
    """The batches of one epoch of training."""
    return (dataset.batch(step, rows) for step in range(max(1, dataset.rows_per_epoch // rows)))


def _baseline(
    run: Run,
    batches: Iterator[Features],
    probabilities: np.ndarray,
    means: dict[str, float],
) -> dict[str, float]:
    objective, kept = run.config.objective, list(batches)
    if not isinstance(objective, Masking):
        return token_baseline(kept, probabilities)
    mask_id = None
    if objective.mask_share > 0:
        vocabulary = vocabulary_of(run.tokenizer)
        if vocabulary.mask_id is None:
            vocabulary = with_mask(vocabulary, run.config.model.vocab_size)
        mask_id = vocabulary.mask_id
    found = masked_baseline(kept, probabilities, mask_id)
    if isinstance(objective, ReplacedTokens):
        return replaced_baseline(found, means if objective.task == "replaced" else None)
    return found | (pair_baseline(kept) if "pair_accuracy" in means else {})


def perplexity(loss: float) -> float | None:
    """exp(loss); None where it does not fit a float."""
    return math.exp(loss) if loss < 700 else None
