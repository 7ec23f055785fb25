"""Scores against one full forward pass and log_softmax, and what must not change them."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import InitConfig, Learned, ModelConfig, Rotary
from lm.data.tokenizers.simple import Bytes, Characters
from lm.errors import ConfigError, UserError
from lm.evaluate import scoring
from lm.evaluate.scoring import (
    Request,
    Score,
    continuation_request,
    score,
    text_request,
)
from lm.model import build_model

CONFIG = ModelConfig(
    vocab_size=31,
    num_layers=1,
    d_model=16,
    num_heads=2,
    d_ff=16,
    position=Learned(max_length=24),
    init=InitConfig(stddev=0.5, scale_residual=False),
)
BYTES = Bytes()


def make(config: ModelConfig):
    model = build_model(config)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    return model, nn.unbox(variables)["params"]


@pytest.fixture(scope="module")
def learned():
    return make(CONFIG)


@pytest.fixture(scope="module")
def rotary():
    return make(dataclasses.replace(CONFIG, position=Rotary()))


@functools.partial(jax.jit, static_argnames="model")
def forward(model, params, tokens):
    return model.apply({"params": params}, tokens)[0]


def direct(model, params, tokens: list[int], first: int) -> np.ndarray:
    """log p of tokens[first:], each after all before it, in one pass."""
    position = model.config.position
    # One shape for all (17 fills the rest), for speed; the model's own tests show it is causal.
    inputs = np.full((1, position.max_length if isinstance(position, Learned) else 40), 17)
    inputs[0, : len(tokens) - 1] = tokens[:-1]
    logprobs = np.asarray(jax.nn.log_softmax(forward(model, params, inputs)[0]))
    return logprobs[np.arange(first - 1, len(tokens) - 1), tokens[first:]]


def random_requests(count: int, longest: int) -> list[Request]:
    rng = np.random.default_rng(1)
    requests = []
    for i in range(count):
        tokens = rng.integers(0, 31, rng.integers(2, longest + 1)).tolist()
        split = int(rng.integers(0, len(tokens)))
        requests.append(Request(tokens[:split], tokens[split:], f"f:{i}"))
    return requests


def test_scores_equal_a_direct_computation_in_order(learned):
    requests = random_requests(20, 24)
    results = score(*learned, requests)
    for request, result in zip(requests, results, strict=True):
        first = max(len(request.context), 1)
        tokens = [*request.context, *request.tokens]
        assert result.tokens == tokens[first:]
        expected = direct(*learned, tokens, first)
        np.testing.assert_allclose(result.token_logprobs, expected, atol=2e-5)
        assert result.logprob == pytest.approx(expected.sum(), abs=1e-4)


def test_batching_does_not_change_scores(rotary, monkeypatch):
    requests = random_requests(12, 40)
    together = score(*rotary, requests)
    alone = [score(*rotary, [r])[0] for r in requests]
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 128)
    small = score(*rotary, requests[::-1])[::-1]
    for a, b, c in zip(together, alone, small):
        np.testing.assert_allclose(a.token_logprobs, b.token_logprobs, atol=1e-5)
        np.testing.assert_allclose(a.token_logprobs, c.token_logprobs, atol=1e-5)


def test_logits_in_parts_give_the_same(learned, monkeypatch):
    requests = random_requests(6, 24)
    whole = score(*learned, requests)
    monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 31 * 20)
    scoring._target_logprobs.clear_cache()
    parts = score(*learned, requests)
    scoring._target_logprobs.clear_cache()
    for a, b in zip(whole, parts):
        np.testing.assert_allclose(a.token_logprobs, b.token_logprobs, atol=1e-5)


def test_a_single_token_without_context_scores_nothing(learned):
    assert score(*learned, [Request([], [5], "f:1")]) == [Score([], [])]
    assert Score([], []).logprob == 0.0


def test_probabilities_of_all_continuations_add_up_to_one(learned):
    results = score(*learned, [Request([1, 2, 3], [t], f"f:{t}") for t in range(31)])
    assert sum(np.exp(r.logprob) for r in results) == pytest.approx(1.0, abs=1e-5)


def test_the_last_position_is_used_and_one_more_is_refused(learned):
    tokens = list(range(25))
    [fits] = score(*learned, [Request([], tokens, "f:1")])
    np.testing.assert_allclose(fits.token_logprobs, direct(*learned, tokens[:25], 1), atol=2e-5)
    with pytest.raises(
        UserError, match=r"f:2: 26 tokens.* exceed its 24 positions.*--window_stride"
    ):
        score(*learned, [Request([], tokens, "f:1"), Request([1], tokens, "f:2")])


@pytest.mark.parametrize("context", [0, 1, 10, 30])
@pytest.mark.parametrize("stride", [1, 5, 24])
def test_windows_score_each_token_once_from_enough_context(learned, stride, context):
    rng = np.random.default_rng(2)
    tokens = rng.integers(0, 31, 57).tolist()
    [result] = score(*learned, [Request(tokens[:context], tokens[context:], "f:1")], stride=stride)
    first = max(context, 1)
    assert result.tokens == tokens[first:]
    # Window by window as its definition says: ends move on by `stride` from the first that counts.
    end = max(25, min(first + stride, 57))
    done, expected = first, []
    while done < 57:
        stretch = tokens[max(0, end - 25) : end]
        expected += direct(*learned, stretch, len(stretch) - (end - done)).tolist()
        done, end = end, min(end + stride, 57)
    np.testing.assert_allclose(result.token_logprobs, expected, atol=2e-5)


def test_windows_leave_what_fits_alone(learned):
    requests = random_requests(5, 24)
    assert score(*learned, requests, stride=3) == score(*learned, requests)


def test_windows_of_a_model_without_limit(rotary):
    model, params = rotary
    tokens = np.random.default_rng(3).integers(0, 31, 40).tolist()
    [full] = score(model, params, [Request([], tokens, "f:1")])
    np.testing.assert_allclose(full.token_logprobs, direct(model, params, tokens, 1), atol=2e-5)
    [windowed] = score(model, params, [Request([], tokens, "f:1")], window=8, stride=8)
    np.testing.assert_allclose(windowed.token_logprobs[:8], full.token_logprobs[:8], atol=2e-5)
    expected = direct(model, params, tokens[8:17], 1)
    np.testing.assert_allclose(windowed.token_logprobs[8:16], expected, atol=2e-5)


def test_impossible_strides_are_refused(learned, rotary):
    request = [Request([], [1, 2], "f:1")]
    with pytest.raises(ConfigError, match="between 1 and the window's 24 tokens, not 25"):
        score(*learned, request, stride=25)
    with pytest.raises(ConfigError, match="between 1 and the window's 24 tokens, not 0"):
        score(*learned, request, window=100, stride=0)
    with pytest.raises(ConfigError, match="needs a window"):
        score(*rotary, request, stride=4)


def test_a_diverged_model_is_named(learned):
    model, params = learned
    broken = jax.tree.map(lambda x: x * jnp.nan, params)
    with pytest.raises(UserError, match="f:7: the model gives probabilities that are not numbers"):
        score(model, broken, [Request([], [1, 2], "f:7")])


class Pairs(Characters):
    """Characters, except that "ab" is one token, 7."""

    def encode(self, text: str) -> list[int]:
        ids = super().encode(text)
        a, b = super().encode("ab")
        out: list[int] = []
        for token in ids:
            if out and out[-1] == a and token == b:
                out[-1] = 7
            else:
                out.append(token)
        return out


def test_context_and_continuation_are_tokenised_together_where_the_context_stays():
    pairs = Pairs.train(["abc"])
    options = {"start": 20, "bos": 21, "where": "f:1"}
    request = continuation_request(pairs, "c", "ab", **options)
    assert (request.context, request.tokens) == ([21, 2], [7])
    # "a" + "b" would be one token: encoded separately.
    request = continuation_request(pairs, "ca", "bc", **options)
    assert (request.context, request.tokens) == ([21, 2, 0], [1, 2])
    request = continuation_request(pairs, "", "cab", **options)
    assert (request.context, request.tokens) == ([20], [2, 7])
    request = continuation_request(pairs, "c", "c", start=20, bos=None, where="f:1")
    assert (request.context, request.tokens) == ([2], [2])


def test_texts_are_scored_after_the_start_token():
    request = text_request(BYTES, "hi", BYTES.bos_id, "f:1")
    assert (request.context, request.tokens) == ([BYTES.bos_id], BYTES.encode("hi"))
    assert text_request(BYTES, "hi", None, "f:1").context == []


def test_a_context_without_tokens_is_no_context():
    class Spaceless(Characters):
        def encode(self, text: str) -> list[int]:
            return super().encode(text.replace(" ", ""))

    tokenizer = Spaceless.train(["ab"])
    request = continuation_request(tokenizer, " ", "ab", start=20, bos=None, where="f:1")
    assert (request.context, request.tokens) == ([20], [0, 1])
    with pytest.raises(UserError, match="f:2: the text is a single token"):
        continuation_request(tokenizer, " ", "a", start=None, bos=None, where="f:2")


def test_a_single_token_after_nothing_cannot_be_scored():
    with pytest.raises(UserError, match="f:5: the text is a single token, and no token stood"):
        text_request(BYTES, "a", None, "f:5")
    assert text_request(BYTES, "a", BYTES.eos_id, "f:5").tokens == [97]


def test_texts_without_tokens_or_with_unknown_characters_name_the_line():
    characters = Characters.train(["abc"])
    with pytest.raises(UserError, match="f:3: the text is empty"):
        text_request(characters, "", None, "f:3")
    with pytest.raises(UserError, match="f:3: the continuation has no tokens"):
        continuation_request(characters, "a", "", start=None, bos=None, where="f:3")
    with pytest.raises(UserError, match="f:4: .*é"):
        continuation_request(characters, "a", "é", start=None, bos=None, where="f:4")
