"""Speculative decoding says what the large model alone would: its tokens, its distribution."""

from __future__ import annotations

import dataclasses
from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import InitConfig, Learned, ModelConfig, Rotary
from lm.errors import ConfigError
from lm.generate import speculative_loop
from lm.generate.decode import generate
from lm.generate.sampling import SamplingConfig
from lm.generate.speculative import Draft, SpeculativeDecoding
from lm.generate.speculative_loop import verify
from lm.model import build_model

GREEDY = SamplingConfig(temperature=0.0)
LARGE = ModelConfig(
    vocab_size=13,
    num_layers=2,
    d_model=16,
    num_heads=2,
    d_ff=32,
    position=Learned(max_length=64),
    init=InitConfig(stddev=0.4, scale_residual=False),
)
PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [7], [11, 12, 3]]


def make(config: ModelConfig, seed: int = 0):
    model = build_model(config)
    variables = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 4), jnp.int32))
    return model, nn.unbox(variables)["params"]


@pytest.fixture(scope="module")
def large():
    return make(LARGE)


@pytest.fixture(scope="module")
def near(large):
    """The large model with some noise: its proposals are often, and not always, right."""
    model, params = large
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    noisy = [x + 0.04 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]
    return Draft(model, jax.tree.unflatten(structure, noisy), 3)


@pytest.fixture(scope="module")
def other():
    return Draft(*make(dataclasses.replace(LARGE, num_layers=1, position=Rotary()), 1), 2)


@pytest.mark.parametrize("which", ["near", "other"])
def test_greedy_tokens_are_the_large_models(large, which, request):
    draft = request.getfixturevalue(which)
    options = dict(sampling=GREEDY, max_new_tokens=21)
    expected = generate(*large, PROMPTS, **options)
    decoding = SpeculativeDecoding(*large, PROMPTS, draft=draft, **options)
    for [completion], [other] in zip(decoding.completions(), expected):
        assert completion.tokens == other.tokens
        assert completion.finish_reason == "length"
        np.testing.assert_allclose(completion.logprobs, other.logprobs, atol=1e-4)
    assert 0 <= decoding.acceptance < 1
    if which == "near":
        assert decoding.acceptance > 0.3


def test_a_draft_that_is_the_model_is_always_right_up_to_the_last_position(large):
    options = dict(sampling=SamplingConfig(top_k=5), max_new_tokens=24)
    decoding = SpeculativeDecoding(*large, [[1] * 40, [2]], draft=Draft(*large, 5), **options)
    results = decoding.completions()
    assert decoding.acceptance == 1.0
    assert [len(c.tokens) for [c] in results] == [24, 24]
    for prompt, [completion] in zip([[1] * 40, [2]], results):
        tokens = jnp.asarray([prompt + completion.tokens])
        logits = large[0].apply({"params": large[1]}, tokens)[0][0, len(prompt) - 1 : -1]
        expected = jax.nn.log_softmax(logits)[jnp.arange(24), jnp.asarray(completion.tokens)]
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)


def test_eos_ends_a_row_within_a_round_and_a_penalty_counts_proposals(large, near):
    penalised = SamplingConfig(temperature=0.0, repetition_penalty=1.4)
    for sampling in (GREEDY, penalised):
        free = generate(*large, PROMPTS, sampling=sampling, max_new_tokens=16)
        eos = free[0][0].tokens[6]
        options = dict(sampling=sampling, max_new_tokens=16, eos_id=eos)
        said = SpeculativeDecoding(*large, PROMPTS, draft=near, **options).completions()
        expected = generate(*large, PROMPTS, **options)
        assert [(c.tokens, c.finish_reason) for [c] in said] == [
            (c.tokens, c.finish_reason) for [c] in expected
        ]
        assert said[0][0].finish_reason == "eos"


def test_a_sampled_row_depends_on_neither_neighbours_nor_chunks(large, near):
    options = dict(draft=near, sampling=SamplingConfig(), max_new_tokens=12, seed=3)
    together = SpeculativeDecoding(*large, PROMPTS, **options).completions()
    alone = SpeculativeDecoding(*large, PROMPTS[:1], chunk=2, **options).completions()
    assert alone[0][0].tokens == together[0][0].tokens


