"""Optimisers: AdamW against numpy, the rules, clipping, and every kind on the real model."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm.config import (
    DEFAULT_RULES,
    SGD,
    Adafactor,
    Adam,
    AdamW,
    CausalLM,
    Cosine,
    Duration,
    Learned,
    Lion,
    ModelConfig,
    Muon,
    ParameterRule,
)
from lm.errors import ConfigError
from lm.objectives import build_objective
from lm.train.optimizer import build_optimizer, gradient_norm, learning_rate

TOTAL = 10


def in_steps(duration: Duration) -> int:
    return duration.in_steps(tokens_per_step=1, steps_per_epoch=1)


def build(config: Any, params: Any, total_steps: int = TOTAL) -> optax.GradientTransformation:
    return build_optimizer(config, total_steps=total_steps, in_steps=in_steps, params=params)


def random_like(tree: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), tree)


def train(config: Any, params: Any, gradients: list[Any]) -> tuple[Any, Any]:
    optimizer = build(config, params)
    update = jax.jit(optimizer.update)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


SHAPES = {
    "layer_0": {"kernel": np.zeros((3, 4)), "bias": np.zeros(4)},
    "slow": {"kernel": np.zeros((4, 2))},
    "fixed": {"kernel": np.zeros((2, 5))},
}
RULES = (
    ParameterRule("fixed/.*", frozen=True),
    ParameterRule("slow/.*", learning_rate=0.1),
    ParameterRule(".*/kernel"),
    ParameterRule(".*/bias", decay=False),
)


def adamw_in_numpy(
    start: np.ndarray,
    gradients: list[np.ndarray],
    rates: np.ndarray,
    decay: float,
    beta1: float = 0.9,
    beta2: float = 0.95,
    epsilon: float = 1e-8,
) -> np.ndarray:
    """Loshchilov & Hutter 2019, algorithm 2, in float64."""
    p, m, v = start.astype(np.float64), 0.0, 0.0
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        g = g.astype(np.float64)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        step = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
        p = p - rate * (step + decay * p)
    return p


@pytest.mark.parametrize("clip", [None, 1.5])
def test_adamw_equals_the_algorithm(clip: float | None) -> None:
    params = random_like(SHAPES, 0)
    gradients = [random_like(SHAPES, i) for i in range(1, 6)]
    schedule = Cosine(Duration(steps=2))
    config = AdamW(0.01, schedule, weight_decay=0.3, clip_norm=clip, rules=RULES, beta2=0.95)
    actual, state = train(config, params, gradients)

    rate = learning_rate(config, total_steps=TOTAL, in_steps=in_steps)
    rates = np.array([rate(i) for i in range(5)], np.float64)
    norms = [
        np.sqrt(sum((g**2).sum() for g in jax.tree.leaves({**gradient, "fixed": {}})))
        for gradient in gradients
    ]
    assert norms[-1] > 1.5
    scales = [1.0 if clip is None else clip / norm for norm in norms]

    def expected(group: str, name: str, factor: float, decay: float) -> np.ndarray:
        clipped = [g[group][name] * scale for g, scale in zip(gradients, scales, strict=True)]
        return adamw_in_numpy(params[group][name], clipped, factor * rates, decay)

    close = {"rtol": 1e-5, "atol": 1e-7}
    np.testing.assert_allclose(
        actual["layer_0"]["kernel"], expected("layer_0", "kernel", 1, 0.3), **close
    )
    np.testing.assert_allclose(
        actual["layer_0"]["bias"], expected("layer_0", "bias", 1, 0.0), **close
    )
    np.testing.assert_allclose(
        actual["slow"]["kernel"], expected("slow", "kernel", 0.1, 0.3), **close
    )
    np.testing.assert_array_equal(actual["fixed"]["kernel"], params["fixed"]["kernel"])
    np.testing.assert_allclose(gradient_norm(state), norms[-1], rtol=1e-5)


def test_frozen_parameters_have_no_moments_and_may_have_any_gradient() -> None:
    params = random_like(SHAPES, 0)
    gradient = random_like(SHAPES, 1)
    gradient["fixed"]["kernel"][:] = np.nan
    config = AdamW(0.01, clip_norm=1.0, weight_decay=0.1, rules=RULES)
    after, state = train(config, params, [gradient])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((after, state)))
    assert (2, 5) not in [x.shape for x in jax.tree.leaves(state)]
    assert [x.shape for x in jax.tree.leaves(state)].count((3, 4)) == 2


def test_l2_and_decoupled_decay_differ_as_they_should() -> None:
    """With a gradient of 0, Adam's L2 term is the whole gradient and is normalised to the sign;
    AdamW's shrinks the parameter."""
    params = {"a": {"kernel": np.array([[0.5, -2.0]], np.float32)}}
    zero = jax.tree.map(np.zeros_like, params)
    rules = (ParameterRule(".*"),)
    adam, _ = train(Adam(0.1, weight_decay=0.01, rules=rules), params, [zero])
    adamw, _ = train(AdamW(0.1, weight_decay=0.01, rules=rules), params, [zero])
    sgd, _ = train(SGD(0.1, weight_decay=0.01, rules=rules), params, [zero])
    kernel = params["a"]["kernel"]
    np.testing.assert_allclose(adam["a"]["kernel"], kernel - 0.1 * np.sign(kernel), rtol=1e-4)
    for tree in (adamw, sgd):
        np.testing.assert_allclose(tree["a"]["kernel"], kernel * (1 - 0.1 * 0.01), rtol=1e-6)


