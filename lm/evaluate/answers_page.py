"""An evaluation as a page: figures with their intervals beside those without a model, the confusion
matrix, calibration, and the examples worth looking at."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lm import config as configs
from lm.evaluate import html, svg
from lm.evaluate.answers import Answered
from lm.evaluate.html import Html, element
from lm.evaluate.metrics.calibration import BINS
from lm.evaluate.metrics.calibration import reliability as bins_of
from lm.evaluate.worst import worst
from lm.train.workdir import Run

# A matrix of more classes is not readable; the table of classes has them all.
MOST_CLASSES = 24
# What figures are called, where their name is not enough, and in what they are.
_NAMES = {
    "f1": "F1",
    "f1_macro": "F1, mean over classes",
    "f1_micro": "F1, over all classes",
    "f1_weighted": "F1, mean weighted by class",
    "matthews": "Matthews' correlation",
    "expected_calibration_error": "expected calibration error",
    "maximum_calibration_error": "largest calibration error",
    "confidence": "mean confidence",
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's rank correlation",
    "mean_squared_error": "mean squared error",
    "exact_match": "exact match",
    "chrf": "chrF (%)",
    "bleu": "BLEU (%)",
    "bleu_tokenised": "BLEU of tokens (%)",
    "brevity_penalty": "brevity penalty",
    "length_ratio": "length, as a share of the references'",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-L of sentences",
}
# Terms of the loss that say more than they stand for.
_TERMS = ("loss", "perplexity", "bits_per_byte")


def evaluation_page(
    run: Run,
    splits: Mapping[str, Mapping[str, Any]],
    answered: Mapping[str, Answered],
    command: Sequence[str],
) -> str:
    """The page of what `lm.evaluate.validation.evaluate_run` found."""
    objective = run.config.objective
    what = "a converted model" if objective is None else objective.name.replace("_", " ")
    parts: list[Any] = [
        element("h1", run.workdir.absolute().name),
        element("p", f"{what}, {run.config.model.architecture.replace('_', '-')}, checkpoint of "
                f"step {run.step:,}", kind="small"),
    ]  # fmt: skip
    for name, result in splits.items():
        parts += list(_split(name, result, answered.get(name)))
    parts += [element("h2", "How it was measured"), html.code(shlex.join(command))]
    for name, result in splits.items():
        measured = {key: result[key] for key in ("measured_by", "search") if key in result}
        if measured:
            parts.append(html.details(f"Metrics and search: {name}", html.values(measured)))
    parts.append(html.details("Config of the run", html.values(configs.to_dict(run.config))))
    return html.page(f"{run.workdir.absolute().name}: evaluation", *parts)


def _split(name: str, result: Mapping[str, Any], answered: Answered | None) -> Iterator[Html]:
    yield element("h2", name)
    if answered is not None:
        yield _verdict(result, answered)
    yield _figures(result, answered)
    if "confusion" in result:
        yield from _classes(result)
    if answered is not None:
        yield from _charts(answered)
        for shown in worst(answered):
            yield element("h3", shown.title)
            if shown.note:
                yield element("p", shown.note, kind="small")
            if shown.rows:
                yield shown.table()


def _verdict(result: Mapping[str, Any], answered: Answered) -> Html:
    """The first metric in a sentence, with its interval, beside the answers without a model."""
    first = next(iter(answered.figures))
    said = f"{_name(first)}: {html.number(result[first])}"
    if "intervals" in result:
        low, high = map(html.number, result["intervals"][first])
        said += f" (95 % interval {low} to {high})"
    said += f", over {len(answered.examples):,} examples."
    if answered.trivial is not None:
        floor = html.number(answered.floor.get(first))
        said += f" Without a model ({answered.trivial.what}): {floor}."
    notes = []
    if count := result.get("examples_dropped"):
        notes.append(f"{count:,} more were too long, and are left out.")
    if count := result.get("examples_cut"):
        notes.append(f"{count:,} examples were too long to be read whole.")
    if count := result.get("answers_cut"):
        notes.append(f"{count:,} outputs were too long to be written whole.")
    return element("p", " ".join([said[0].upper() + said[1:], *notes]), kind="lead")


def _name(figure: str) -> str:
    return _NAMES.get(figure, figure.replace("_", " "))


def _figures(result: Mapping[str, Any], answered: Answered | None) -> Html:
    """Every figure: its value, interval, and that without a model."""
    figures = [] if answered is None else list(answered.figures)
    terms = _TERMS if figures else [k for k, v in result.items() if isinstance(v, (int, float))]
    bounds, floor = result.get("intervals", {}), result.get("baseline", {})
    rows = []
    for figure in [*figures, *(term for term in terms if term in result and term not in figures)]:
        low, high = bounds.get(figure, (None, None))
        interval = "" if low is None else f"{html.number(low)} to {html.number(high)}"
        row = [_name(figure), result[figure], interval]
        rows.append([*row, floor.get(figure)] if floor else row)
    head = ["", "value", "95 % interval", *(["without a model"] if floor else [])]
    caption = "Intervals: bootstrap over examples." if bounds else ""
    return html.table(head, rows, caption=caption, numbers=range(1, len(head)))


def _classes(result: Mapping[str, Any]) -> Iterator[Html]:
    found = result["confusion"]
    labels, matrix = found["labels"], found["actual_by_predicted"]
    yield element("h3", "Classes")
    if len(labels) <= MOST_CLASSES:
        yield html.figure(
            svg.confusion(labels, matrix),
            "How often each class (row) was taken for each (column): examples, and their share of "
            "the row.",
        )
    rows = [
        (name, one["precision"], one["recall"], one["f1"], f"{one['examples']:,}")
        for name, one in result["classes"].items()
    ]
    yield html.table(("class", "precision", "recall", "F1", "examples"), rows, numbers=range(1, 5))


def _charts(answered: Answered) -> Iterator[Html]:
    if answered.kind in ("classification", "multiple_choice"):
        sure, right = [], []
        for truth, answer in zip(answered.truths, answered.answers):
            p = answer["probabilities"]
            sure.append(max(p.values() if isinstance(p, Mapping) else p))
            right.append(float(truth["label"] == answer["label"]))
        bins = bins_of(np.minimum(np.array(sure), 1.0), np.array(right), BINS)
        yield element("h3", "Calibration")
        yield html.figure(
            svg.reliability(bins.examples.tolist(), bins.confidence.tolist(), bins.right.tolist()),
            "Share of right answers by confidence. Bars below the dashed line: the model is surer "
            "than it should be. The darker a bar, the more examples it has.",
        )
    elif answered.kind == "regression":
        actual, found = ([one["value"] for one in some]
                         for some in (answered.truths, answered.answers))  # fmt: skip
        yield element("h3", "Predicted and actual")
        yield html.figure(
            svg.scatter(actual, found), "On the dashed line a prediction is exactly right."
        )
