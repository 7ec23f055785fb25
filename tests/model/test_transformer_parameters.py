"""The decoder's parameters: names, shapes, logical axes, initial values."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from lm.config import InitConfig, Learned, ModelConfig, NormConfig, Rotary, T5Relative
from lm.model import build_model


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    variables = jax.eval_shape(
        build_model(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32)
    )
    leaves = jax.tree_util.tree_leaves_with_path(nn.meta.unbox(variables["params"]))
    return {"/".join(k.key for k in path): leaf.shape for path, leaf in leaves}


def test_parameters_of_gpt2(tiny: Any) -> None:
    layer = {
        "attention_norm/bias": (16,),
        "attention_norm/scale": (16,),
        "attention/query/kernel": (16, 4, 4),
        "attention/query/bias": (4, 4),
        "attention/key/kernel": (16, 4, 4),
        "attention/key/bias": (4, 4),
        "attention/value/kernel": (16, 4, 4),
        "attention/value/bias": (4, 4),
        "attention/output/kernel": (4, 4, 16),
        "attention/output/bias": (16,),
        "mlp_norm/bias": (16,),
        "mlp_norm/scale": (16,),
        "mlp/up/kernel": (16, 24),
        "mlp/up/bias": (24,),
        "mlp/down/kernel": (24, 16),
        "mlp/down/bias": (16,),
    }
    assert shapes_of(tiny(position=Learned(8))) == {
        "token_embedding/embedding": (13, 16),
        "position_embedding/embedding": (8, 16),
        **{f"layer_{i}/{name}": shape for i in range(2) for name, shape in layer.items()},
        "final_norm/bias": (16,),
        "final_norm/scale": (16,),
    }


def test_parameters_of_llama(tiny: Any) -> None:
    layer = {
        "attention_norm/scale": (16,),
        "attention/query/kernel": (16, 4, 6),
        "attention/key/kernel": (16, 2, 6),
        "attention/value/kernel": (16, 2, 6),
        "attention/output/kernel": (4, 6, 16),
        "mlp_norm/scale": (16,),
        "mlp/up/kernel": (16, 24),
        "mlp/gate/kernel": (16, 24),
        "mlp/down/kernel": (24, 16),
    }
    config = tiny(
        position=Rotary(),
        norm=NormConfig(kind="rms"),
        activation="swiglu",
        num_kv_heads=2,
        head_dim=6,
        attention_bias=False,
        attention_output_bias=False,
        mlp_bias=False,
        tie_embeddings=False,
    )
    expected = {
        "token_embedding/embedding": (13, 16),
        **{f"layer_{i}/{name}": shape for i in range(2) for name, shape in layer.items()},
        "final_norm/scale": (16,),
        "lm_head/kernel": (16, 13),
    }
    assert shapes_of(config) == expected
    assert shapes_of(dataclasses.replace(config, scan_layers=True)) == expected


def test_t5_bias_is_one_table_and_post_norm_has_no_final_norm(tiny: Any) -> None:
    shapes = shapes_of(tiny(position=T5Relative(), norm=NormConfig(placement="post")))
    assert shapes["relative_bias/embedding"] == (32, 4)
    assert not any(name.startswith("final_norm") for name in shapes)


def test_gpt2_small_has_its_number_of_parameters() -> None:
    config = ModelConfig(50257, 12, 768, 12, 3072, position=Learned(1024))
    assert sum(math.prod(shape) for shape in shapes_of(config).values()) == 124_439_808


def test_parameters_name_their_logical_axes(tiny: Any) -> None:
    config = tiny(position=Learned(8), tie_embeddings=False)
    variables = jax.eval_shape(
        build_model(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32)
    )
    axes = nn.get_partition_spec(variables)["params"]
    assert tuple(axes["token_embedding"]["embedding"]) == ("vocab", "embed")
    assert tuple(axes["lm_head"]["kernel"]) == ("embed", "vocab")
    layer = axes["layer_1"]
    assert tuple(layer["attention"]["query"]["kernel"]) == ("embed", "heads", "head")
    assert tuple(layer["attention"]["key"]["kernel"]) == ("embed", "kv_heads", "head")
    assert tuple(layer["attention"]["output"]["kernel"]) == ("heads", "head", "embed")
    assert tuple(layer["mlp"]["up"]["bias"]) == ("mlp",)
    assert tuple(layer["mlp_norm"]["scale"]) == ("norm",)


def test_initial_scales() -> None:
    """GPT-2: normal(0.02), projections into the residual stream divided by sqrt(2 L)."""
    config = ModelConfig(300, 2, 64, 4, 256, position=Learned(64))
    init = jax.jit(build_model(config).init)
    params = nn.meta.unbox(init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))["params"]
    layers = [params["layer_0"], params["layer_1"]]
    # The smallest matrix has 4096 entries: its deviation is known to 1.1 % (one sigma).
    for matrix, expected in (
        (params["token_embedding"]["embedding"], 0.02),
        (params["position_embedding"]["embedding"], 0.02),
        (layers[0]["attention"]["query"]["kernel"], 0.02),
        (layers[0]["mlp"]["up"]["kernel"], 0.02),
        (layers[1]["attention"]["output"]["kernel"], 0.01),
        (layers[1]["mlp"]["down"]["kernel"], 0.01),
    ):
        assert float(jnp.std(matrix)) == pytest.approx(expected, rel=0.05)
    assert (layers[0]["mlp"]["up"]["bias"] == 0).all()
    assert (layers[0]["mlp_norm"]["scale"] == 1).all()
    first, second = (layer["mlp"]["up"]["kernel"] for layer in layers)
    assert (first != second).any()


@pytest.mark.parametrize(("kv_heads", "joint"), [(4, 192), (2, 128)])
def test_initial_scales_of_xavier(kv_heads: int, joint: int) -> None:
    """Glorot and Bengio's variance for the layers' matrices, queries, keys and values as one;
    embeddings keep `stddev`."""
    init = InitConfig(stddev=0.3, scale_residual=False, projections="xavier")
    config = ModelConfig(300, 2, 64, 4, 256, num_kv_heads=kv_heads, position=Learned(64), init=init)
    drawn = jax.jit(build_model(config).init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    params = nn.meta.unbox(drawn)["params"]
    layer = params["layer_1"]
    for matrix, expected in (
        (params["token_embedding"]["embedding"], 0.3),
        (layer["attention"]["query"]["kernel"], math.sqrt(2 / (64 + joint))),
        (layer["attention"]["value"]["kernel"], math.sqrt(2 / (64 + joint))),
        (layer["attention"]["output"]["kernel"], math.sqrt(2 / (64 + 64))),
        (layer["mlp"]["up"]["kernel"], math.sqrt(2 / (64 + 256))),
        (layer["mlp"]["down"]["kernel"], math.sqrt(2 / (64 + 256))),
    ):
        assert float(jnp.std(matrix)) == pytest.approx(expected, rel=0.05)