KINDS: list[Any] = [
    AdamW(0.05),
    Adam(0.05),
    Adafactor(0.05),
    Adafactor(0.05, multiply_by_parameter_scale=True),
    Lion(0.02),
    SGD(0.2),
    SGD(0.05, momentum=0.9, nesterov=True),
    Muon(0.05, adam_learning_rate=0.05),
]


@pytest.mark.parametrize("config", KINDS, ids=lambda c: c.kind)
def test_every_optimizer_descends_a_quadratic(config: Any) -> None:
    target = random_like({"layer_0": {"mlp": {"kernel": np.zeros((4, 6)), "bias": np.zeros(6)}}}, 0)
    params = random_like(target, 1)
    optimizer = build(config, params, total_steps=100)

    def loss(params: Any) -> jax.Array:
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(target), strict=True)
        return sum(jnp.sum(jnp.square(p - t)) for p, t in pairs)

    def body(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), loss(params)

    _, losses = jax.jit(lambda p: jax.lax.scan(body, (p, optimizer.init(p)), None, 100))(params)
    assert losses[-1] < 0.2 * losses[0]


@pytest.fixture(scope="module")
def decoder_params() -> Any:
    model = ModelConfig(
        vocab_size=11,
        num_layers=2,
        d_model=8,
        num_heads=2,
        num_kv_heads=1,
        d_ff=16,
        position=Learned(8),
        tie_embeddings=False,
    )
    objective = build_objective(CausalLM(), model)
    tokens = jnp.zeros((2, 8), jnp.int32)
    batch = {"tokens": tokens, "targets": tokens, "weights": jnp.ones((2, 8))}
    return nn.meta.unbox(jax.eval_shape(lambda: objective.init(jax.random.key(0), batch)))


@pytest.mark.parametrize("config", KINDS, ids=lambda c: c.kind)
def test_every_optimizer_moves_every_parameter_of_the_model(
    config: Any, decoder_params: Any
) -> None:
    params = random_like(decoder_params, 0)
    after, _ = train(config, params, [random_like(decoder_params, 1)])

    def moved(path: Any, old: np.ndarray, new: jax.Array) -> None:
        assert new.shape == old.shape
        assert np.isfinite(new).all()
        assert (np.asarray(new) != old).mean() > 0.9, jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(moved, params, after)


def test_adafactor_factors_a_projection_as_the_matrix_that_it_is() -> None:
    """Queries of two heads, 128 wide, of 256: as the same kernel of one axis for all heads."""
    rng = np.random.default_rng(0)
    kernel, gradient = rng.normal(size=(2, 256, 2, 128)).astype(np.float32)

    def tree(x: np.ndarray) -> Any:
        return {"layer_0": {"attention": {"query": {"kernel": x}}}}

    config = Adafactor(0.1)
    after, state = train(config, tree(kernel), [tree(gradient)] * 2)
    flat = {"layer_0": {"mlp": {"up": {"kernel": kernel.reshape(256, 256)}}}}
    step = {"layer_0": {"mlp": {"up": {"kernel": gradient.reshape(256, 256)}}}}
    expected, _ = train(config, flat, [step] * 2)
    np.testing.assert_array_equal(
        np.reshape(after["layer_0"]["attention"]["query"]["kernel"], (256, 256)),
        expected["layer_0"]["mlp"]["up"]["kernel"],
    )
    # A mean for every row and one for every column, and no square of every number.
    assert sum(x.size for x in jax.tree.leaves(state)) < 3 * 256


