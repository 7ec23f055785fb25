"""The state of a training run: everything that a checkpoint holds, besides the data's position."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Int, UInt32

from lm.objectives.base import Objective
from lm.types import Batch, Key, PyTree


@struct.dataclass
class TrainState:
    """Optimiser steps done, parameters, optimiser state, moving average, and the run's key."""

    step: Int[Array, ""]
    params: PyTree
    opt_state: PyTree
    # Exponential moving average of the parameters, or None.
    ema: PyTree
    # Raw key data rather than a typed key: checkpoints hold plain arrays.
    rng: UInt32[Array, " words"]

    def key(self) -> Key:
        """The key of the coming step: a function of the run's key and the step alone."""
        return jax.random.fold_in(jax.random.wrap_key_data(self.rng), self.step)


@partial(jax.jit, static_argnames=("objective", "seed"))
def boxed_params(objective: Objective, batch: Batch, seed: int) -> PyTree:
    """Initial parameters with their logical axis names, for a batch (or its shapes). Jitted, so
    that what asks for their shapes first and for the state later traces the model once."""
    init_key, _ = jax.random.split(jax.random.key(seed))
    return objective.init(init_key, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch))


def create_state(
    objective: Objective,
    optimizer: optax.GradientTransformation | Callable[[PyTree], optax.GradientTransformation],
    batch: Batch,
    seed: int,
    *,
    ema: bool = False,
) -> TrainState:
    """The state before the first step. Pure: fit for `jax.jit` and `jax.eval_shape`.

    Args:
      optimizer: or a function that makes it from the (possibly abstract) parameters.
      batch: one batch; of its arrays only the shapes matter.
      ema: keep a moving average, which starts at the initial parameters.
    """
    params = nn.meta.unbox(boxed_params(objective, batch, seed))
    if not isinstance(optimizer, optax.GradientTransformation):
        optimizer = optimizer(params)
    _, run_key = jax.random.split(jax.random.key(seed))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        rng=jax.random.key_data(run_key),
    )
