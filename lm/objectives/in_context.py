"""Learning functions from examples in the context (Garg et al. 2022, What Can Transformers Learn
In-Context?)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from lm.config import InContextRegression, ModelConfig
from lm.model.layers import Linear
from lm.model.stack import Stack
from lm.objectives.base import Term
from lm.types import Batch, Key, Params


class Regressor(nn.Module):
    """A decoder between numbers: x1, y1, x2, y2 ... in, each y with zeros beside it, and at every x
    what y will be."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B P dims"], y: Float[Array, "B P"], *, train: bool = False
    ) -> Float[Array, "B P"]:
        c = self.config
        dtype = jnp.dtype(c.compute_dtype)
        batch, points, dims = x.shape
        values = jnp.zeros_like(x).at[..., 0].set(y)
        # [B, P, 2, dims] to [B, 2 P, dims]: in turn.
        numbers = jnp.stack([x, values], axis=2).reshape(batch, 2 * points, dims)
        # Both of the size that theirs have: as small as embeddings begin, what is read would for
        # long be less than its position (20,000 steps of 5 coordinates end at 0.6, not 0.1).
        stddev = (3 * dims) ** -0.5
        read = Linear((dims,), (c.d_model,), (None, "embed"), True, stddev, dtype, name="read_in")
        hidden = Stack(c, c.num_layers, causal=True, name="stack")(
            read(numbers), train=train
        ).hidden
        stddev = (3 * c.d_model) ** -0.5
        write = Linear(
            (c.d_model,), (1,), ("embed", None), True, stddev, dtype, jnp.float32, name="read_out"
        )
        return write(hidden[:, ::2])[..., 0]


class InContextRegressionObjective:
    """The squared error of f(x), from the examples before it. A batch has x float32 [B, P, dims], y
    and weights float32 [B, P]. Terms: "loss", and "error_K" after K examples, over the number of
    coordinates: guessing 0 gives 1 there, as f(x) has the variance dims."""

    def __init__(self, config: InContextRegression, model: ModelConfig) -> None:
        self.config = config
        self.model = Regressor(model)

    def init(self, rng: Key, batch: Batch) -> Params:
        """Initial parameters, with their logical axis names."""
        x, y = (jnp.asarray(batch[name][:1]) for name in ("x", "y"))
        return self.model.init({"params": rng}, x, y)["params"]

    def loss(
        self, params: Params, batch: Batch, rng: Key | None, *, train: bool
    ) -> dict[str, Term]:
        """The terms of one batch. Device, pure; `rng` feeds dropout while training."""
        found: Any = self.model.apply(
            {"params": params},
            batch["x"],
            batch["y"],
            train=train,
            rngs={"dropout": rng} if train and rng is not None else None,
        )
        weights, dims = batch["weights"], batch["x"].shape[-1]
        errors = weights * jnp.square(found - batch["y"])
        terms = {"loss": Term(jnp.sum(errors), jnp.sum(weights))}
        for count in self.config.report:
            terms[f"error_{count}"] = Term(
                jnp.sum(errors[:, count]) / dims, jnp.sum(weights[:, count]), 0.0
            )
        return terms
