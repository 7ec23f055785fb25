"""The decoder: what it may look at, one format for its parameters, its variants."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import (
    ALiBi,
    DropoutConfig,
    Learned,
    ModelConfig,
    NoPosition,
    NormConfig,
    Rotary,
    Sinusoidal,
    T5Relative,
)
from lm.errors import ConfigError
from lm.model import build_model

# Every position scheme, each with other variations of the rest.
VARIANTS: dict[str, dict[str, Any]] = {
    "learned": {"position": Learned(12)},
    "sinusoidal": {"position": Sinusoidal(), "scale_embeddings": True, "num_kv_heads": 2},
    "rotary": {"position": Rotary(), "num_kv_heads": 1, "attention_softcap": 5.0},
    "rotary_interleaved": {"position": Rotary(fraction=0.5, interleaved=True)},
    "alibi": {"position": ALiBi(), "layer_pattern": ("local",), "window": 2},
    "t5_relative": {"position": T5Relative(4, 8), "attention_scale": 1.0},
    "none": {"position": NoPosition(), "norm": NormConfig(placement="post")},
    "local_global": {
        "position": Rotary(),
        "layer_pattern": ("local", "global"),
        "window": 3,
        "norm": NormConfig(kind="rms"),
    },
}
TOKENS = jnp.array([[1, 2, 3, 4, 5, 6], [7, 3, 9, 9, 0, 2]])
# Float32 rounding through two layers at activations of order 1 to 10.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def logits_of(config: ModelConfig, params: Any, tokens: Any, **arguments: Any) -> Any:
    model = build_model(config)
    return jax.jit(lambda p, t, a: model.apply({"params": p}, t, **a)[0])(params, tokens, arguments)


def reachable(config: ModelConfig, length: int) -> np.ndarray:
    """[T, S]: whether information can flow from s to t, through all layers."""
    distance = np.arange(length)[:, None] - np.arange(length)
    reach = np.eye(length, dtype=int)
    for i in range(config.num_layers):
        local = config.layer_pattern[i % len(config.layer_pattern)] == "local"
        layer = (distance >= 0) & (distance < (config.window if local else length))
        reach = layer.astype(int) @ reach
    return reach > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_causality_by_gradient(variant: str, tiny: Any, params_of: Any) -> None:
    """The gradient of output t by the embedding of token s is exactly 0 for s > t and for keys out
    of every window's reach, and is not 0 otherwise."""
    config = tiny(**VARIANTS[variant], tie_embeddings=False)
    params, model, tokens = params_of(config), build_model(config), jnp.arange(6)[None]
    direction = jax.random.normal(jax.random.key(5), (config.d_model,))

    def outputs(embedding: Any) -> Any:
        changed = {**params, "token_embedding": {"embedding": embedding}}
        return model.apply({"params": changed}, tokens, method="hidden")[0][0] @ direction

    gradient = jax.jit(jax.jacrev(outputs))(params["token_embedding"]["embedding"])
    size = np.abs(np.asarray(gradient)[:, :6]).max(axis=-1)
    expected = reachable(config, 6)
    assert (size[~expected] == 0).all()
    assert (size[expected] > 1e-6).all()


@pytest.mark.parametrize(
    ("variant", "scan", "remat"),
    [("local_global", True, "dots"), ("t5_relative", True, "none"), ("learned", False, "full")],
)
def test_scanned_layers_are_the_unrolled_ones(
    variant: str, scan: bool, remat: Any, tiny: Any, params_of: Any
) -> None:
    """The same parameters give the same values, gradients and dropout, scanned and with remat."""
    dropout = DropoutConfig(embedding=0.1, attention=0.1, residual=0.1, feed_forward=0.1)
    # Two periods of the pattern.
    layers = 2 * len(tiny(**VARIANTS[variant]).layer_pattern)
    plain = tiny(**VARIANTS[variant], dropout=dropout, num_layers=layers)
    params = params_of(plain)
    results = []
    for config in (plain, dataclasses.replace(plain, scan_layers=scan, remat=remat)):
        model = build_model(config)

        def total(params: Any, model: Any = model) -> Any:
            rngs = {"dropout": jax.random.key(7, impl="unsafe_rbg")}
            return jnp.sin(model.apply({"params": params}, TOKENS, train=True, rngs=rngs)[0]).sum()

        results.append(jax.jit(jax.value_and_grad(total))(params))
    # Gradients are sums over 12 positions of values up to order 100.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), *results)
    without = jnp.sin(logits_of(plain, params, TOKENS)).sum()
    assert abs(float(without - results[0][0])) > 1e-2


