"""The examples of a split with their right answers; and other data in the place of a run's own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from glob import escape
from pathlib import Path
from typing import Any

from lm.config import (
    CleanConfig,
    Config,
    Embedded,
    ExampleFiles,
    JsonlFiles,
    Source,
    TaskBase,
    TextFiles,
    TfdsDataset,
)
from lm.data.examples_read import Example, read_examples
from lm.data.files import find_files, read_lines
from lm.data.sources import describe
from lm.data.store import document_store
from lm.errors import ConfigError, UserError, did_you_mean
from lm.evaluate.selection import Answer, kind_of
from lm.objectives.base import TaskObjective
from lm.objectives.tasks.instruction import ANSWERS, messages_of
from lm.train.workdir import Run

# ------------------------------------------------------------------------------------- other data


def narrowed(config: Config, split: str | None, path: str | None, target: str | None) -> Config:
    """The config with those validation splits alone that are to be evaluated: all of them, the one
    named `split`, or the file `path`, in the form that the split has, under its path's name.

    Args:
      path: relative to the current folder where it is there, else below the data root. What is
        too long in it is cut where data.too_long is "error".
      target: the file with the targets of `path`, where they are in files apart.

    Raises:
      ConfigError: no such split; a target that has no place, or that is missing; splits of several
        forms and none named; no split whose form there would be.
    """
    validation = dict(config.data.validation)
    if split is not None:
        if split not in validation:
            raise ConfigError(
                f"--split={split} is not in data.validation{did_you_mean(split, validation)}"
            )
        validation = {split: validation[split]}
    if path is None:
        if target is not None:
            raise ConfigError("--target has the targets of --input: give that too")
    else:
        if not path or target == "":
            raise ConfigError("--input= or --target= names no file")
        validation = {path: _of_file(config, validation, path, target)}
    # What a fold holds out is in its source; it need not be named again.
    data = dataclasses.replace(config.data, validation=validation, fold=None)
    rows_apart = any(source.has_target or source.has_examples for source in validation.values())
    if path is not None and rows_apart and data.too_long == "error":
        # Said in a note, with how many.
        data = dataclasses.replace(data, too_long="cut")
    evaluation = dataclasses.replace(config.evaluation, every=None, early_stopping=None)
    return dataclasses.replace(config, data=data, evaluation=evaluation)


def _of_file(
    config: Config, validation: Mapping[str, Source], path: str, target: str | None
) -> Source:
    named = {"paths": (_found(path),)}
    if target is not None:
        named["target_paths"] = (_found(target),)
    forms = [_with_files(config, source, named) for source in validation.values()]
    if not forms:
        forms = [_with_files(config, source, named) for source in config.data.train.values()]
    if not forms:
        forms = [_with_files(config, None, named)]
    if any(form != forms[0] for form in forms):
        raise ConfigError(
            f"--input={path}: the run's validation splits have several forms: say which one the "
            f"file has, with --split={next(iter(validation), 'NAME')}"
        )
    if isinstance(forms[0], TextFiles):
        needed = kind_of(config) == "sequence_to_sequence"
        if needed != (target is not None):
            raise ConfigError(
                f"--input={path}: its targets are in a file apart: name it with --target="
                if needed
                else f"--target={target}: the run learned from texts without targets"
            )
    elif target is not None:
        raise ConfigError(
            f"--target={target}: in this run's data (kind {forms[0].kind!r}) a text and its target "
            "are in one file: leave --target out"
        )
    return forms[0]


def _with_files(config: Config, source: Source | None, named: dict[str, Any]) -> Source:
    """The source with other files; of one without files, or none, the plainest form there is."""
    whole: dict[str, Any] = {"weight": 1.0, "fraction": (0.0, 1.0), "fold": None}
    if source is None or isinstance(source, (Embedded, TfdsDataset)):
        if isinstance(config.objective, TaskBase):
            return ExampleFiles(paths=named["paths"])
        if "target_paths" in named:
            return TextFiles(document="line", **named)
        if kind_of(config) == "sequence_to_sequence":
            return JsonlFiles(target_field="target", **named)
        return TextFiles(**named)
    if isinstance(source, TextFiles):
        return dataclasses.replace(source, **whole, **{"target_paths": (), **named})
    return dataclasses.replace(source, **whole, paths=named["paths"])


def _found(path: str) -> str:
    """As the data root's sources name files: what is here by its whole path."""
    here = Path(path).expanduser()
    return escape(str(here.absolute())) if here.exists() else path


# --------------------------------------------------------------------------------- right answers


def labelled(
    run: Run, config: Config, source: Source, data_root: Path, cache_dir: Path
) -> Iterator[tuple[Example, Answer]]:
    """The examples of a source, in order, and the right answer to each.

    Raises:
      UserError: an example without one; what is wrong with the source.
    """
    objective = config.objective
    if not isinstance(objective, TaskBase):
        yield from _pairs(source, data_root, cache_dir)
        return
    for example in read_examples(source, objective.roles(source), data_root):
        yield example, truth(run, example)


def truth(run: Run, example: Example) -> Answer:
    """The right answer to an example of a task."""
    if isinstance(run.objective, TaskObjective):
        return run.objective.truth(example)
    last = messages_of(example)[-1]
    if last["role"] != ANSWERS:
        raise UserError(
            f"{example.place}: the last message is of {last['role']!r}, so there is no answer of "
            f"{ANSWERS!r} to compare with"
        )
    return {"texts": [last["content"]]}


def _pairs(source: Source, data_root: Path, cache_dir: Path) -> Iterator[tuple[Example, Answer]]:
    """Documents and their targets; all alternatives of a target that has some."""
    name = describe(source, data_root)
    others = _alternatives(source, data_root)
    store = document_store(source, data_root, cache_dir)
    for number, document in enumerate(store.slice(*source.fraction), 1):
        text, target = document["text"], document["target"]
        place = f"{name}, pair {number}"
        yield Example({"text": text}, place), {"texts": others.get((text, target), [target])}


def _alternatives(source: Source, data_root: Path) -> dict[tuple[str, str], list[str]]:
    """By (text, first target) all targets of a jsonl source that has lists of them. A source that
    is cleaned has other texts than its files, and so the first target alone."""
    if not isinstance(source, JsonlFiles) or source.clean != CleanConfig():
        return {}
    found: dict[tuple[str, str], list[str]] = {}
    for path in find_files(source.paths, data_root):
        for _, line in read_lines(path):
            row = json.loads(line) if line.strip() else {}
            text: Any = row.get(source.field)
            targets: Any = row.get(source.target_field)
            if isinstance(targets, list) and len(targets) > 1:
                found[" ".join(text) if isinstance(text, list) else text, targets[0]] = targets
    return found
