"""Layer-wise learning rates: the factors by hand, and that an update has them, scanned or not."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
import pytest

from lm.config import SGD, AdamW, ParameterRule, from_dict
from lm.errors import ConfigError
from lm.objectives import build_objective
from lm.train.layer_decay import layer_factors
from lm.train.optimizer import build_optimizer
from lm.train.state import create_state
from lm.train.step import train_step
from tests.objectives.cases import CASES, batch_of


def test_factors_by_hand() -> None:
    expected = {
        "token_embedding/embedding": 0.5**4,
        "position_embedding/embedding": 0.5**4,
        "embedding_norm/scale": 0.5**4,
        "embedding_projection/kernel": 0.5**4,
        "layer_0/attention/query/kernel": 0.5**3,
        "layer_1/attention/segment_embedding/embedding": 0.5**2,
        "layer_2/mlp/up/lora_a/kernel": 0.5,
        "final_norm/scale": 1.0,
        "lm_transform/kernel": 1.0,
        "classification/bias": 1.0,
    }
    assert layer_factors(expected, 0.5) == expected


def test_every_stack_counts_from_its_own_top_and_embeddings_lie_below_the_deepest() -> None:
    expected = {
        "token_embedding/embedding": 0.5**4,
        "encoder/relative_bias/embedding": 0.5**4,
        "encoder/layer_0/mlp/up/kernel": 0.5**3,
        "encoder/layer_1/mlp/up/kernel": 0.5**2,
        "encoder/layer_2/mlp/up/kernel": 0.5,
        "encoder/final_norm/scale": 1.0,
        "decoder/layer_0/cross_attention/key/kernel": 0.5**2,
        "decoder/layer_1/mlp/up/kernel": 0.5,
        "lm_head/kernel": 1.0,
    }
    assert layer_factors(expected, 0.5) == expected


def steps_of(scan: bool, decay: float, count: int = 1) -> tuple[Any, Any]:
    """Parameters before and after steps of SGD on a decoder of two layers."""
    config, model = CASES["causal"]
    objective = build_objective(
        config, dataclasses.replace(model, num_layers=2, scan_layers=scan, remat="full")
    )
    batch = batch_of(objective)
    rules = (ParameterRule(r"layer_0/mlp/.*", learning_rate=2.0), *SGD().rules)
    settings = SGD(learning_rate=0.1, momentum=0.9, layer_decay=decay, rules=rules)

    def optimizer(params: Any) -> optax.GradientTransformation:
        return build_optimizer(settings, total_steps=9, in_steps=lambda d: d.steps or 0,
                               params=params)  # fmt: skip

    state = create_state(objective, optimizer, batch, 0)
    made = optimizer(state.params)
    step = jax.jit(partial(train_step, objective=objective, optimizer=made))
    before = state.params
    for _ in range(count):
        state, _ = step(state, batch)
    return before, state.params


def test_updates_have_the_factors_of_layer_and_rule() -> None:
    before, plain = steps_of(False, 1.0)
    _, decayed = steps_of(False, 0.5)
    factors = {"token_embedding": 0.5**3, "layer_0": 0.25, "layer_1": 0.5, "final_norm": 1.0}
    for name, factor in factors.items():
        for start, a, b in zip(*(jax.tree.leaves(t[name]) for t in (before, plain, decayed))):
            np.testing.assert_allclose(b - start, factor * (a - start), rtol=1e-3, atol=1e-6)


def test_scanned_layers_are_the_unrolled_ones() -> None:
    _, unrolled = steps_of(False, 0.5, count=3)
    _, scanned = steps_of(True, 0.5, count=3)
    for a, b in zip(jax.tree.leaves(unrolled), jax.tree.leaves(scanned), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_factor_is_in_reach() -> None:
    with pytest.raises(ConfigError, match=r"layer_decay must be in \(0, 1\], not 1.5"):
        from_dict(AdamW, {"layer_decay": 1.5})
    with pytest.raises(ConfigError, match="layer_decay must be above 0"):
        AdamW(layer_decay=0.0)
