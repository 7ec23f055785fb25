"""A trained run measured on its validation splits, the way papers report models."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lm.config import CausalLM, Config, Masking, ReplacedTokens, TaskBase
from lm.data.corruption.vocabulary import vocabulary_of, with_mask
from lm.data.examples import prepare_examples
from lm.data.examples_read import Example
from lm.data.pipeline import Dataset, named
from lm.errors import ConfigError, UserError
from lm.evaluate import selection
from lm.evaluate.answers import Answered, Asked, answer_split, as_json
from lm.evaluate.baseline import (
    masked_baseline,
    pair_baseline,
    replaced_baseline,
    token_baseline,
    unigram,
)
from lm.evaluate.selection import Answer, kind_of
from lm.evaluate.splits import labelled, narrowed
from lm.evaluate.trivial import Trivial, trivial
from lm.objectives.base import ExampleObjective
from lm.train.evaluation import evaluate_split
from lm.train.setup import open_dataset
from lm.train.step import evaluate_step
from lm.train.workdir import CONVERTED, Run
from lm.types import Features

# Examples answered at a time where nobody says: each may be a search of several beams.
AT_ONCE = 32


class Evaluation(NamedTuple):
    """What was measured of each split, as JSON values; and the answers, where there are some."""

    splits: dict[str, dict[str, Any]]
    answered: dict[str, Answered]


def evaluate_run(
    run: Run,
    *,
    data_root: Path,
    cache_dir: Path,
    batch_size: int | None,
    limit: int | None,
    baseline: bool = False,
    asked: Asked | None = None,
    split: str | None = None,
    input: str | None = None,
    target: str | None = None,
    report: Callable[[str], None] = print,
) -> Evaluation:
    """The loss, and what else the objective's terms say, of every validation split of a run; with
    perplexity and bits per byte where tokens are predicted, and where there are answers with the
    metrics of `lm.evaluate.answers`. Examples that are too long are what data.too_long says, as in
    training: those that are dropped have neither a loss nor an answer ("examples_dropped").

    Args:
      baseline: adds under "baseline" what needs no model (`lm.evaluate.baseline`, and of answers
        `lm.evaluate.trivial`), by the names of the metrics it stands beside.
      batch_size: rows a batch; None is the config's. It changes nothing but the speed.
      limit: batches a split, of as many examples; None is the whole split.
      asked: how answers are found and measured, of objectives that have some.
      split, input, target: other data than all splits; see `lm.evaluate.splits.narrowed`.

    Raises:
      UserError: the run has no validation data, or its files are missing; a converted model has
        neither data nor, but for decoders, an objective.
      ConfigError: see `narrowed`; metrics of answers where there are none, or that measure others.
    """
    if not run.config.data.validation and input is None:
        converted = ": it is a converted model" if (run.workdir / CONVERTED).exists() else ""
        raise UserError(
            f"the run in {run.workdir} has no data.validation to evaluate on{converted}; --input "
            "names a file"
        )
    if run.config.objective is None and not _reads_and_writes(run.config):
        raise UserError(f"the model in {run.workdir} has no objective, so no loss to evaluate")
    config = narrowed(run.config, split, input, target)
    answering = _answers(config, asked)
    if answering is None and baseline and _has_answers(config):
        raise ConfigError("--baseline stands beside metrics of answers, and there are to be none")
    rows = next(
        size
        for size in (batch_size, config.evaluation.batch_size, config.train.batch_size)
        if size is not None
    )
    results, dropped = _losses(
        run, config, data_root, cache_dir, rows, limit, baseline=baseline, report=report
    )
    answered: dict[str, Answered] = {}
    if answering is None:
        return Evaluation(results, answered)
    floor = _without_model(run, config, data_root, cache_dir) if baseline else None
    for name, source in config.data.validation.items():
        with named("validation", name):
            without = dropped.get(name, frozenset())
            every = enumerate(labelled(run, config, source, data_root, cache_dir))
            examples = (example for number, example in every if number not in without)
            chosen = list(examples if limit is None else islice(examples, limit * rows))
            answered[name] = answer_split(
                run, config, chosen, answering, batch_size=batch_size or min(rows, AT_ONCE),
                trivial=floor, report=report, dropped=len(without),
            )  # fmt: skip
        result = as_json(config, answered[name])
        # What the terms say under the same name is the same.
        results.setdefault(name, {}).update(result)
    return Evaluation(results, answered)


def gives_answers(config: Config, asked: Asked | None) -> bool:
    """Whether `evaluate_run` has answers to show. Raises ConfigError as it does."""
    return _answers(config, asked) is not None


def _answers(config: Config, asked: Asked | None) -> Asked | None:
    """How answers are to be found and measured; None where there are none.

    Raises:
      ConfigError: they are asked for, and the objective has none, or others.
    """
    asked = asked or Asked()
    if asked.metrics is not None and not asked.metrics:
        return None
    if _has_answers(config) or config.objective is None:
        selection.check(config, asked.metrics or ())
        return asked
    if asked != Asked(resamples=asked.resamples):
        raise ConfigError(
            f"metrics and searches are for answers, and objective {config.objective.name!r} has "
            f"none to measure: they are of {', '.join(selection.MEASURED)}"
        )
    return None


def _losses(
    run: Run,
    config: Config,
    data_root: Path,
    cache_dir: Path,
    rows: int,
    limit: int | None,
    *,
    baseline: bool,
    report: Callable[[str], None],
) -> tuple[dict[str, dict[str, Any]], dict[str, frozenset[int]]]:
    """The means of the objective's terms, by split; and the numbers of a split's examples that have
    no part in them, as they are too long."""
    objective = config.objective
    if run.objective is None or objective is None:
        report("a converted model has no objective, so no loss")
        return {}, {}
    dataset = _opened(run, config, data_root, cache_dir)
    known = run.data.get("validation", {})
    for name, fingerprint in dataset.validation_fingerprints.items():
        if name in run.config.data.validation and known.get(name) != fingerprint:
            report(f"data.validation.{name} is not what the run was evaluated on while training")
    evaluate = jax.jit(partial(evaluate_step, objective=run.objective))
    results: dict[str, dict[str, Any]] = {}
    probabilities = None
    if baseline and not _has_answers(config):
        probabilities = unigram(_training(dataset, rows), config.model.vocab_size)
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
    return results, {name: split.dropped for name, split in dataset.validation.items()}


def _reads_and_writes(config: Config) -> bool:
    """Whether a model without an objective writes a text after one that it reads."""
    return config.model.architecture == "encoder_decoder" and config.model.lm_head != "none"


def _has_answers(config: Config) -> bool:
    return config.objective is not None and kind_of(config) in selection.MEASURED


def _opened(run: Run, config: Config, data_root: Path, cache_dir: Path) -> Dataset:
    """The splits, ready to read. Where answers are measured the training data is not: a first
    split stands in its place, and nothing looks at it."""
    objective = run.objective
    assert objective is not None
    if not _has_answers(config) and config.data.train:
        return open_dataset(config, objective, data_root, cache_dir, run.tokenizer)
    first = dict(list(config.data.validation.items())[:1])
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, train=first))
    if not isinstance(objective, ExampleObjective):
        return open_dataset(config, objective, data_root, cache_dir, run.tokenizer)
    assert isinstance(config.objective, TaskBase)
    return prepare_examples(
        config.data, vocab_size=config.model.vocab_size, roles=config.objective.roles,
        make_rows=lambda tokenizer, training: objective.example_maker(tokenizer, config.data),
        seed=config.seed, data_root=data_root, cache_dir=cache_dir, tokenizer=run.tokenizer,
    )  # fmt: skip


def _without_model(
    run: Run, config: Config, data_root: Path, cache_dir: Path
) -> Callable[[Sequence[Example], Sequence[Answer]], Trivial]:
    """Makes answers to examples from those of the training data alone."""
    if not config.data.train:
        raise UserError(
            f"--baseline answers by the training data, and {run.workdir} names none: it is a "
            "converted model"
        )
    training = []
    for name, source in config.data.train.items():
        with named("train", name):
            training += list(labelled(run, config, source, data_root, cache_dir))
    return partial(trivial, config, training)


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
