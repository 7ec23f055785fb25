"""Class weights of tags: those of training, "balanced" by the words' tags."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lm.config import TokenClassification
from lm.data.rows import stack
from lm.errors import ConfigError, UserError
from lm.objectives import build_objective
from tests.objectives.cases import ENCODER
from tests.objectives.test_tasks import TAGS, TOKENIZER, data, example

EXAMPLES = [example(words=["Ada", "is"], tags=["N", "O"]), example(words="a b B", tags="O O N")]


def made(weights: Any) -> tuple[Any, Any]:
    config = dataclasses.replace(TAGS, class_weights=weights)
    objective: Any = build_objective(config, ENCODER)
    maker = objective.example_maker(TOKENIZER, data(), EXAMPLES)
    return objective, stack([maker(one, labelled=True).rows[0] for one in EXAMPLES])


@pytest.mark.parametrize(
    ("weights", "expected"), [((2.0, 0.5), (2.0, 0.5)), ("balanced", (5 / 6, 5 / 4))]
)
def test_tags_are_weighed_while_training(weights: Any, expected: tuple[float, float]) -> None:
    objective, batch = made(weights)
    there = batch["weights"] > 0
    np.testing.assert_allclose(
        batch["class_weights"][there], np.array(expected)[batch["labels"][there]], rtol=1e-6
    )
    params = nn.meta.unbox(objective.init(jax.random.key(0), batch))
    batch = jax.tree.map(jnp.asarray, batch)
    terms = objective.loss(params, batch, None, train=True)
    log_p = np.asarray(jax.nn.log_softmax(objective.logits(params, batch)))
    own = -np.take_along_axis(log_p, np.asarray(batch["labels"])[..., None], -1)[..., 0]
    weighed = np.asarray(batch["weights"] * batch["class_weights"])
    found = terms["weighted_loss"]
    np.testing.assert_allclose(
        found.sum / found.weight, (own * weighed).sum() / weighed.sum(), rtol=1e-5
    )
    assert terms["loss"].coefficient == 0 and found.coefficient == 1
    plain = objective.loss(params, batch, None, train=False)
    assert "weighted_loss" not in plain and plain["loss"].coefficient == 1


def test_without_weights_nothing_is_weighed() -> None:
    _, batch = made(None)
    assert "class_weights" not in batch


def test_wrong_weights_are_said() -> None:
    with pytest.raises(ConfigError, match="a number above 0 for each of the 2 labels"):
        TokenClassification(labels=("O", "N"), class_weights=(1.0, 0.0))
    config = dataclasses.replace(TAGS, labels=("O", "N", "V"), class_weights="balanced")
    objective: Any = build_objective(config, ENCODER)
    with pytest.raises(UserError, match="no training example has the label 'V'"):
        objective.example_maker(TOKENIZER, data(), EXAMPLES)
