"""What objectives share: texts of rows, which tokens are real, and the places with weight."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.data.corruption.vocabulary import vocabulary_of
from lm.errors import ConfigError
from lm.objectives.common import heaviest, text_of, valid_tokens, without_ends
from tests.objectives.cases import TOKENIZER


def test_a_text_of_pieces() -> None:
    pieces = [np.array([1, 2], np.int32), np.array([3], np.int32)]
    assert text_of(pieces, joined=True).tolist() == [1, 2, 3]
    assert text_of(pieces[:1], joined=False).tolist() == [1, 2]
    with pytest.raises(ConfigError, match="takes a row for one text.*packing='none'"):
        text_of(pieces, joined=False)


def test_ends_are_taken_off_once() -> None:
    vocabulary = vocabulary_of(TOKENIZER)
    for given, expected in [
        ([257, 5, 258], [5]),
        ([257, 5], [5]),
        ([5, 258], [5]),
        ([258, 5, 257], [258, 5, 257]),
        ([257, 257, 258, 258], [257, 258]),
        ([258], []),
        ([], []),
    ]:
        assert without_ends(np.array(given, np.int32), vocabulary).tolist() == expected


def test_which_tokens_are_real() -> None:
    tokens = jnp.ones((4, 3), jnp.int32)
    positions = jnp.array([[0, 1, 2], [0, 1, -1], [0, -1, -1], [-1, -1, -1]])
    expected = [[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]]
    found = valid_tokens({"tokens": tokens, "positions": positions})
    assert found.tolist() == np.array(expected, bool).tolist()
    # Positions begin again with every document, and are 0 at padding.
    segments = jnp.array([[1, 1, 2], [1, 2, 0], [1, 0, 0], [0, 0, 0]])
    packed = {"tokens": tokens, "positions": positions * 0, "segment_ids": segments}
    assert valid_tokens(packed).tolist() == np.array(expected, bool).tolist()
    assert valid_tokens({"tokens": tokens}).all()


@pytest.mark.parametrize("count", [3, 5, 17])
def test_the_heaviest_places_lose_nothing(count: int) -> None:
    rng = np.random.default_rng(0)
    weights = np.zeros((50, 17), np.float32)
    for row in weights:
        places = rng.choice(17, rng.integers(0, count + 1), replace=False)
        # Equal ones and different ones.
        row[places] = rng.choice([0.25, 1, 1, 3], len(places))
    values, wide = rng.normal(size=(50, 17)), rng.normal(size=(50, 17, 4))
    numbered = np.broadcast_to(np.arange(17), (50, 17))
    found = heaviest(
        *map(jnp.asarray, (weights,)), count, *map(jnp.asarray, (values, wide, numbered))
    )
    heavy, places, (value, vectors, numbers) = jax.tree.map(np.asarray, found)
    assert heavy.shape == places.shape == value.shape == (50, count)
    assert vectors.shape == (50, count, 4)
    np.testing.assert_array_equal(numbers, places)
    for row in range(50):
        assert len(set(places[row])) == count
        rebuilt = np.zeros(17, np.float32)
        rebuilt[places[row]] = heavy[row]
        np.testing.assert_array_equal(rebuilt, weights[row])
        np.testing.assert_array_equal(vectors[row], wide[row, places[row]].astype(np.float32))
    np.testing.assert_allclose((heavy * value).sum(1), (weights * values).sum(1), rtol=1e-5)
