"""Adafactor on large matrices: what optax makes, block by block, and the memory it needs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm.config import Adafactor, Duration
from lm.train import factored
from lm.train.factored import multiply, scale_by_factored_rms
from lm.train.optimizer import build_optimizer

# Blocks of 3 rows or more: of no shape below they are a whole number.
SHAPES = {
    "tall": (200, 130),
    "wide": (130, 200),
    "square": (128, 128),
    "narrow": (400, 100),  # optax factors from 128 on
    "small": (3, 4),
    "vector": (300,),
    "cube": (2, 150, 140),
}


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factored, "LARGE", 100)
    monkeypatch.setattr(factored, "BLOCK", 600)


def random(seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.normal(size=shape) * 10.0 ** rng.integers(-4, 4), jnp.float32)
        for name, shape in SHAPES.items()
    }


def loops(function: Any, *arguments: Any) -> bool:
    return "while" in str(jax.make_jaxpr(function)(*arguments)) or "scan" in str(
        jax.make_jaxpr(function)(*arguments)
    )


def test_blocks_give_what_optax_gives(blocks: None) -> None:
    params = random(0)
    ours, theirs = scale_by_factored_rms(0.8), optax.scale_by_factored_rms(decay_rate=0.8)
    states = [ours.init(params), theirs.init(params)]
    assert loops(ours.update, params, states[0], params)
    for seed in (1, 2, 3):
        gradients = random(seed)
        results = [
            jax.jit(each.update)(gradients, state, params)
            for each, state in zip((ours, theirs), states)
        ]
        states = [state for _, state in results]
        # The same tree, so that a checkpoint of either is one of the other's.
        assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *results)


def test_products_in_place_are_products(blocks: None) -> None:
    tree, factor = random(0), jnp.float32(0.3)
    assert loops(multiply, tree, factor)
    expected = jax.tree.map(lambda x: x * factor, tree)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(multiply)(tree, factor), expected)


def test_a_matrix_over_several_devices_is_left_whole(blocks: None) -> None:
    params = random(0)
    ours = scale_by_factored_rms(0.8)
    axes = {"axis_types": (jax.sharding.AxisType.Auto,)}
    with jax.set_mesh(jax.make_mesh((2,), ("data",), **axes)):
        assert not loops(ours.update, params, ours.init(params), params)


def test_a_step_needs_its_gradient_and_little_more() -> None:
    """With the gradient's norm measured and clipped, the update's too, and weights that decay."""
    shape = (factored.LARGE // 512 + 100, 512)
    params = {"token_embedding": {"embedding": jax.ShapeDtypeStruct(shape, jnp.float32)}}
    config = Adafactor(0.1, clip_norm=1.0, weight_decay=0.1)

    def in_steps(duration: Duration) -> int:
        return duration.in_steps(tokens_per_step=1, steps_per_epoch=1)

    optimizer = build_optimizer(config, total_steps=10, in_steps=in_steps, params=params)

    def step(params: Any, state: Any, left: Any, right: Any) -> Any:
        # A gradient that is made in the program, as in training; of little.
        gradient = {"token_embedding": {"embedding": left @ right}}
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(optimizer.init, params)
    sides = [jax.ShapeDtypeStruct(side, jnp.float32) for side in ((shape[0], 8), (8, shape[1]))]
    program = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, *sides).compile()
    matrix = 4 * shape[0] * shape[1]
    assert program.memory_analysis().temp_size_in_bytes < 1.3 * matrix