def distance(counts: Counter, expected: dict) -> float:
    """Pearson's statistic over its degrees of freedom: about 1 where `expected` is the truth."""
    total = sum(counts.values())
    assert set(counts) <= set(expected)
    terms = [(counts[k] - total * p) ** 2 / (total * p) for k, p in expected.items()]
    return sum(terms) / (len(terms) - 1)


@pytest.fixture(scope="module")
def tiny():
    """Models of four tokens, and the large one's distribution of the first three, by its own
    probabilities at temperature 0.8."""
    config = dataclasses.replace(LARGE, vocab_size=4, num_layers=1)
    model, params = make(config)
    contexts = np.stack(np.meshgrid(*[range(4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    rows = np.concatenate([np.full((64, 1), 2), contexts], 1)
    logits = model.apply({"params": params}, jnp.asarray(rows))[0][:, :3] / 0.8
    p = np.take_along_axis(np.asarray(jax.nn.softmax(logits)), contexts[..., None], 2)[..., 0]
    expected = {tuple(c): float(x) for c, x in zip(contexts.tolist(), p.prod(1))}
    return (model, params), Draft(*make(config, 5), 2), expected


def sample(model, draft) -> Counter:
    decoding = SpeculativeDecoding(
        *model, [[2]], draft=draft, sampling=SamplingConfig(temperature=0.8), max_new_tokens=3,
        num_return_sequences=20_000,
    )  # fmt: skip
    return Counter(tuple(c.tokens) for c in decoding.completions()[0])


def test_samples_have_the_large_models_distribution(tiny):
    model, draft, expected = tiny
    assert sum(expected.values()) == pytest.approx(1)
    # 63 degrees of freedom: beyond 1.75 once in ten thousand seeds.
    assert distance(sample(model, draft), expected) < 1.75


def test_the_distribution_is_another_if_every_proposal_is_kept(tiny, monkeypatch):
    model, draft, expected = tiny
    monkeypatch.setattr(
        speculative_loop, "_leading", lambda kept: jnp.full(kept.shape[0], kept.shape[1])
    )
    jax.clear_caches()
    found = distance(sample(model, draft), expected)
    jax.clear_caches()
    assert found > 5


def test_verification_by_its_formula():
    keys = jax.random.split(jax.random.key(0), 40_000)
    q, p = jnp.asarray([0.7, 0.2, 0.1, 0.0]), jnp.asarray([0.1, 0.3, 0.4, 0.2])
    proposed = jax.random.categorical(jax.random.key(1), jnp.log(q), shape=(40_000, 1))
    draft = jnp.broadcast_to(jnp.log(q), (40_000, 1, 4))
    target = jnp.broadcast_to(jnp.log(p), (40_000, 2, 4))
    kept, token = verify(keys, proposed, draft, target, greedy=False)
    # The probability of keeping one is what p and q have in common.
    assert float(kept.mean()) == pytest.approx(float(jnp.minimum(p, q).sum()), abs=0.01)
    first = jnp.where(kept == 1, proposed[:, 0], token)
    np.testing.assert_allclose(np.bincount(first, minlength=4) / 40_000, p, atol=0.012)


@pytest.mark.parametrize(
    ("changes", "tokens", "message"),
    [
        ({"vocab_size": 14}, 2, "vocabulary of 14 tokens and the model one of 13"),
        ({}, 0, "draft_tokens must be at least 1, not 0"),
        ({"architecture": "encoder"}, 2, "the draft is a encoder"),
        ({"position": Learned(max_length=16)}, 2, "exceeds the 16 positions"),
    ],
)
def test_what_cannot_propose_is_refused(large, changes, tokens, message):
    config = dataclasses.replace(LARGE, **changes)
    with pytest.raises(ConfigError, match=message):
        SpeculativeDecoding(
            *large, PROMPTS, draft=Draft(build_model(config), {}, tokens), sampling=GREEDY,
            max_new_tokens=12,
        )  # fmt: skip
