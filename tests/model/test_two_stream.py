"""XLNet: a query never sees its own token, permutations, memory."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import NormConfig, XLNetRelative
from lm.model import build_model
from lm.model.positions import by_distance, relative_sinusoids

TOKENS = jnp.array([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]])
# The order in which the tokens are predicted: token ORDER[0] first.
ORDER = [3, 0, 5, 1, 4, 2]
RANK = jnp.argsort(jnp.array(ORDER))
ALLOWED = jnp.broadcast_to(RANK[None, :] < RANK[:, None], (2, 6, 6))
EVERY = jnp.broadcast_to(jnp.arange(6), (2, 6))
ROUNDING = 2e-5


@pytest.fixture
def xlnet(tiny: Any) -> Any:
    def make(**overrides: Any) -> Any:
        values = dict(
            architecture="two_stream",
            position=XLNetRelative(),
            norm=NormConfig(placement="post", epsilon=1e-12),
            attention_bias=False,
            attention_output_bias=False,
            lm_head_bias=True,
            token_types=2,
        )
        return tiny(**{**values, **overrides})

    return make


def apply(config: Any, params: Any, *arguments: Any, **keywords: Any) -> Any:
    return build_model(config).apply({"params": params}, *arguments, **keywords)


def seen_by(config: Any, params: Any, stream: str) -> list[set[int]]:
    """For every place, the tokens that its state depends on, by gradient."""
    query_at = {"query_at": EVERY[:1]} if stream == "query" else {}

    def state(embedding: jax.Array, at: int) -> jax.Array:
        changed = {**params, "token_embedding": {"embedding": embedding}}
        given = {"allowed": ALLOWED[:1], **query_at}
        return jnp.sum(apply(config, changed, TOKENS[:1], **given, method="hidden")[0][0, at, :3])

    found = []
    for at in range(6):
        gradient = jax.grad(state)(params["token_embedding"]["embedding"], at)
        rows = np.flatnonzero(np.abs(gradient).sum(1) > 1e-9)
        found.append({int(token) - 1 for token in rows})
    return found


def test_streams_see_what_the_order_allows(xlnet: Any, params_of: Any) -> None:
    config = xlnet()
    params = params_of(config)
    before = [{j for j in range(6) if RANK[j] < RANK[i]} for i in range(6)]
    # The first in the order has nothing to see: its attention is uniform over everything in the
    # reference too, so it is left out here, and everything that has seen it with more care below.
    query, content = seen_by(config, params, "query"), seen_by(config, params, "content")
    for i in range(6):
        assert content[i] == before[i] | {i}
        if i != ORDER[0]:
            assert query[i] == before[i]


def test_partial_prediction_gives_the_rows_of_full_prediction(xlnet: Any, params_of: Any) -> None:
    config = xlnet()
    params = params_of(config)
    full, _ = apply(config, params, TOKENS, allowed=ALLOWED, query_at=EVERY)
    at = jnp.array([[5, 2, 4], [1, 1, 0]])
    part, _ = apply(config, params, TOKENS, allowed=ALLOWED, query_at=at)
    expected = jnp.take_along_axis(full, at[:, :, None], axis=1)
    np.testing.assert_allclose(part, expected, rtol=ROUNDING, atol=ROUNDING)


def test_memory_is_as_good_as_the_tokens(xlnet: Any, params_of: Any) -> None:
    """With a causal order, the second half after the first's memory = the second half of both."""
    config = xlnet()
    params = params_of(config)
    causal = jnp.broadcast_to(jnp.tril(jnp.ones((6, 6), bool)), (2, 6, 6))
    whole, _ = apply(config, params, TOKENS, allowed=causal)
    _, memory = apply(config, params, TOKENS[:, :4], allowed=causal[:, :4, :4])
    assert [m.shape for m in memory] == [(2, 4, 16)] * 2
    rest, longer = apply(config, params, TOKENS[:, 4:], allowed=causal[:, :2, :2], memory=memory)
    np.testing.assert_allclose(rest, whole[:, 4:], rtol=ROUNDING, atol=ROUNDING)
    assert longer[0].shape == (2, 6, 16)


