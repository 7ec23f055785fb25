"""What a run answers to the examples of a split, measured as papers measure it."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from lm.config import Config
from lm.data.examples_read import Example
from lm.evaluate import selection
from lm.evaluate.metrics.bootstrap import Interval
from lm.evaluate.metrics.classification import confusion_matrix, each_class
from lm.evaluate.metrics.sums import intervals
from lm.evaluate.metrics.text import bleu_signature
from lm.evaluate.selection import Answer, Chosen, kind_of
from lm.evaluate.trivial import Trivial
from lm.generate.beam_config import BeamConfig
from lm.predict.predictor import predictor
from lm.predict.reading import Reader, SourceReader
from lm.train.workdir import Run

# Samples of examples that an interval is made of.
RESAMPLES = 1000


@dataclass(frozen=True)
class Asked:
    """How answers are found and measured: metrics (None: by the objective; an empty list measures
    none), the search of texts (None: the predictor's), their length, samples for intervals."""

    metrics: Sequence[Chosen] | None = None
    beam: BeamConfig | None = None
    max_new_tokens: int | None = None
    resamples: int = RESAMPLES


@dataclass(frozen=True)
class Answered:
    """The examples of a split, the right answers, the run's, and what they come to.

    `search` is how texts were looked for, None of other answers. `dropped` examples of the split
    were too long, and have no part in anything. `figures` are metrics by name with
    their intervals, `floor` those of `trivial`, the answers without a model, where these are asked
    for.
    """

    kind: str
    examples: Sequence[Example]
    truths: Sequence[Answer]
    answers: Sequence[Answer]
    search: BeamConfig | None
    metrics: Sequence[Chosen]
    figures: Mapping[str, Interval]
    trivial: Trivial | None
    floor: Mapping[str, float]
    dropped: int = 0


def answer_split(
    run: Run,
    config: Config,
    labelled: Sequence[tuple[Example, Answer]],
    asked: Asked,
    *,
    batch_size: int,
    trivial: Callable[[Sequence[Example], Sequence[Answer]], Trivial] | None,
    report: Callable[[str], None],
    dropped: int = 0,
) -> Answered:
    """Has the run answer examples, and measures the answers.

    Args:
      labelled: the examples and their right answers.
      trivial: makes the answers without a model, if they are to be measured too.
      dropped: how many of the split's examples are not among them, as they are too long.

    Raises:
      UserError: an example that lacks something, or that a metric cannot measure.
      ConfigError: a search that the run does not do.
    """
    examples, truths = map(list, zip(*labelled))
    metrics = asked.metrics
    if metrics is None:
        metrics, lacking = selection.default(config, truths)
        if lacking:
            report(f"without {' and '.join(lacking)}, which need: pip install 'lm[eval]'")
    kind, search = kind_of(config), asked.beam
    if kind in ("sequence_to_sequence", "instruction") and search is None:
        search = SourceReader.beams if kind == "sequence_to_sequence" else Reader.beams
    # What is too long is what the data that is measured on says.
    reading = dataclasses.replace(run, config=config)
    answering = predictor(
        reading, beam=search, max_new_tokens=asked.max_new_tokens, batch_size=batch_size
    )
    answers = list(tqdm(
        answering.answers(examples), desc="answer", total=len(examples), unit="example", delay=2,
        disable=not sys.stderr.isatty(), leave=False,
    ))  # fmt: skip
    found = None if trivial is None else trivial(examples, truths)
    floor = {} if found is None else _measured(config, metrics, found.answers, truths, 0)
    return Answered(
        kind=kind,
        examples=examples,
        truths=truths,
        answers=answers,
        search=search,
        metrics=metrics,
        figures=_measured(config, metrics, answers, truths, asked.resamples),
        trivial=found,
        floor={name: interval.value for name, interval in floor.items()},
        dropped=dropped,
    )


def _measured(
    config: Config,
    metrics: Sequence[Chosen],
    answers: Sequence[Answer],
    truths: Sequence[Answer],
    resamples: int,
) -> dict[str, Interval]:
    """All metrics' figures; one whose name is taken already is called after its metric."""
    found: dict[str, Interval] = {}
    for chosen in metrics:
        predictions, references = selection.values_of(config, chosen.name, answers, truths)
        options = selection.options_of(config, chosen)
        figures = intervals(chosen.name, predictions, references, resamples=resamples, **options)
        for name, interval in figures.items():
            if name not in found:
                found[name] = interval
            elif found[name].value != interval.value:
                found[f"{chosen.name}_{name}"] = interval
    return found


def as_json(config: Config, answered: Answered) -> dict[str, Any]:
    """What an evaluation says of a split's answers. Of its examples some may have been too long to
    be read at all (`examples_dropped`) or whole (`examples_cut`), and some answers to be written
    whole (`answers_cut`)."""
    cut = {
        "examples_dropped": answered.dropped,
        "examples_cut": sum(1 for answer in answered.answers if answer.get("left_out")),
        "answers_cut": sum(a.get("finish_reason") == "length" for a in answered.answers),
    }
    result: dict[str, Any] = {"examples": len(answered.examples)}
    result |= {name: count for name, count in cut.items() if count}
    result |= {name: _number(figure.value) for name, figure in answered.figures.items()}
    bounds = {n: [_number(f.low), _number(f.high)] for n, f in answered.figures.items()}
    if any(low is not None for low, _ in bounds.values()):
        result["intervals"] = bounds
    result["measured_by"] = {
        chosen.name: _described(config, chosen, answered) for chosen in answered.metrics
    }
    if answered.search is not None:
        result["search"] = dataclasses.asdict(answered.search)
    if answered.kind == "classification":
        found, wanted = ([one["label"] for one in some]
                         for some in (answered.answers, answered.truths))  # fmt: skip
        labels = config.objective.labels  # type: ignore[union-attr]
        result["classes"] = each_class(found, wanted, labels)
        matrix = confusion_matrix(found, wanted, labels)[1]
        result["confusion"] = {"labels": list(labels), "actual_by_predicted": matrix.tolist()}
    if answered.trivial is not None:
        loss = {} if answered.trivial.loss is None else {"loss": answered.trivial.loss}
        floor = {name: _number(value) for name, value in answered.floor.items()}
        result["baseline"] = {"what": answered.trivial.what, **loss, **floor}
    return result


def _described(config: Config, chosen: Chosen, answered: Answered) -> dict[str, Any]:
    """A metric's options; of BLEU also what sacrebleu asks papers to say."""
    options = selection.options_of(config, chosen)
    if chosen.name != "bleu":
        return options
    _, references = selection.values_of(config, "bleu", answered.answers, answered.truths)
    return {**options, "signature": bleu_signature(references, **options)}


def _number(value: float) -> float | None:
    """As JSON has numbers: none that are not finite."""
    return value if math.isfinite(value) else None