def test_layers_are_stacked_for_the_scan_in_the_dtype_of_computation(
    tiny: Any, params_of: Any
) -> None:
    config = tiny(scan_layers=True, compute_dtype="bfloat16")
    params, model = params_of(config), build_model(config)
    text = str(jax.make_jaxpr(lambda p: model.apply({"params": p}, TOKENS)[0])(params))
    assert "bf16[2,16,24]" in text and "f32[2,16,24]" not in text
    # Norms are computed in float32.
    assert "f32[2,16]" in text


@pytest.mark.parametrize("scan", [False, True])
def test_remat_recomputes(scan: bool, tiny: Any, params_of: Any) -> None:
    """What the backward pass keeps shrinks from "none" over "dots" to "full"."""
    kept = {}
    for remat in ("none", "dots", "full"):
        model = build_model(tiny(num_layers=4, remat=remat, scan_layers=scan))
        params = params_of(model.config)

        def total(params: Any, model: Any = model) -> Any:
            return model.apply({"params": params}, TOKENS)[0].sum()

        assert ("remat" in str(jax.make_jaxpr(total)(params))) == (remat != "none")
        residuals = jax.eval_shape(lambda p, f=total: jax.vjp(f, p)[1], params)
        kept[remat] = sum(math.prod(x.shape) for x in jax.tree.leaves(residuals))
    assert kept["none"] > kept["dots"] > kept["full"]


@pytest.mark.parametrize("variant", ["learned", "local_global", "t5_relative"])
def test_packed_segments_are_separate_sequences(variant: str, tiny: Any, params_of: Any) -> None:
    config = tiny(**VARIANTS[variant])
    params = params_of(config)
    packed = logits_of(
        config,
        params,
        jnp.array([[1, 2, 3, 7, 8, 9, 10, 0]]),
        positions=jnp.array([[0, 1, 2, 0, 1, 2, 3, -1]]),
        segment_ids=jnp.array([[1, 1, 1, 2, 2, 2, 2, 0]]),
    )
    assert jnp.isfinite(packed).all()
    alone = logits_of(config, params, jnp.array([[1, 2, 3, 0], [7, 8, 9, 10]]))
    np.testing.assert_allclose(packed[0, :3], alone[0, :3], **CLOSE)
    np.testing.assert_allclose(packed[0, 3:7], alone[1], **CLOSE)


@pytest.mark.parametrize("variant", ["learned", "sinusoidal", "alibi", "local_global"])
def test_padding_changes_nothing(variant: str, tiny: Any, params_of: Any) -> None:
    """Left padding, whatever tokens stand there, gives the logits of the bare sequence."""
    config = tiny(**VARIANTS[variant])
    params = params_of(config)
    positions = jnp.array([[-1, -1, 0, 1, 2, 3]] * 2)
    tokens = jnp.array([[0, 0, 5, 6, 7, 8], [11, 12, 5, 6, 7, 8]])
    padded = logits_of(config, params, tokens, positions=positions)
    bare = logits_of(config, params, tokens[:, 2:])
    assert jnp.isfinite(padded).all()
    np.testing.assert_allclose(padded[:, 2:], bare, **CLOSE)


