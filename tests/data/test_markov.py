"""Markov chains as a source, and how well counting guesses them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lm.config import MarkovChains, from_dict
from lm.data.markov import bigram_loss, draw, stationary, texts, unigram_loss
from lm.data.sources import documents, source_fingerprint
from lm.errors import ConfigError

NOWHERE = Path("nowhere")


def test_the_stationary_distribution_stays() -> None:
    transitions = np.random.default_rng(0).dirichlet(np.ones(4), size=(5, 4))
    found = stationary(transitions)
    assert np.allclose(found.sum(axis=-1), 1) and (found > 0).all()
    assert np.allclose(np.einsum("cv,cvw->cw", found, transitions), found)


def test_chains_follow_transitions_of_their_own() -> None:
    """Of long chains the shares of pairs say what the rows were: Dirichlet(1) in every place."""
    chains = draw(200, 3, 2000, np.random.default_rng(0))
    one_hot = np.eye(3)[chains]
    pairs = np.einsum("ctv,ctw->cvw", one_hot[:, :-1], one_hot[:, 1:])
    rows = pairs / np.maximum(pairs.sum(axis=-1, keepdims=True), 1)
    # Uniform on the simplex of three: mean 1/3, variance 2 / (9 * 4) = 1/18.
    assert np.allclose(rows.mean(axis=0), 1 / 3, atol=0.06)
    assert np.allclose(rows.var(axis=0), 1 / 18, atol=0.02)
    # And the beginning is as likely as any other place.
    assert np.allclose(one_hot[:, 0].mean(axis=0), one_hot.mean(axis=(0, 1)), atol=0.1)


def test_the_source_is_a_function_of_its_seed_and_a_chain_of_its_number() -> None:
    few = list(texts(MarkovChains(length=11, chains=3)))
    many = list(texts(MarkovChains(length=11, chains=1030)))
    assert few == many[:3] and len(set(many)) > 900 and len(many) == 1030
    assert all(len(text) == 11 and set(text) <= set("abc") for text in many)
    assert few != list(texts(MarkovChains(length=11, chains=3, seed=1)))
    source = MarkovChains(length=11, chains=3)
    assert [document["text"] for document in documents(source, NOWHERE)] == few
    other = MarkovChains(length=11, chains=3, seed=1)
    assert source_fingerprint(source, NOWHERE) != source_fingerprint(other, NOWHERE)


def test_settings_are_checked() -> None:
    for values, words in (
        ({"states": 27}, "there are 26"),
        ({"states": 1}, "states must be at least 2"),
        ({"length": 1}, "length must be at least 2"),
        ({"chains": 0}, "chains must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            from_dict(MarkovChains, values)


def test_counting_by_hand() -> None:
    """a b a b b, of two states. Unigrams: b of {a}: 1/3; a of {a, b}: 2/4; b of {a, b, a}: 2/5;
    b of {a, b, a, b}: 3/6. Bigrams: b after a, of nothing: 1/2; a after b, of nothing: 1/2; b after
    a, of {b}: 2/3; b after b, of {a}: 1/3."""
    chain = np.array([[0, 1, 0, 1, 1]])
    assert np.allclose(np.exp(-unigram_loss(chain, 2)), [[1 / 3, 2 / 4, 2 / 5, 3 / 6]])
    assert np.allclose(np.exp(-bigram_loss(chain, 2)), [[1 / 2, 1 / 2, 2 / 3, 1 / 3]])


@pytest.mark.parametrize(
    ("states", "unigram", "bigram"), [(2, 0.5796, 0.5119), (3, 1.0045, 0.8855)]
)
def test_the_losses_of_counting(states: int, unigram: float, bigram: float) -> None:
    """Against numbers from another implementation, of as many chains: two standard errors of
    either, 0.2 / sqrt(20,000) in nats, are 0.004."""
    chains = draw(20_000, states, 101, np.random.default_rng(0))
    assert unigram_loss(chains, states).mean() == pytest.approx(unigram, abs=0.004)
    assert bigram_loss(chains, states).mean() == pytest.approx(bigram, abs=0.004)
