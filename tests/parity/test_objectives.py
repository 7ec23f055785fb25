"""Every objective's loss and its gradient are transformers' on the same corrupted batch.

The batch is the objective's own, from text; what the reference needs to know of it is said here in
the reference's words: labels, permutations and masks as its documentation asks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from lm.config import (
    CausalLM,
    Denoising,
    MaskedLM,
    MixtureOfDenoisers,
    ObjectiveConfig,
    PermutationLM,
    PrefixLM,
    SpanCorruption,
)
from lm.objectives import build_objective
from tests.parity.cases import IGNORED, Case, Inputs
from tests.parity.lessons import (
    Arrays,
    Batch,
    Reference,
    batch_of,
    case_of,
    check,
    labels_of,
    loss_of,
    masked,
    pretraining,
    texts_apart,
)


def causal(batch: Batch) -> Inputs:
    """The reference compares each logit with the label one place on: a last token is added."""
    inputs = texts_apart(batch, labels=labels_of(batch))
    added = {"input_ids": (0, 1), "attention_mask": (0, 1), "labels": (1, 0)}
    return {
        name: np.pad(x, ((0, 0), added[name]), constant_values=IGNORED if name == "labels" else 0)
        for name, x in inputs.items()
    }


def prefix(batch: Batch) -> Inputs:
    """The mask in full, as numbers to add to the scores."""
    inputs = causal(batch)
    rows, length = inputs["input_ids"].shape
    mask = np.full((rows, 1, length, length), np.finfo(np.float32).min)
    for row, seen in enumerate(batch["prefix_length"].tolist()):
        for i in range(length):
            mask[row, 0, i, : max(seen, i + 1)] = 0
    return {**inputs, "attention_mask": mask}


def pair(batch: Batch) -> Inputs:
    """The reference makes the decoder's inputs of the labels."""
    return {
        "input_ids": batch["source"].astype(np.int64),
        "attention_mask": (batch["source_positions"] >= 0).astype(np.int64),
        "labels": labels_of(batch),
    }


def permuted(batch: Batch) -> Inputs:
    rank, predicted = batch["rank"], batch["predicted"]
    rows, length = rank.shape
    hidden = np.ones((rows, length, length), np.float32)
    for row in range(rows):
        for i in range(length):
            for j in range(length):
                equal = rank[row, j] == rank[row, i] and not predicted[row, i]
                hidden[row, i, j] = not (rank[row, j] < rank[row, i] or equal)
    # The reference adds up the queries that are at one place: those without a weight are at none.
    places = np.eye(length, dtype=np.float32)[batch["query_at"]] * batch["weights"][..., None]
    return {
        "input_ids": batch["tokens"].astype(np.int64),
        "attention_mask": (batch["positions"] >= 0).astype(np.int64),
        "perm_mask": hidden,
        "target_mapping": places,
        "labels": labels_of(batch),
    }


@dataclass(frozen=True)
class Lesson:
    """An objective for one of the reference's models; `parts`: terms that other classes of the
    reference's have alone, with the task and the labels of each."""

    name: str
    case: Case
    objective: ObjectiveConfig
    inputs: Callable[[Batch], Inputs]
    packed: bool = False
    parts: dict[str, tuple[str, str, str]] = field(default_factory=dict)


PARTS = {
    "loss": ("BertForMaskedLM", "masked", "labels"),
    "pair_loss": ("BertForNextSentencePrediction", "next", "next_sentence_label"),
}
NEXT, ORDER = MaskedLM(pairs="next_sentence"), MaskedLM(pairs="sentence_order")
MEMORY = PermutationLM(num_predict=12, reuse_length=6)
SEQ2SEQ: tuple[tuple[str, str, ObjectiveConfig], ...] = (
    ("span-corruption", "t5", SpanCorruption()),
    ("mixture", "t5-v1.1", MixtureOfDenoisers()),
    ("denoising", "bart", Denoising()),
    ("prefix", "bart", PrefixLM()),
)
LESSONS = (
    Lesson("causal", case_of("gpt2"), CausalLM(), causal),
    Lesson("causal-packed", case_of("gpt2"), CausalLM(), causal, packed=True),
    Lesson("prefix", case_of("gpt2"), PrefixLM(), prefix),
    Lesson("next-sentence", case_of("bert"), NEXT, pretraining, parts=PARTS),
    Lesson("sentence-order", case_of("bert"), ORDER, pretraining, parts=PARTS),
    Lesson("masked", case_of("roberta"), MaskedLM(wrap=True), masked),
    Lesson(
        "masked-packed", case_of("roberta"), MaskedLM(rate=0.3, exact=False), masked, packed=True
    ),
    *(Lesson(f"{name}-{of}", case_of(of), config, pair) for name, of, config in SEQ2SEQ),
    Lesson("permuted", case_of("xlnet"), PermutationLM(num_predict=12), permuted),
    Lesson("permuted-memory", case_of("xlnet"), MEMORY, permuted),
)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_loss_and_gradient(lesson: Lesson, tmp_path: Path) -> None:
    """On rows with padding: the terms, the total and every parameter's gradient."""
    theirs = Reference(lesson.case, tmp_path / "reference")
    objective = build_objective(lesson.objective, theirs.config)
    batch = batch_of(objective, packed=lesson.packed)
    inputs = lesson.inputs(batch)
    # There is something to predict, not everywhere; and pairs of both kinds.
    assert 4 < np.count_nonzero(inputs["labels"] != IGNORED) < inputs["labels"].size
    assert len(set(inputs.get("next_sentence_label", (0, 1)))) == 2

    means, gradients = loss_of(objective, theirs.parameters, batch)

    wanted: dict[bool, Arrays] = {}
    their_gradients: dict[bool, Arrays] = {}
    for double in (False, True):
        total, their_gradients[double] = theirs.loss(inputs, double=double)
        wanted[double] = {"total": total}
        for term, (model, task, labels) in lesson.parts.items():
            own = {name: x for name, x in inputs.items() if "label" not in name}
            own["labels"] = inputs[labels]
            wanted[double][term] = theirs.as_class(model, task, own, double=double)
    check("loss", {name: means[name] for name in wanted[True]}, wanted[False], wanted[True])
    check("gradient", gradients, their_gradients[False], their_gradients[True])
