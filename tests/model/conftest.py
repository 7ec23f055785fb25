"""A tiny decoder to vary, and its parameters."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lm.config import InitConfig, ModelConfig, NoPosition
from lm.model import build_model


def _config(**overrides: Any) -> ModelConfig:
    # Large initial weights, so that attention is far from uniform and mistakes show.
    values = {
        "vocab_size": 13,
        "num_layers": 2,
        "d_model": 16,
        "num_heads": 4,
        "d_ff": 24,
        "position": NoPosition(),
        "init": InitConfig(stddev=0.3, scale_residual=False),
    }
    return ModelConfig(**{**values, **overrides})


def _params(config: ModelConfig, seed: int = 0) -> Any:
    """Random parameters, biases and scales too: nothing is left at 0 or 1 where it could hide."""
    rng = np.random.default_rng(seed)
    tokens = jnp.zeros((1, 1), jnp.int32)
    given = {"source": tokens} if config.architecture == "encoder_decoder" else {}
    init = functools.partial(build_model(config).init, **given)
    variables = jax.eval_shape(init, jax.random.key(0), tokens)

    def random(path: Any, leaf: Any) -> jax.Array:
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(rng.normal(centre, config.init.stddev, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(random, nn.meta.unbox(variables["params"]))


@pytest.fixture
def tiny() -> Any:
    """ModelConfig of 2 layers, 16 wide, 4 heads, 13 tokens; keyword arguments replace fields."""
    return _config


@pytest.fixture
def params_of() -> Any:
    """Unboxed parameters for a config, all of them random."""
    return _params
