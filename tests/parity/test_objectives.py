"""Every objective's loss and its gradient are transformers' on the same corrupted batch.

The batch is the objective's own, from text; what the reference needs to know of it is said here in
the reference's words: labels, permutations and masks as its documentation asks for them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lm.config import (
    CausalLM,
    Denoising,
    MaskedLM,
    MixtureOfDenoisers,
    ModelConfig,
    ObjectiveConfig,
    PermutationLM,
    PrefixLM,
    ReplacedTokens,
    SpanCorruption,
)
from lm.data.rows import stack
from lm.data.tokenizers.base import TokenizerBase
from lm.objectives import build_objective
from tests.parity import ours, reference
from tests.parity.cases import CASES, IGNORED, Case, Inputs
from tests.parity.errors import errors

Arrays = dict[str, np.ndarray]
Batch = dict[str, np.ndarray]

# No sum is longer than the tolerance allows for: 64 tokens a batch, and fewer in the vocabulary.
LENGTH = 16
VOCABULARY = 48
DOCUMENTS = [
    "the cat sat on it. a dog ran by. no one saw.",
    "why not. so be it.",
    "rain fell all day. then it was night. we went in.",
    "a red fox.",
]


class Letters(TokenizerBase):
    """Four special tokens, and the characters of the documents."""

    kind = fingerprint = "character"
    pad_id, bos_id, eos_id, mask_id = 0, 1, 2, 3
    skipped = frozenset(range(4))
    spellings = ("<pad>", "<bos>", "<eos>", "<mask>", *" .abcdefghijklmnopqrstuvwxyz")
    vocab_size = len(spellings)

    def encode(self, text: str) -> list[int]:
        return [self.spellings.index(character) for character in text]

    def piece(self, token_id: int) -> str:
        return self.spellings[token_id]


# What decides how deep a model is, for those where a loss does not need more than one layer: the
# families' own tests have them deeper.
DEPTHS = (
    "num_hidden_layers",
    "num_layers",
    "num_decoder_layers",
    "encoder_layers",
    "decoder_layers",
)


def case_of(name: str, **config: Any) -> Case:
    """One of the harness's models, with this tokenizer's ids."""
    case = next(case for case in CASES if case.name == name)
    own = {"vocab_size": VOCABULARY, "pad_token_id": Letters.pad_id}
    shallow = {key: 1 for key in DEPTHS if key in case.config}
    return dataclasses.replace(case, config={**case.config, **own, **shallow, **config})


def batch_of(objective: Any, *, packed: bool = False) -> Batch:
    """Four rows of LENGTH, each of a document's beginning; or each of two, which do not see each
    other, and of padding."""
    maker = objective.row_maker(Letters(), LENGTH)
    texts = [np.asarray(Letters().encode(text), np.int32) for text in DOCUMENTS]
    rng = np.random.default_rng(0)
    joined = not packed and getattr(objective.config, "pairs", "none") == "none"
    rows = []
    for i, text in enumerate(texts):
        pieces = [text[: maker.positions + maker.lookahead]]
        if packed:
            pieces = [text[: 6 + i], texts[i - 1][4 : 8 + i]]
        rows.append(maker(pieces, rng, joined=joined, other=lambda rng, i=i: texts[i - 2]))
    return stack(rows)


def loss_of(objective: Any, parameters: Arrays, batch: Batch) -> tuple[Arrays, Arrays]:
    """Every term's mean, and "total"; the total's gradient by path."""

    @jax.jit
    def run(params: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            terms = objective.loss(params, batch, None, train=False)
            means = {name: term.sum / term.weight for name, term in terms.items()}
            return sum(terms[name].coefficient * x for name, x in means.items()), means

        (total, means), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return {**means, "total": total}, gradients

    means, gradients = jax.tree.map(np.asarray, run(ours.nested(parameters), batch))
    return means, ours.flat(gradients)


class Reference:
    """A folder of random numbers, what transformers computes of it, and the same model here."""

    def __init__(self, case: Case, folder: Path, seed: int = 0) -> None:
        self.case, self.folder = case, folder
        reference.make_folder(case, folder, seed)
        self.read()

    def read(self) -> None:
        """From the folder, as it is now."""
        self.tensors = load_file(self.folder / reference.WEIGHTS)
        values = json.loads((self.folder / reference.CONFIG).read_text())
        self.converted = ours.convert(self.case, values, self.tensors)
        self.parameters = self.converted.to_lm(self.tensors)

    @property
    def config(self) -> ModelConfig:
        return self.converted.config

    def loss(self, inputs: Inputs, *, double: bool) -> tuple[np.ndarray, Arrays]:
        """The loss, and its gradient by our paths."""
        found = reference.compute(self.case, self.folder, inputs, double=double)
        return found.outputs["loss"], self.converted.to_lm(found.gradients)

    def as_class(self, model: str, task: Any, inputs: Inputs, *, double: bool) -> np.ndarray:
        """The loss of another of the reference's classes, from the same folder."""
        case = dataclasses.replace(self.case, model=model, task=task)
        return reference.compute(case, self.folder, inputs, double=double).outputs["loss"]


def check(kind: str, found: Arrays, single: Arrays, double: Arrays) -> None:
    wrong = {name: e for name, e in errors(found, single, double).items() if not e.good}
    assert not wrong, (kind, wrong)


# The reference's words for what is in a batch.


def labels_of(batch: Batch) -> np.ndarray:
    return np.where(batch["weights"] > 0, batch["targets"], IGNORED).astype(np.int64)


