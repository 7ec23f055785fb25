"""ELECTRA's losses and gradient are those of transformers' two models on the same batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lm.config import (
    ReplacedTokens,
)
from lm.objectives import build_objective
from tests.parity import reference
from tests.parity.cases import IGNORED, Inputs
from tests.parity.lessons import (
    Arrays,
    Letters,
    Reference,
    batch_of,
    case_of,
    check,
    loss_of,
    masked,
    texts_apart,
)

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
