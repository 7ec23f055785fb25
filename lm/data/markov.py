"""Markov chains, each with transition probabilities of its own, and how well they can be guessed
from what was seen of them (Edelman et al. 2024, The Evolution of Statistical Induction Heads)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from lm.config import MarkovChains

# Chains that share a generator: enough to spread the costs of a call over them.
_BLOCK = 1024
_FIRST = ord("a")


def texts(source: MarkovChains) -> Iterator[str]:
    """The chains of the source in their order, a letter a state."""
    for begin in range(0, source.chains, _BLOCK):
        generator = np.random.default_rng([source.seed, begin // _BLOCK])
        # A whole block, so that a chain does not depend on how many there are.
        block = draw(_BLOCK, source.states, source.length, generator)[: source.chains - begin]
        yield from (row.tobytes().decode("ascii") for row in (block + _FIRST).astype(np.uint8))


def draw(
    chains: int, states: int, length: int, generator: np.random.Generator
) -> Int[np.ndarray, "chains length"]:
    """Chains of states 0, 1 ..., from transition probabilities with rows of Dirichlet(1)."""
    transitions = generator.dirichlet(np.ones(states), size=(chains, states))
    # Thresholds of a uniform number; the last one is not needed, it is 1 but for rounding.
    limits = np.cumsum(transitions, axis=-1)[..., :-1]
    first = np.cumsum(stationary(transitions), axis=-1)[..., :-1]
    uniform = generator.random((length, chains, 1))
    found = np.empty((chains, length), np.int32)
    found[:, 0] = (uniform[0] >= first).sum(axis=-1)
    everyone = np.arange(chains)
    for step in range(1, length):
        found[:, step] = (uniform[step] >= limits[everyone, found[:, step - 1]]).sum(axis=-1)
    return found


def stationary(
    transitions: Float[np.ndarray, "*chains V V"],
) -> Float[np.ndarray, "*chains V"]:
    """The distribution that stays as it is: p with p P = p, of sum 1."""
    states = transitions.shape[-1]
    # p (I - P + 1) = (1 ... 1), where 1 is the matrix of ones: of full rank where p is unique.
    system = np.swapaxes(np.eye(states) - transitions + 1, -1, -2)
    ones = np.ones((*transitions.shape[:-2], states, 1))
    return np.linalg.solve(system, ones)[..., 0]


def unigram_loss(
    chains: Int[np.ndarray, "chains length"], states: int
) -> Float[np.ndarray, "chains length-1"]:
    """-log of the probability of every state but the first, in nats, as guessed from how often it
    was there before, plus one."""
    seen = np.cumsum(_one_hot(chains, states), axis=1)[:, :-1] + 1
    return _surprise(seen, chains)


def bigram_loss(
    chains: Int[np.ndarray, "chains length"], states: int
) -> Float[np.ndarray, "chains length-1"]:
    """The same from how often it came after the state before, plus one: the posterior predictive of
    the prior, than which nothing does better but for what the start says."""
    before, after = (_one_hot(part, states) for part in (chains[:, :-1], chains[:, 1:]))
    pairs = np.cumsum(before[..., :, None] * after[..., None, :], axis=1)
    # What was seen before this step: its own pair is what is to be guessed.
    seen = np.pad(pairs, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1] + 1
    return _surprise(np.einsum("ctv,ctvw->ctw", before, seen), chains)


def _one_hot(
    chains: Int[np.ndarray, "chains length"], states: int
) -> Int[np.ndarray, "chains length V"]:
    return np.eye(states, dtype=np.int32)[chains]


def _surprise(
    counts: Int[np.ndarray, "chains steps V"], chains: Int[np.ndarray, "chains length"]
) -> Float[np.ndarray, "chains steps"]:
    came = np.take_along_axis(counts, chains[:, 1:, None], axis=-1)[..., 0]
    return np.log(counts.sum(axis=-1)) - np.log(came)
