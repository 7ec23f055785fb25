"""Encoders: both directions, token types, embeddings of another width, heads."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import (
    DropoutConfig,
    HeadConfig,
    Learned,
    NormConfig,
    PoolerConfig,
    Rotary,
    Sinusoidal,
    T5Relative,
)
from lm.model import build_model, pool

TOKENS = jnp.array([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]])
ROUNDING = 2e-5  # float32, values of order 1 after two layers


@pytest.fixture
def bert(tiny: Any) -> Any:
    def make(**overrides: Any) -> Any:
        values = dict(
            architecture="encoder",
            position=Learned(8),
            norm=NormConfig(placement="post", epsilon=1e-12),
            token_types=2,
            embedding_norm=True,
            lm_head="transform",
            lm_head_bias=True,
            pooler=PoolerConfig(),
            heads=(HeadConfig("next_sentence", 2),),
        )
        return tiny(**{**values, **overrides})

    return make


def apply(config: Any, params: Any, *arguments: Any, **keywords: Any) -> Any:
    return build_model(config).apply({"params": params}, *arguments, **keywords)


@pytest.mark.parametrize("position", [Learned(8), Sinusoidal(), Rotary(), T5Relative(8, 16)])
def test_every_token_sees_every_token(bert: Any, params_of: Any, position: Any) -> None:
    config = bert(position=position)
    params = params_of(config)

    def state(embedding: jax.Array, at: int) -> jax.Array:
        changed = {**params, "token_embedding": {"embedding": embedding}}
        return jnp.sum(apply(config, changed, TOKENS[:1], method="hidden")[0][0, at, :3])

    for at in range(6):
        gradient = jax.grad(state)(params["token_embedding"]["embedding"], at)
        reached = {int(t) for t in np.flatnonzero(np.abs(gradient).sum(1) > 1e-9)}
        assert reached == {1, 2, 3, 4, 5, 6}


def test_padding_is_seen_by_nothing_and_changes_nothing(bert: Any, params_of: Any) -> None:
    config = bert()
    params = params_of(config)
    short, _ = apply(config, params, TOKENS[:, :4])
    positions = jnp.array([[0, 1, 2, 3, -1, -1]] * 2)
    padded, _ = apply(config, params, TOKENS, positions=positions)
    np.testing.assert_allclose(padded[:, :4], short, rtol=ROUNDING, atol=ROUNDING)
    assert np.isfinite(padded).all()
    whole, _ = apply(config, params, TOKENS)
    assert np.abs(whole[:, :4] - short).max() > 1e-2


def test_token_types_default_to_zero_and_matter(bert: Any, params_of: Any) -> None:
    config = bert()
    params = params_of(config)
    without, _ = apply(config, params, TOKENS)
    zeros, _ = apply(config, params, TOKENS, token_types=jnp.zeros_like(TOKENS))
    ones, _ = apply(config, params, TOKENS, token_types=jnp.ones_like(TOKENS))
    np.testing.assert_array_equal(without, zeros)
    assert np.abs(without - ones).max() > 1e-2
    with pytest.raises(ValueError, match=r"token_types are given, but model\.token_types is 0"):
        plain = bert(token_types=0)
        apply(plain, params_of(plain), TOKENS, token_types=TOKENS)


def test_embeddings_of_another_width_are_projected_and_back(bert: Any, params_of: Any) -> None:
    config = bert(embedding_size=6)
    params = params_of(config)
    assert params["token_embedding"]["embedding"].shape == (13, 6)
    assert params["embedding_norm"]["scale"].shape == (6,)
    assert params["embedding_projection"]["kernel"].shape == (6, 16)
    assert params["lm_transform"]["kernel"].shape == (16, 6)
    assert apply(config, params, TOKENS)[0].shape == (2, 6, 13)
    states = apply(config, params, TOKENS, method="hidden_states")
    assert [state.shape for state in states] == [(2, 6, 16)] * 3


def test_scanned_layers_are_the_same(bert: Any, params_of: Any) -> None:
    params = params_of(bert())
    plain, _ = apply(bert(), params, TOKENS)
    for overrides in ({"scan_layers": True}, {"scan_layers": True, "remat": "full"}):
        other, _ = apply(bert(**overrides), params, TOKENS)
        np.testing.assert_allclose(other, plain, rtol=ROUNDING, atol=ROUNDING)


def test_hidden_states_begin_with_the_embeddings_and_end_with_hidden(
    bert: Any, params_of: Any
) -> None:
    for placement in ("post", "pre"):
        config = bert(norm=NormConfig(placement=placement))
        params = params_of(config)
        states = apply(config, params, TOKENS, method="hidden_states")
        hidden, _ = apply(config, params, TOKENS, method="hidden")
        np.testing.assert_allclose(states[-1], hidden, rtol=ROUNDING, atol=ROUNDING)
        shallow = bert(norm=NormConfig(placement=placement), num_layers=1)
        one = {name: tree for name, tree in params.items() if name != "layer_1"}
        if placement == "post":
            first, _ = apply(shallow, one, TOKENS, method="hidden")
            np.testing.assert_allclose(states[1], first, rtol=ROUNDING, atol=ROUNDING)


# ---------------------------------------------------------------------------------------- pooling


def test_pooling_takes_valid_tokens_only() -> None:
    hidden = jnp.arange(2 * 4 * 3, dtype=jnp.float32).reshape(2, 4, 3)
    valid = jnp.array([[False, True, True, False], [True, True, True, True]])
    np.testing.assert_array_equal(pool(hidden, "first", valid), [hidden[0, 1], hidden[1, 0]])
    np.testing.assert_array_equal(pool(hidden, "last", valid), [hidden[0, 2], hidden[1, 3]])
    mean = [hidden[0, 1:3].mean(0), hidden[1].mean(0)]
    np.testing.assert_allclose(pool(hidden, "mean", valid), mean, rtol=1e-6)
    np.testing.assert_array_equal(pool(hidden, "last"), hidden[:, 3])


def test_the_pooler_and_a_pooled_head_by_hand(bert: Any, params_of: Any) -> None:
    config = bert()
    params = params_of(config)
    hidden = np.asarray(apply(config, params, TOKENS, method="hidden")[0], np.float64)
    pooler, head = params["pooler"], params["next_sentence"]
    vector = np.tanh(hidden[:, 0] @ np.asarray(pooler["kernel"]) + np.asarray(pooler["bias"]))
    expected = vector @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    made = apply(config, params, jnp.asarray(hidden, jnp.float32), method="pooled")
    np.testing.assert_allclose(made, vector, rtol=1e-4, atol=1e-5)
    made = apply(config, params, "next_sentence", jnp.asarray(hidden, jnp.float32), method="head")
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        (HeadConfig("classification", 3), (2, 3)),
        (HeadConfig("regression", 1), (2, 1)),
        (HeadConfig("multiple_choice", 1), (2, 1)),
        (HeadConfig("token_classification", 5), (2, 6, 5)),
        (HeadConfig("span", 2), (2, 6, 2)),
        (HeadConfig("replaced_token", 1, transform=True), (2, 6, 1)),
        (HeadConfig("classification", 3, bias=False), (2, 3)),
    ],
)
def test_heads_have_their_shapes_and_parameters(
    bert: Any, params_of: Any, head: HeadConfig, shape: tuple[int, ...]
) -> None:
    config = bert(heads=(head,), lm_head="none", lm_head_bias=False)
    params = params_of(config)
    hidden, _ = apply(config, params, TOKENS)
    assert hidden.shape == (2, 6, 16), "without a language-model head: hidden states"
    assert apply(config, params, head.kind, hidden, method="head").shape == shape
    assert ("bias" in params[head.kind]) == head.bias
    assert (f"{head.kind}_transform" in params) == head.transform


def test_the_transform_of_a_head_by_hand(bert: Any, params_of: Any) -> None:
    config = bert(heads=(HeadConfig("replaced_token", 1, transform=True),))
    params = params_of(config)
    hidden, _ = apply(config, params, TOKENS, method="hidden")
    inner, outer = params["replaced_token_transform"], params["replaced_token"]
    x = jax.nn.gelu(hidden @ inner["kernel"] + inner["bias"], approximate=False)
    made = apply(config, params, "replaced_token", hidden, method="head")
    np.testing.assert_allclose(made, x @ outer["kernel"] + outer["bias"], rtol=1e-4, atol=1e-5)


def test_dropout_of_the_output_the_pooler_and_the_heads(bert: Any, params_of: Any) -> None:
    """Each only while training, only where it is set, and there."""

    def run(config: Any, method: str, *arguments: Any, train: bool) -> Any:
        given = {"rngs": {"dropout": jax.random.key(0)}, "train": train, "method": method}
        return apply(config, params_of(config), *arguments, **given)

    token = HeadConfig("token_classification", 5)
    heads = (HeadConfig("next_sentence", 2), token)
    plain = bert(heads=heads)
    hidden = jnp.ones((2, 6, 16))
    cases = {
        "output": ("hidden", (TOKENS,)),
        "pooler": ("pooled", (hidden,)),
        "head": ("head", ("token_classification", hidden)),
    }
    for name, (method, arguments) in cases.items():
        config = bert(heads=heads, dropout=DropoutConfig(**{name: 0.5}))
        still = jax.tree.leaves(run(plain, method, *arguments, train=False))[0]
        same = jax.tree.leaves(run(config, method, *arguments, train=False))[0]
        np.testing.assert_array_equal(same, still)
        dropped = jax.tree.leaves(run(config, method, *arguments, train=True))[0]
        assert np.abs(dropped - still).max() > 1e-2, name
        if name == "output":
            zeros = float((np.asarray(dropped) == 0).mean())
            assert 0.3 < zeros < 0.7
        for other in cases.keys() - {name}:
            apart = bert(heads=heads, dropout=DropoutConfig(**{other: 0.5}))
            untouched = jax.tree.leaves(run(apart, method, *arguments, train=True))[0]
            np.testing.assert_array_equal(untouched, still)


def test_what_a_model_does_not_have_is_said(bert: Any, params_of: Any) -> None:
    config = bert(lm_head="none", lm_head_bias=False, heads=(), pooler=None)
    params = params_of(config)
    hidden = jnp.zeros((1, 2, 16))
    with pytest.raises(ValueError, match="no language-model head"):
        apply(config, params, hidden, method="logits")
    with pytest.raises(ValueError, match=r"model\.pooler is not set"):
        apply(config, params, hidden, method="pooled")
    with pytest.raises(ValueError, match=r"no span head; model\.heads has: none"):
        apply(config, params, "span", hidden, method="head")
