"""Int8 weights: how far from the weights they stand for, and that nothing else is lost."""

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
from lm.generate.quantize import quantize
from lm.generate.sampling import SamplingConfig
from lm.model import build_model
from lm.model.quantized import quantized_product

CONFIG = ModelConfig(
    vocab_size=29,
    num_layers=2,
    d_model=32,
    num_heads=4,
    num_kv_heads=2,
    d_ff=48,
    activation="swiglu",
    position=Rotary(),
    init=InitConfig(stddev=0.3, scale_residual=False),
)
PROMPTS = [[3, 1, 4, 1, 5], [9, 2]]


def make(config: ModelConfig):
    model = build_model(config)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    return model, nn.unbox(variables)["params"]


def restored(node):
    """The float32 parameters that quantised ones stand for, kernels as [inputs, outputs]."""
    if not isinstance(node, dict):
        return node
    if "quantized" in node:
        return (node["quantized"] * node["scale"][:, None]).T
    return {key: restored(value) for key, value in node.items()}


def test_each_weight_is_rounded_by_at_most_half_its_channels_scale():
    _, params = make(CONFIG)
    attention = params["layer_1"]["attention"]
    small = quantize(params)["layer_1"]["attention"]
    for name, inputs in (("query", 32), ("key", 32), ("output", 32)):
        kernel = np.asarray(attention[name]["kernel"]).reshape(inputs, -1)
        scale = np.asarray(small[name]["scale"])
        np.testing.assert_allclose(scale, np.abs(kernel).max(0) / 127, rtol=1e-6)
        error = np.abs(np.asarray(restored(small[name])) - kernel)
        assert np.all(error <= scale / 2 * 1.0001)
        assert error.max() > scale.min() / 4
        assert small[name]["quantized"].dtype == jnp.int8
    table = quantize(params)["token_embedding"]
    assert table["quantized"].shape == (29, 32) and table["scale"].shape == (29,)


def test_arranged_parameters_become_the_same():
    model, params = make(CONFIG)
    expected = quantize(params)
    assert jax.tree.structure(expected) == jax.tree.structure(quantize(arrange(model, params, 1)))
    jax.tree.map(np.testing.assert_array_equal, quantize(arrange(model, params, 1)), expected)


def test_a_channel_of_zeros_stays_and_vectors_are_not_touched():
    params = {"up": {"kernel": jnp.zeros((3, 2)), "bias": jnp.ones(2)}, "norm": {"scale": 3.0}}
    small = quantize(params)
    assert not np.any(restored(small["up"])) and np.all(np.isfinite(small["up"]["scale"]))
    assert small["up"]["bias"] is params["up"]["bias"] and small["norm"] == {"scale": 3.0}


@pytest.mark.parametrize("rows", [(1,), (2, 3), (0, 4)])
def test_products_are_those_of_the_weights_they_stand_for(rows):
    x = jax.random.normal(jax.random.key(1), (*rows, 64))
    x = x.at[..., :1].multiply(50)
    weights = jax.random.randint(jax.random.key(2), (17, 64), -127, 128, jnp.int8)
    scale = jnp.linspace(0.01, 1, 17)
    y = quantized_product(x, weights, scale)
    expected = np.asarray(x, np.float64) @ (np.asarray(weights) * np.asarray(scale)[:, None]).T
    largest = np.abs(x).max(-1, keepdims=True) if x.size else 0
    # Each number of x is known to 1/64,516 of its row's largest; errors add up as if at random.
    bound = (
        largest / 64516 * np.linalg.norm(np.asarray(weights) * np.asarray(scale)[:, None], axis=1)
    )
    assert y.shape == (*rows, 17) and np.all(np.abs(y - expected) <= 3 * bound)


def test_a_row_of_zeros_and_one_beside_others():
    weights = jax.random.randint(jax.random.key(2), (5, 8), -127, 128, jnp.int8)
    x = jax.random.normal(jax.random.key(1), (3, 8)).at[1].set(0)
    y = quantized_product(x, weights, jnp.ones(5))
    assert not np.any(y[1])
    np.testing.assert_allclose(y[2:], quantized_product(x[2:], weights, jnp.ones(5)), atol=0.05)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_near_and_an_index_beyond_the_table_is_no_neighbour(tied):
    model, params = make(dataclasses.replace(CONFIG, tie_embeddings=tied))
    tokens = jnp.asarray([[3, 1, 4, 1, 5, 9]])
    exact, near = (model.apply({"params": p}, tokens)[0] for p in (params, quantize(params)))
    error = np.std(near - exact) / np.std(exact)
    assert 1e-4 < error < 0.03
    beyond = model.apply({"params": quantize(params)}, jnp.asarray([[29]]))[0]
    assert np.all(np.isnan(beyond))


def test_decoding_equals_whole_forward_passes_of_the_same_weights():
    model, params = make(CONFIG)
    small = quantize(params)
    options = dict(sampling=SamplingConfig(temperature=0.0), max_new_tokens=8)
    results = generate(model, small, PROMPTS, **options)
    assert generate(model, small, PROMPTS[:1], **options)[0][0].tokens == results[0][0].tokens
    for prompt, [completion] in zip(PROMPTS, results):
        tokens = jnp.asarray([prompt + completion.tokens])
        logits = model.apply({"params": small}, tokens)[0][0, len(prompt) - 1 : -1]
        assert completion.tokens == logits.argmax(-1).tolist()
        expected = jax.nn.log_softmax(logits)[jnp.arange(8), jnp.asarray(completion.tokens)]
        np.testing.assert_allclose(completion.logprobs, expected, atol=3e-3)


def test_three_quarters_of_the_memory_are_saved():
    _, params = make(dataclasses.replace(CONFIG, d_model=128, d_ff=512))
    before, after = (sum(x.nbytes for x in jax.tree.leaves(p)) for p in (params, quantize(params)))
    assert after < 0.28 * before
