"""A tiny objective for the tests of steps and mappings: unequal weights, logical axes, dropout."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm.objectives.base import Term

WIDTH, HIDDEN = 8, 6


class ToyObjective:
    """Regression by one hidden layer, with terms whose weights differ.

    Row i of a batch counts `weights[i]` in "loss", 1 or 0 in "penalty", and nothing in "empty".
    """

    lookahead = 0
    model = None

    def __init__(self, dropout: float = 0.0) -> None:
        self.dropout = dropout

    def prepare(self, example: Any, rng: np.random.Generator) -> Any:
        return example

    def init(self, rng: jax.Array, batch: Any) -> Any:
        up, down = jax.random.split(rng)
        box = nn.LogicallyPartitioned
        return {
            "up": {
                "kernel": box(jax.random.normal(up, (WIDTH, HIDDEN)), ("embed", "mlp")),
                "bias": box(jnp.zeros(HIDDEN), ("mlp",)),
            },
            "down": {"kernel": box(jax.random.normal(down, (HIDDEN, WIDTH)), ("mlp", "embed"))},
        }

    def loss(self, params: Any, batch: Any, rng: Any, *, train: bool) -> dict[str, Term]:
        hidden = jnp.tanh(batch["x"] @ params["up"]["kernel"] + params["up"]["bias"])
        if train and self.dropout:
            keep = jax.random.bernoulli(rng, 1 - self.dropout, hidden.shape)
            hidden = jnp.where(keep, hidden / (1 - self.dropout), 0.0)
        errors = jnp.mean((hidden @ params["down"]["kernel"] - batch["y"]) ** 2, axis=-1)
        present = (batch["weights"] > 0).astype(jnp.float32)
        return {
            "loss": Term(jnp.sum(errors * batch["weights"]), jnp.sum(batch["weights"])),
            "penalty": Term(jnp.sum(jnp.abs(hidden).mean(-1) * present), jnp.sum(present), 0.1),
            "empty": Term(jnp.sum(errors * 0.0), jnp.zeros(()), 1.0),
            "metric": Term(jnp.sum(errors), jnp.ones(()) * errors.shape[0], 0.0),
        }


def batches(count: int, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """[count, rows, ...], row i with weight i, so the second half of a batch far outweighs the
    first; the first rows weigh nothing."""
    rng = np.random.default_rng(seed)
    weights = np.maximum(np.arange(rows, dtype=np.float32) - 2, 0)
    return {
        "x": rng.normal(size=(count, rows, WIDTH)).astype(np.float32),
        "y": rng.normal(size=(count, rows, WIDTH)).astype(np.float32),
        "weights": np.broadcast_to(weights, (count, rows)).copy(),
    }


def one(batch: dict[str, np.ndarray], index: int = 0) -> dict[str, np.ndarray]:
    return {name: x[index] for name, x in batch.items()}


def update_error(start: Any, expected: Any, actual: Any) -> float:
    """How far two sets of parameters are apart, relative to how far training has moved them."""
    pairs = zip(*map(jax.tree.leaves, (start, expected, actual)), strict=True)
    leaves = [tuple(map(np.asarray, leaf)) for leaf in pairs]
    apart = sum(np.sum(np.square(e - a)) for _, e, a in leaves)
    moved = sum(np.sum(np.square(e - s)) for s, e, _ in leaves)
    return float(np.sqrt(apart / moved))
