"""Weighted losses are torch's CrossEntropyLoss(weight=...), of texts and of words."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import linen as nn

from lm.config import Classification, TokenClassification
from lm.objectives import build_objective
from tests.objectives.cases import ENCODER, on_device
from tests.parity.cases import IGNORED
from tests.parity.test_tasks import ALONE, WORDS, batch_of

WEIGHTS = (0.3, 2.0, 1.1)
CASES: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "texts": (Classification(labels=("a", "b", "c"), class_weights=WEIGHTS), ALONE),
    "words": (TokenClassification(labels=("a", "b", "c"), class_weights=WEIGHTS), WORDS),
}


@pytest.mark.parametrize("name", CASES)
def test_the_loss_and_its_gradient_are_torch_s(name: str) -> None:
    task, examples = CASES[name]
    objective: Any = build_objective(task, dataclasses.replace(ENCODER, vocab_size=48))
    batch = on_device(batch_of(objective, examples))
    params = nn.meta.unbox(objective.init(jax.random.key(0), batch))
    rng = np.random.default_rng(0)
    kind = objective.model.config.heads[0].kind
    kernel = rng.normal(size=params[kind]["kernel"].shape).astype(np.float32)

    def loss(kernel: Any) -> Any:
        whole = {**params, kind: {**params[kind], "kernel": kernel}}
        term = objective.loss(whole, batch, None, train=True)["weighted_loss"]
        return term.sum / term.weight, objective.logits(whole, batch)

    (value, logits), gradient = jax.value_and_grad(loss, has_aux=True)(kernel)
    labels = np.where(np.asarray(batch["weights"]) > 0, batch["labels"], IGNORED).reshape(-1)
    criterion = torch.nn.CrossEntropyLoss(torch.tensor(WEIGHTS), ignore_index=IGNORED)
    theirs = torch.tensor(np.asarray(logits).reshape(-1, 3), requires_grad=True)
    expected = criterion(theirs, torch.tensor(labels, dtype=torch.int64))
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    back = jax.vjp(lambda k: loss(k)[1], kernel)[1]
    (by_torch,) = back(np.asarray(theirs.grad).reshape(logits.shape))
    np.testing.assert_allclose(gradient, by_torch, rtol=1e-4, atol=1e-6)
