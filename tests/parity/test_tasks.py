"""Every task's loss and its gradient are those of transformers' class on the same rows. The head is
the converted model's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.config import (
    ByteTokenizer,
    Classification,
    DataConfig,
    MultipleChoice,
    QuestionAnswering,
    TaskConfig,
    TokenClassification,
)
from lm.data.examples_read import Example
from lm.data.rows import stack
from lm.objectives import build_objective
from tests.parity.cases import IGNORED, Inputs
from tests.parity.lessons import Arrays, Batch, Letters, Reference, case_of, check, loss_of

LENGTH = 20
SEQUENCE = Classification(labels=("a", "b", "c"))
TOKENS = TokenClassification(labels=("a", "b", "c"))
SPANS = QuestionAnswering(stride=6, max_question_tokens=8, unanswerable=True)
CHOICES = MultipleChoice(choices=2)

TEXTS = [("a cat sat.", "why", "b"), ("it was night", "a dog ran", "c"), ("no", "so be it.", "a")]
ALONE = [{"text": text, "label": label} for text, _, label in TEXTS]
PAIRS = [{"text": text, "text_pair": other, "label": label} for text, other, label in TEXTS]
WORDS = [
    {"words": ["a", "cat", "sat"], "tags": ["b", "a", "c"]},
    {"words": ["no", "one"], "tags": "a a"},
]
QUESTIONS = [
    {
        "question": "who ran",
        "context": "no cat sat. a dog ran by.",
        "answers": [{"text": "dog", "answer_start": 14}],
    },
    {"question": "why", "context": "so it is", "answers": []},
]
CHOSEN = [
    {"text": "a cat", "choices": ["sat.", "rain"], "label": 1},
    {"text": "why", "choices": ["so be it.", "no"], "label": 0},
]
CASES: dict[str, tuple[TaskConfig, list[dict[str, Any]]]] = {
    "bert-sequence": (SEQUENCE, PAIRS),
    "roberta-sequence": (SEQUENCE, ALONE),
    "xlnet-sequence": (SEQUENCE, PAIRS),
    "gpt2-sequence": (SEQUENCE, ALONE),
    "bart-sequence": (SEQUENCE, ALONE),
    "bert-token": (TOKENS, WORDS),
    "bert-span": (SPANS, QUESTIONS),
    "bert-choice": (CHOICES, CHOSEN),
}


class Spelled(Letters):
    """With the character that each token is."""

    def encode_with_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        return self.encode(text), [(i, i + 1) for i in range(len(text))]


def batch_of(objective: Any, examples: list[dict[str, Any]]) -> Batch:
    data = DataConfig(train={}, tokenizer=ByteTokenizer(), sequence_length=LENGTH)
    maker = objective.example_maker(Spelled(), data)
    made = [maker(Example(values, "example"), labelled=True) for values in examples]
    return stack([row for one in made for row in one.rows])


def inputs_of(task: TaskConfig, batch: Batch) -> Inputs:
    """The batch in the reference's words."""
    inputs = {
        "input_ids": batch["tokens"].astype(np.int64),
        "attention_mask": (batch["positions"] >= 0).astype(np.int64),
    }
    if "token_types" in batch:
        inputs["token_type_ids"] = batch["token_types"].astype(np.int64)
    if task is SPANS:
        places = {f"{end}_positions": batch[end].astype(np.int64) for end in ("start", "end")}
        return {**inputs, **places}
    labels = batch["labels"].astype(np.int64)
    if task is TOKENS:
        labels = np.where(batch["weights"] > 0, labels, IGNORED)
    return {**inputs, "labels": labels}


@pytest.mark.parametrize("name", CASES)
def test_a_task_is_the_reference_s(name: str, tmp_path: Path) -> None:
    task, examples = CASES[name]
    position = "n_positions" if name.startswith("gpt2") else "max_position_embeddings"
    more = {position: 2 * LENGTH + 2} if position in case_of(name).config else {}
    theirs = Reference(case_of(name, **more), tmp_path, seed=3)
    objective = build_objective(task, theirs.config)
    assert objective.model.config == theirs.config, "the converted model has the task's head"
    batch = batch_of(objective, examples)
    inputs = inputs_of(task, batch)
    if name.startswith("xlnet"):
        # It has its padding on the left; distances are all that it knows of places.
        missing = (inputs["attention_mask"] == 0).sum(axis=1)
        for key in ("input_ids", "attention_mask", "token_type_ids"):
            inputs[key] = np.stack([np.roll(x, n) for x, n in zip(inputs[key], missing)])
    means, gradients = loss_of(objective, theirs.parameters, batch)

    def of(loss: np.ndarray, gradients: Arrays) -> Arrays:
        return {"loss": loss, **gradients}

    single, double = (theirs.loss(inputs, double=double) for double in (False, True))
    check(name, of(means["loss"], gradients), of(*single), of(*double))