def texts_apart(batch: Batch, **arrays: np.ndarray) -> Inputs:
    """Each text of a batch as a row of its own, with an attention_mask."""
    arrays = {"input_ids": batch["tokens"], **arrays}
    if "token_types" in batch:
        arrays["token_type_ids"] = batch["token_types"]
    texts = batch.get("segment_ids")
    if texts is None:
        texts = batch["positions"] >= 0 if "positions" in batch else batch["weights"] > 0
    where = [
        (row, texts[row] == i) for row in range(len(texts)) for i in np.unique(texts[row]) if i
    ]
    longest = max(int(mask.sum()) for _, mask in where)
    arrays["attention_mask"] = np.ones_like(batch["tokens"])

    def apart(name: str, x: np.ndarray) -> np.ndarray:
        filled = np.full((len(where), longest), IGNORED if name == "labels" else 0, np.int64)
        for i, (row, mask) in enumerate(where):
            filled[i, : mask.sum()] = x[row, mask]
        return filled

    return {name: apart(name, x) for name, x in arrays.items()}


def masked(batch: Batch) -> Inputs:
    return texts_apart(batch, labels=labels_of(batch))


def pretraining(batch: Batch) -> Inputs:
    follows = np.where(batch["pair_weights"] > 0, 1 - batch["is_next"], IGNORED).astype(np.int64)
    return {**masked(batch), "next_sentence_label": follows}


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


TABLES = ("token_embedding", "position_embedding", "token_type_embedding")
COEFFICIENT = 50.0


class Electra:
    """ELECTRA in the reference: a narrower generator, with the same tables."""

    def __init__(self, task: str, folder: Path) -> None:
        model = "electra" if task == "replaced" else "electra-generator"
        small = {"hidden_size": 12, "intermediate_size": 20}
        # A generator that is right at some places.
        self.generator = Reference(case_of("electra-generator", **small), folder / "small", seed=14)
        self.discriminator = Reference(case_of(model), folder / "large", seed=2)
        small_ones, large_ones = self.generator.tensors, self.discriminator.tensors
        tables = {n: x for n, x in small_ones.items() if "embeddings." in n and x.ndim == 2}
        assert len(tables) == len(TABLES) and set(tables) <= set(large_ones)
        weights = self.discriminator.folder / reference.WEIGHTS
        save_file({**large_ones, **tables}, weights, metadata={"format": "pt"})
        self.discriminator.read()

    @property
    def parameters(self) -> Arrays:
        return together(self.generator.parameters, self.discriminator.parameters)

    def sample(self, inputs: Inputs) -> np.ndarray:
        """The likeliest token at every place."""
        found = reference.outputs(self.generator.case, self.generator.folder, inputs)
        return found["logits"].argmax(-1)

    def loss(self, small: Inputs, large: Inputs, *, double: bool) -> tuple[Arrays, Arrays]:
        """The terms and the gradient of the total; a table's is the sum of both its uses'."""
        generator, gradients = self.generator.loss(small, double=double)
        model, rest = self.discriminator.loss(large, double=double)
        rest = {name: COEFFICIENT * x for name, x in rest.items()}
        for name, x in gradients.items():
            if name.startswith(TABLES):
                rest[name] = rest[name] + x
        total = generator + COEFFICIENT * model
        terms = {"generator_loss": generator, "loss": model, "total": total}
        return terms, together(gradients, rest)


def together(generator: Arrays, model: Arrays) -> Arrays:
    own = {f"generator/{n}": x for n, x in generator.items() if not n.startswith(TABLES)}
    return {**own, **{f"discriminator/{name}": x for name, x in model.items()}}


@pytest.mark.parametrize("task", ["replaced", "original", "all_originals"])
def test_replaced_tokens(task: Any, tmp_path: Path) -> None:
    """Both models' losses, metrics, and the gradient of their sum. The reference corrupts the
    tokens itself: sampling at next to no temperature takes the likeliest."""
    theirs = Electra(task, tmp_path)
    config = ReplacedTokens(
        generator=theirs.generator.config,
        rate=0.5,
        wrap=True,
        coefficient=COEFFICIENT,
        temperature=1e-6,
        task=task,
    )
    objective = build_objective(config, theirs.discriminator.config)
    batch = batch_of(objective)
    small = masked(batch)
    real, chosen = small["attention_mask"] > 0, small["labels"] != IGNORED
    original = texts_apart(batch, labels=batch["targets"])["labels"]
    corrupted = np.where(chosen, theirs.sample(small), np.where(real, original, Letters.pad_id))
    replaced = corrupted != original
    labels = {
        "replaced": replaced.astype(np.int64),
        "original": small["labels"],
        "all_originals": original,
    }[task]
    large = {**small, "input_ids": corrupted, "labels": labels}
    assert not real.all() and 0 < np.count_nonzero(replaced & real) < np.count_nonzero(chosen)

    means, gradients = loss_of(objective, theirs.parameters, batch)

    single, double = (theirs.loss(small, large, double=double) for double in (False, True))
    check("loss", {name: means[name] for name in double[0]}, single[0], double[0])
    check("gradient", gradients, single[1], double[1])
    if task == "replaced":
        folder = theirs.discriminator.folder
        found = reference.outputs(theirs.discriminator.case, folder, large)["logits"] > 0
        for name, values in (
            ("accuracy", found == replaced),
            ("replaced", replaced),
            ("found", found),
            ("detected", found & replaced),
        ):
            assert means[name] * real.sum() == pytest.approx(np.count_nonzero(values & real))
