"""Arranged weights are the same weights in another order."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import InitConfig, ModelConfig, Rotary
from lm.generate.arrange import arrange
from lm.generate.decode import generate
from lm.generate.sampling import SamplingConfig
from lm.model import build_model

CONFIG = ModelConfig(
    vocab_size=29,
    num_layers=2,
    d_model=16,
    num_heads=4,
    num_kv_heads=2,
    d_ff=32,
    activation="swiglu",
    position=Rotary(),
    init=InitConfig(stddev=0.5, scale_residual=False),
)


@pytest.mark.parametrize("tied", [True, False])
def test_arranged_weights_say_the_same(tied):
    model = build_model(dataclasses.replace(CONFIG, tie_embeddings=tied))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    params = nn.unbox(variables)["params"]
    tokens = jnp.asarray([[3, 1, 4, 1, 5, 9]])
    expected = model.apply({"params": params}, tokens)[0]
    options = dict(sampling=SamplingConfig(temperature=0.0), max_new_tokens=10)
    said = generate(model, params, [[3, 1, 4]], **options)[0][0].tokens
    for rows in (None, 1):
        arranged = arrange(model, params, rows)
        # All of it is used: nothing is left of the old order.
        assert ("kernel" in arranged["layer_0"]["attention"]["output"]) == (rows is None)
        assert ("columns" in arranged["token_embedding"]) == tied
        np.testing.assert_allclose(
            model.apply({"params": arranged}, tokens)[0], expected, atol=1e-4, rtol=1e-4
        )
        assert generate(model, arranged, [[3, 1, 4]], **options)[0][0].tokens == said
        again = jax.tree.leaves(arrange(model, arranged, rows))
        assert all(a is b for a, b in zip(again, jax.tree.leaves(arranged)))
