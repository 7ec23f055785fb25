"""What parity of objectives is measured with: batches from text, lm's loss, the reference's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file

from lm.config import ModelConfig
from lm.data.rows import stack
from lm.data.tokenizers.base import TokenizerBase
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