@pytest.mark.parametrize(
    ("position", "relative"),
    [
        (Learned(16), False),
        (Sinusoidal(), False),
        (Rotary(), True),
        (ALiBi(), True),
        (T5Relative(8, 20), True),
    ],
)
def test_what_positions_do(position: Any, relative: bool, tiny: Any, params_of: Any) -> None:
    """Stretching the distances changes the logits; shifting all positions does not, where only
    distances count."""
    config = tiny(position=position)
    params, positions = params_of(config), jnp.arange(6)[None].repeat(2, 0)
    plain = logits_of(config, params, TOKENS)
    stretched = logits_of(config, params, TOKENS, positions=2 * positions)
    shifted = logits_of(config, params, TOKENS, positions=positions + 7)
    assert float(jnp.abs(stretched - plain).max()) > 1e-2
    assert np.allclose(shifted, plain, rtol=1e-4, atol=1e-4) == relative


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_where_the_norms_stand(placement: Any, tiny: Any, params_of: Any) -> None:
    """With sub-layers that add nothing: pre is one norm at the end, post two in every layer."""
    config = tiny(norm=NormConfig(placement=placement, bias=False), scale_embeddings=True)
    params = params_of(config)
    for i in range(2):
        for sub_layer, last in (("attention", "output"), ("mlp", "down")):
            projection = params[f"layer_{i}"][sub_layer][last]
            params[f"layer_{i}"][sub_layer][last] = jax.tree.map(jnp.zeros_like, projection)
    made, _ = build_model(config).apply({"params": params}, TOKENS, method="hidden")
    expected = params["token_embedding"]["embedding"][np.asarray(TOKENS)] * 4.0  # sqrt(16)
    layers = [params["layer_0"], params["layer_1"]]
    norms = [layer[name] for layer in layers for name in ("attention_norm", "mlp_norm")]
    for norm in [params["final_norm"]] if placement == "pre" else norms:
        centred = expected - expected.mean(-1, keepdims=True)
        expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * norm["scale"]
    np.testing.assert_allclose(made, expected, **CLOSE)


def test_attention_scale_defaults_to_the_root_of_the_head_width(tiny: Any, params_of: Any) -> None:
    params = params_of(tiny())
    default, same, other = (
        logits_of(tiny(attention_scale=scale), params, TOKENS) for scale in (None, 0.5, 1.0)
    )
    np.testing.assert_allclose(default, same, **CLOSE)
    assert float(jnp.abs(default - other).max()) > 1e-2


def test_bfloat16_computes_with_float32_parameters_and_logits(tiny: Any, params_of: Any) -> None:
    exact = tiny(position=Learned(8))
    config = dataclasses.replace(exact, compute_dtype="bfloat16")
    params = params_of(config)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    model = build_model(config)
    hidden, _ = model.apply({"params": params}, TOKENS, method="hidden")
    logits = logits_of(config, params, TOKENS)
    assert hidden.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    reference = logits_of(exact, params, TOKENS)
    assert (logits != reference).any()
    # 8 bits of mantissa, a few roundings in a row.
    np.testing.assert_allclose(logits, reference, atol=0.05 * float(jnp.abs(reference).max()))


def test_hidden_then_logits_is_the_call(tiny: Any, params_of: Any) -> None:
    config = tiny(position=ALiBi(), logit_softcap=3.0)
    model, params = build_model(config), params_of(config)
    hidden, _ = model.apply({"params": params}, TOKENS, method="hidden")
    logits = model.apply({"params": params}, hidden, method="logits")
    np.testing.assert_allclose(logits, logits_of(config, params, TOKENS), **CLOSE)
    raw = hidden @ params["token_embedding"]["embedding"].T
    np.testing.assert_allclose(logits, 3 * np.tanh(raw / 3), **CLOSE)
    assert float(jnp.abs(raw).max()) > 3


def test_dropout_only_while_training(tiny: Any, params_of: Any) -> None:
    config = tiny(dropout=DropoutConfig(embedding=0.5))
    model, params = build_model(config), params_of(config)

    def run(seed: int, train: bool) -> Any:
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, TOKENS, train=train, rngs=rngs)[0]

    assert (run(0, False) == run(1, False)).all()
    assert (run(0, True) == run(0, True)).all()
    assert (run(0, True) != run(1, True)).any()


def test_sequences_beyond_learned_positions_are_refused(tiny: Any, params_of: Any) -> None:
    config = tiny(position=Learned(5))
    params = params_of(config)
    with pytest.raises(ConfigError, match=r"6 tokens.*max_length=5.*model\.position\.max_length"):
        logits_of(config, params, TOKENS)
    assert logits_of(config, params, TOKENS[:, :5]).shape == (2, 5, 13)