def test_memory_carries_no_gradient(xlnet: Any, params_of: Any) -> None:
    config = xlnet()
    params = params_of(config)

    def loss(embedding: jax.Array) -> jax.Array:
        changed = {**params, "token_embedding": {"embedding": embedding}}
        _, memory = apply(config, changed, TOKENS[:1, :3])
        return jnp.sum(apply(config, changed, TOKENS[:1, 3:], memory=memory, method="hidden")[0])

    rows = np.abs(jax.grad(loss)(params["token_embedding"]["embedding"])).sum(1)
    assert (rows[1:4] == 0).all() and (rows[4:7] > 0).all()


def test_padding_changes_nothing(xlnet: Any, params_of: Any) -> None:
    config = xlnet()
    params = params_of(config)
    positions = jnp.array([[0, 1, 2, 3, -1, -1]] * 2)
    padded, _ = apply(config, params, TOKENS, positions=positions)
    short, _ = apply(config, params, TOKENS[:, :4])
    np.testing.assert_allclose(padded[:, :4], short, rtol=ROUNDING, atol=ROUNDING)


def test_segments_matter_only_as_equal_or_not(xlnet: Any, params_of: Any) -> None:
    config = xlnet()
    params = params_of(config)
    types = jnp.array([[0, 0, 0, 1, 1, 1]] * 2)
    one, _ = apply(config, params, TOKENS, token_types=types)
    swapped, _ = apply(config, params, TOKENS, token_types=1 - types)
    none, _ = apply(config, params, TOKENS)
    np.testing.assert_allclose(one, swapped, rtol=ROUNDING, atol=ROUNDING)
    assert np.abs(one - none).max() > 1e-2


def test_memory_counts_as_segment_zero(xlnet: Any, params_of: Any) -> None:
    config = xlnet()
    params = params_of(config)
    _, memory = apply(config, params, TOKENS[:, :3])

    def rest(token_types: Any) -> Any:
        return apply(config, params, TOKENS[:, 3:], memory=memory, token_types=token_types)[0]

    zeros = jnp.zeros((2, 3), jnp.int32)
    np.testing.assert_allclose(rest(zeros), rest(None), rtol=ROUNDING, atol=ROUNDING)
    # All of one segment, but another than the memory's.
    assert np.abs(rest(zeros + 1) - rest(None)).max() > 1e-2


def test_the_query_stream_is_the_content_stream_where_they_know_the_same(
    xlnet: Any, params_of: Any
) -> None:
    """All tokens alike, the mask's embedding too, and everything seen: nothing tells them apart."""
    config = xlnet()
    params = params_of(config)
    row = params["token_embedding"]["embedding"][4]
    params = {**params, "mask_embedding": {"embedding": row[None]}}
    tokens, everything = jnp.full((2, 6), 4), jnp.ones((2, 6, 6), bool)
    at = jnp.array([[5, 2, 0], [1, 1, 3]])
    query, _ = apply(config, params, tokens, allowed=everything, query_at=at)
    content, _ = apply(config, params, tokens)
    expected = jnp.take_along_axis(content, at[:, :, None], axis=1)
    np.testing.assert_allclose(query, expected, rtol=ROUNDING, atol=ROUNDING)


def test_relative_sinusoids_by_the_formula() -> None:
    table = np.asarray(relative_sinusoids(3, 5, 4, None))
    assert table.shape == (8, 4)
    for row, distance in enumerate([5, 4, 3, 2, 1, 0, -1, -2]):
        angles = [distance, distance / 100]
        expected = [*map(math.sin, angles), *map(math.cos, angles)]
        np.testing.assert_allclose(table[row], expected, atol=1e-6)
    clamped = np.asarray(relative_sinusoids(3, 5, 4, 2))
    np.testing.assert_array_equal(clamped[0], clamped[3])


def test_columns_by_distance_become_columns_by_key() -> None:
    queries, keys = 3, 5
    distances = np.arange(keys, -queries, -1.0)
    x = jnp.asarray(np.broadcast_to(distances, (2, 1, queries, len(distances))))
    expected = [[(keys - queries) + i - j for j in range(keys)] for i in range(queries)]
    np.testing.assert_array_equal(by_distance(x, keys)[1, 0], expected)


def test_a_place_needs_to_be_told_what_it_may_see(xlnet: Any, params_of: Any) -> None:
    config = xlnet()
    with pytest.raises(ValueError, match="query_at needs allowed"):
        apply(config, params_of(config), TOKENS, query_at=EVERY)
    without = xlnet(token_types=0)
    with pytest.raises(ValueError, match=r"token_types are given, but model\.token_types is 0"):
        apply(without, params_of(without), TOKENS, token_types=TOKENS)
