"""A classifier that was trained here, as transformers loads it: label by label, name by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from lm.cli.main import main
from lm.config import Classification, TokenClassification
from lm.data.examples_read import Example
from lm.objectives.tasks.predictions import predictions
from lm.train.workdir import load_run
from tests.export.runs import ENCODER, make_run
from tests.parity.errors import TOLERANCE

LABELS = ("bad", "fair", "good")
TEXTS = ("so be it", "a cat")


def exported(tmp_path: Path, task: Any) -> tuple[Any, str]:
    """The run, and its folder."""
    workdir, out = make_run(tmp_path / "W", ENCODER, task), tmp_path / "out"
    command = ["export", f"--workdir={workdir}", f"--output={out}", "--format=huggingface"]
    assert main(command) == 0
    return load_run(workdir), str(out)


def answers(run: Any, *examples: dict[str, Any]) -> list[dict[str, Any]]:
    maker = run.objective.example_maker(run.tokenizer, run.config.data)
    given = [Example(values, "an example") for values in examples]
    found = predictions(run.objective, run.trained, maker, given, batch_size=2)
    return [answer for _, answer in found]


@pytest.mark.parametrize("several", [False, True])
def test_a_text_or_a_pair_gets_the_same_label(tmp_path: Path, several: bool) -> None:
    task = Classification(labels=LABELS, multi_label=several)
    run, folder = exported(tmp_path, task)
    classify = transformers.pipeline("text-classification", model=folder, top_k=None)
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    for wanted, given in zip(answers(run, {"text": TEXTS[0]}, pair), (TEXTS[0], pair), strict=True):
        # Of several labels none depends on another; the reference knows it by problem_type.
        said = classify(given)
        # Of a text it is a list in a list, of a pair not.
        scores = said[0] if isinstance(said[0], list) else said
        found = {one["label"]: one["score"] for one in scores}
        assert found == pytest.approx(wanted["probabilities"], abs=TOLERANCE)


def test_words_get_the_same_tags(tmp_path: Path) -> None:
    run, folder = exported(tmp_path, TokenClassification(labels=LABELS))
    tag = transformers.pipeline("token-classification", model=folder)
    [wanted] = answers(run, {"words": TEXTS[0].split()})
    found = {one["start"]: one for one in tag(TEXTS[0])}
    begins = np.cumsum([0, *(len(word) + 1 for word in TEXTS[0].split()[:-1])])
    assert [found[begin]["entity"] for begin in begins] == wanted["tags"]
    scores = [float(found[begin]["score"]) for begin in begins]
    assert scores == pytest.approx(wanted["probabilities"], abs=TOLERANCE)
