"""Vectors of distances as part of the keys (Shaw et al. 2018), and what else a model of attention
alone needs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import InitConfig, RelativeKeys, Rotary
from lm.errors import ConfigError
from lm.model import build_model
from lm.model.positions import relative_keys


def test_every_pair_has_the_vector_of_its_distance() -> None:
    """In order, told so, and anyhow; longer than the table is; and with the same gradient."""
    rng = np.random.default_rng(0)
    query = jnp.asarray(rng.normal(size=(2, 7, 3, 4)), jnp.float32)
    vectors = jnp.asarray(rng.normal(size=(5, 3, 4)), jnp.float32)
    places = np.arange(7)
    distance = places[:, None] - places
    shuffled = np.stack([places, [0, 0, 3, 1, 9, 2, 2]])
    anyhow = shuffled[:, :, None] - shuffled[:, None]

    def expected(distance: np.ndarray) -> jax.Array:
        rows = vectors[np.broadcast_to(distance, (2, 7, 7)).clip(0, 4)]
        return jnp.einsum("btnh,btsnh->bnts", query, rows)

    for given, meant in ((None, distance), (distance[None], distance), (anyhow, anyhow)):
        found = relative_keys(query, vectors, None if given is None else jnp.asarray(given))
        assert np.allclose(found, expected(meant), atol=1e-5)
    weights = jnp.asarray(rng.normal(size=(2, 3, 7, 7)), jnp.float32)

    def gradient(distance: Any) -> Any:
        return jax.grad(lambda v: (relative_keys(query, v, distance) * weights).sum())(vectors)

    rows = np.broadcast_to(distance, (2, 7, 7)).clip(0, 4)
    one_hot = jnp.asarray(np.eye(5, dtype=np.float32)[rows])
    wanted = jnp.einsum("bnts,btsr,btnh->rnh", weights, one_hot, query)
    # The second row is another order, so that nothing is in order.
    mixed = jnp.asarray(np.stack([distance, anyhow[1]]))
    mixed_hot = jnp.asarray(np.eye(5, dtype=np.float32)[np.asarray(mixed).clip(0, 4)])
    assert np.allclose(gradient(None), wanted, atol=1e-4)
    assert np.allclose(gradient(jnp.asarray(distance)[None]), wanted, atol=1e-4)
    wanted = jnp.einsum("bnts,btsr,btnh->rnh", weights, mixed_hot, query)
    assert np.allclose(gradient(mixed), wanted, atol=1e-4)


def test_attention_alone_by_hand(tiny: Any, params_of: Any) -> None:
    """One layer, without norms: embedding, attention with distances, readout, in numpy."""
    from lm.config import NormConfig

    config = tiny(
        num_layers=1,
        d_ff=0,
        position=RelativeKeys(max_distance=3),
        norm=NormConfig(kind="none"),
        attention_bias=False,
        attention_output_bias=False,
        tie_embeddings=False,
    )
    params = params_of(config)
    assert set(params["layer_0"]) == {"attention"}
    tokens = np.array([[3, 1, 4, 1, 5, 9]])
    found, _ = build_model(config).apply({"params": params}, jnp.asarray(tokens))

    own = jax.tree.map(np.asarray, params["layer_0"]["attention"])
    x = np.asarray(params["token_embedding"]["embedding"])[tokens[0]]
    query, key, value = (
        np.einsum("td,dnh->nth", x, own[n]["kernel"]) for n in ("query", "key", "value")
    )
    table = own["position_embedding"]["embedding"].reshape(4, 4, 4)
    out = np.zeros((6, 4, 4))
    for head in range(4):
        for t in range(6):
            scores = np.array(
                [
                    query[head, t] @ (key[head, s] + table[min(t - s, 3), head]) / 2
                    for s in range(t + 1)
                ]
            )
            shares = np.exp(scores - scores.max())
            out[t, head] = (shares / shares.sum()) @ value[head, : t + 1]
    x = x + np.einsum("tnh,nhd->td", out, own["output"]["kernel"])
    assert np.allclose(found[0], x @ np.asarray(params["lm_head"]["kernel"]), atol=1e-4)


def test_packed_rows_are_as_rows_of_their_own(tiny: Any, params_of: Any) -> None:
    config = tiny(position=RelativeKeys(max_distance=4))
    model, params = build_model(config), params_of(config)
    first, second = jnp.array([[1, 2, 3]]), jnp.array([[4, 5, 6, 7]])
    together, _ = model.apply(
        {"params": params},
        jnp.concatenate([first, second], axis=1),
        positions=jnp.array([[0, 1, 2, 0, 1, 2, 3]]),
        segment_ids=jnp.array([[1, 1, 1, 2, 2, 2, 2]]),
    )
    alone = [model.apply({"params": params}, tokens)[0][0] for tokens in (first, second)]
    assert np.allclose(together[0], np.concatenate(alone), atol=1e-4)


def test_what_starts_at_zero(tiny: Any) -> None:
    config = tiny(tie_embeddings=False, init=InitConfig(zero=("query", "readout")))
    params = build_model(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    zero = {
        jax.tree_util.keystr(path[:-1], simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if "kernel" in str(path) and not np.any(leaf)
    }
    assert {name.removesuffix("/kernel") for name in zero} == {
        "layer_0/attention/query",
        "layer_1/attention/query",
        "lm_head",
    }


def test_what_cannot_be_meant(tiny: Any) -> None:
    with pytest.raises(ConfigError, match='relative_keys" is for architecture="decoder"'):
        tiny(position=RelativeKeys(3), architecture="encoder")
    with pytest.raises(ConfigError, match="max_distance must be at least 1"):
        RelativeKeys(0)
    with pytest.raises(ConfigError, match="set tie_embeddings=False"):
        tiny(position=Rotary(), init=InitConfig(zero=("readout",)))
    with pytest.raises(ConfigError, match="d_ff must be at least 0"):
        tiny(d_ff=-1)
