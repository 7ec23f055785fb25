"""Evaluation of a model on the validation splits: sums over the whole split, divided once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from lm.data.pipeline import Dataset
from lm.errors import UserError
from lm.types import Params

Sums = dict[str, tuple[Any, Any]]
Ratios = Callable[[Mapping[str, float]], dict[str, float]]


def evaluate_split(
    evaluate: Callable[[Params, Any], Sums],
    params: Params,
    batches: Iterator[Any],
    ratios: Ratios,
) -> dict[str, float]:
    """Means of every term over `batches`, the objective's ratios of them, and the number of tokens
    that "loss" counts.

    Args:
      evaluate: gives a batch's (sum, weight) by term, on the device.
      ratios: `lm.config.ObjectiveConfig.ratios`.
    """
    totals: Sums | None = None
    for batch in batches:
        sums = evaluate(params, batch)
        # Added on the device: the host waits once, at the end.
        totals = sums if totals is None else jax.tree.map(lambda a, b: a + b, totals, sums)
    if totals is None:
        raise UserError("the validation split has no batch to evaluate")
    host = jax.device_get(totals)
    result = {name: float(s) / float(w) if float(w) else 0.0 for name, (s, w) in host.items()}
    result |= ratios(result)
    if "loss" in host:
        result["tokens"] = int(host["loss"][1])
    return result


def evaluate_all(
    mapped: Any,
    params: Params,
    dataset: Dataset,
    *,
    batch_size: int,
    limit: int | None,
    ratios: Ratios,
) -> dict[str, dict[str, float]]:
    """Metrics of every validation split, by its name in the config; `limit` is batches a split."""
    results = {}
    for name, split in dataset.validation.items():
        batches = split.batches(
            batch_size,
            limit=limit,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        placed = (mapped.put_evaluation(batch) for batch in batches)
        results[name] = evaluate_split(mapped.evaluate, params, placed, ratios)
    return results