def test_muon_orthogonalises_layer_matrices_over_the_right_axes(decoder_params: Any) -> None:
    """An update is a near-orthogonal matrix from inputs to outputs; five Newton-Schulz steps leave
    singular values between about 0.7 and 1.2. Everything else moves as by AdamW."""
    gradient = random_like(decoder_params, 1)
    zero = jax.tree.map(np.zeros_like, gradient)
    config = Muon(1.0, adam_learning_rate=0.5)
    after, _ = train(config, zero, [gradient])
    layer = after["layer_0"]
    matrices = {
        "query": layer["attention"]["query"]["kernel"].reshape(8, 8),  # [D, N H]
        "key": layer["attention"]["key"]["kernel"].reshape(8, 4),
        "output": layer["attention"]["output"]["kernel"].reshape(8, 8),  # [N H, D]
        "up": layer["mlp"]["up"]["kernel"] / np.sqrt(2),
        "down": layer["mlp"]["down"]["kernel"],
    }
    for matrix in matrices.values():
        singular = np.linalg.svd(matrix, compute_uv=False)
        assert singular.min() > 0.5 and singular.max() < 1.3, singular
    for path in (("token_embedding", "embedding"), ("lm_head", "kernel")):
        moved = after[path[0]][path[1]]
        np.testing.assert_allclose(moved, -0.5 * np.sign(gradient[path[0]][path[1]]), rtol=1e-4)


def test_rules_decide_by_first_match(decoder_params: Any) -> None:
    config = SGD(
        1.0,
        rules=(
            ParameterRule(r"layer_0/.*", frozen=True),
            ParameterRule(r"layer_\d+/mlp/.*", learning_rate=0.5),
            *DEFAULT_RULES,
        ),
    )
    zero = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), decoder_params)
    ones = jax.tree.map(np.ones_like, zero)
    after, _ = train(config, zero, [ones])
    assert (np.asarray(after["layer_0"]["mlp"]["up"]["kernel"]) == 0).all()
    assert (np.asarray(after["layer_1"]["mlp"]["up"]["kernel"]) == -0.5).all()
    assert (np.asarray(after["layer_1"]["attention"]["query"]["kernel"]) == -1).all()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((ParameterRule(".*/kernel"),), r"no rule matches layer_0/bias; add a rule"),
        ((ParameterRule("layer_0/kernel"),), r"no rule matches .*layer_0/bias, slow/kernel"),
        ((ParameterRule("layer_1/.*"), ParameterRule(".*")), r"rules\[0\].*matches no parameter"),
        (
            (ParameterRule(".*"), ParameterRule("slow/.*")),
            r"rules\[1\], pattern 'slow/\.\*': every parameter it matches is decided by an earlier",
        ),
        ((ParameterRule(".*", frozen=True),), r"freeze every parameter"),
    ],
)
def test_rules_that_leave_something_open_are_refused(rules: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(AdamW(rules=rules), SHAPES)


def test_default_rules_may_match_nothing() -> None:
    build(AdamW(), {"a": {"kernel": np.zeros(2)}})
    build(AdamW(rules=(ParameterRule("a/.*"), *DEFAULT_RULES)), {"a": {"kernel": np.zeros(2)}})


def test_clipping_leaves_small_gradients_alone() -> None:
    params = {"a": {"kernel": np.zeros((2, 2), np.float32)}}
    small = {"a": {"kernel": np.full((2, 2), 0.25, np.float32)}}
    after, state = train(SGD(1.0, clip_norm=0.6), params, [small])
    np.testing.assert_array_equal(after["a"]["kernel"], -small["a"]["kernel"])
    assert gradient_norm(state) == 0.5
