"""The state of a run: built from shapes, a function of the seed, plain arrays throughout."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm.train.state import TrainState, boxed_params, create_state
from tests.parallel.toy import ToyObjective, batches, one


def create(seed: int = 0, **kwargs: Any) -> TrainState:
    batch = one(batches(1, 4))
    make = functools.partial(create_state, ToyObjective(), optax.adam(0.1), batch, seed, **kwargs)
    return jax.jit(make)()


def test_structure_can_be_had_without_computing() -> None:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), one(batches(1, 4)))
    abstract = jax.eval_shape(
        lambda: create_state(ToyObjective(), optax.adam(0.1), shapes, 0, ema=True)
    )
    state = create(ema=True)
    assert jax.tree.structure(abstract) == jax.tree.structure(state)
    jax.tree.map(lambda a, s: np.testing.assert_equal((a.shape, a.dtype), (s.shape, s.dtype)),
                 abstract, state)  # fmt: skip


def test_initial_values() -> None:
    state = create(ema=True)
    assert state.step == 0
    jax.tree.map(np.testing.assert_array_equal, state.params, state.ema)
    kernel = state.params["up"]["kernel"]
    assert isinstance(kernel, jax.Array)
    np.testing.assert_allclose(np.std(kernel), 1.0, atol=0.3)
    assert create().ema is None
    assert not any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(state))


def test_the_seed_decides_parameters_and_key() -> None:
    a, b, c = create(0), create(0), create(1)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert (a.params["up"]["kernel"] != c.params["up"]["kernel"]).all()
    assert (a.rng != c.rng).any()


def test_every_step_has_its_own_key() -> None:
    state = create()
    later = state.replace(step=state.step + 1)
    assert state.key() == create().key()
    assert state.key() != later.key()


def test_the_optimizer_may_be_made_from_the_parameters() -> None:
    seen = []

    def make(params: Any) -> optax.GradientTransformation:
        seen.append(jax.tree.map(jnp.shape, params))
        return optax.sgd(0.1)

    create_state(ToyObjective(), make, one(batches(1, 4)), 0)
    assert seen == [{"up": {"kernel": (8, 6), "bias": (6,)}, "down": {"kernel": (6, 8)}}]


def test_boxed_parameters_are_those_of_the_state() -> None:
    boxed = boxed_params(ToyObjective(), one(batches(1, 4)), 0)
    assert boxed["up"]["kernel"].names == ("embed", "mlp")
    np.testing.assert_allclose(
        boxed["up"]["kernel"].value, create().params["up"]["kernel"], rtol=1e-6
    )
