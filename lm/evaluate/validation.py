"""A trained run measured on its validation splits, the way papers report language models."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax

from lm.config import CausalLM
from lm.errors import UserError
from lm.train.evaluation import evaluate_split
from lm.train.setup import open_dataset
from lm.train.step import evaluate_step
from lm.train.workdir import CONVERTED, Run


def evaluate_run(
    run: Run,
    *,
    data_root: Path,
    cache_dir: Path,
    batch_size: int | None,
    limit: int | None,
    report: Callable[[str], None] = print,
) -> dict[str, dict[str, float | None]]:
    """Metrics of every validation split of a run, with perplexity and bits per byte.

    Args:
      batch_size: rows a batch; None is the config's. It changes nothing but the speed.
      limit: batches a split; None is the whole split.

    Raises:
      UserError: the run has no validation data, or its files are missing; a converted model has
        neither data nor, but for decoders, an objective.
    """
    if not run.config.data.validation:
        converted = ": it is a converted model" if (run.workdir / CONVERTED).exists() else ""
        raise UserError(
            f"the run in {run.workdir} has no data.validation to evaluate on{converted}"
        )
    objective = run.config.objective
    if run.objective is None or objective is None:
        raise UserError(f"the model in {run.workdir} has no objective, so no loss to evaluate")
    dataset = open_dataset(run.config, run.objective, data_root, cache_dir, run.tokenizer)
    for name, fingerprint in dataset.validation_fingerprints.items():
        if run.data["validation"].get(name) != fingerprint:
            report(f"data.validation.{name} is not what the run was evaluated on while training")
    evaluate = jax.jit(partial(evaluate_step, objective=run.objective))
    settings = (batch_size, run.config.evaluation.batch_size, run.config.train.batch_size)
    rows = next(size for size in settings if size is not None)
    results: dict[str, dict[str, float | None]] = {}
    for name, split in dataset.validation.items():
        trained = run.trained or run.params
        means = evaluate_split(evaluate, trained, split.batches(rows, limit=limit))
        results[name] = {**means}
        if objective.predicts_tokens:
            results[name]["perplexity"] = perplexity(means["loss"])
            # Only next-token prediction gives a text its probability.
            whole = isinstance(objective, CausalLM) and limit is None
            if whole and split.bytes is not None:
                bits = means["loss"] * means["tokens"] / math.log(2)
                results[name]["bits_per_byte"] = bits / split.bytes
    return results


def perplexity(loss: float) -> float | None:
    """exp(loss); None where it does not fit a float."""
    return math.exp(loss) if loss < 700 else None
