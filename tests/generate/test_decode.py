"""The decoding loop against a direct argmax over full forward passes, and what must not matter."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import ALiBi, InitConfig, Learned, ModelConfig, Rotary, T5Relative
from lm.errors import ConfigError, UserError
from lm.generate.decode import Completion, Decoding, generate
from lm.generate.sampling import SamplingConfig
from lm.model import build_model

GREEDY = SamplingConfig(temperature=0.0)
BASE = ModelConfig(
    vocab_size=29,
    num_layers=1,
    d_model=16,
    num_heads=2,
    d_ff=32,
    position=Learned(max_length=64),
    # Large weights, so that the next token depends on what stands before it.
    init=InitConfig(stddev=0.6, scale_residual=False),
)
SCHEMES = {
    "learned_deep": dataclasses.replace(BASE, num_layers=3),
    "rotary_grouped": dataclasses.replace(BASE, position=Rotary(), num_kv_heads=1),
    "alibi": dataclasses.replace(BASE, num_layers=2, position=ALiBi()),
    "t5_local": dataclasses.replace(
        BASE, num_layers=2, position=T5Relative(8, 16), layer_pattern=("local", "global"), window=4
    ),
}
PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [7], [11, 12, 13], list(range(20))]


def make(config: ModelConfig):
    model = build_model(config)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    return model, nn.unbox(variables)["params"]


@pytest.fixture(scope="module")
def learned():
    return make(BASE)


def rows(results: list[list[Completion]]) -> list[list[int]]:
    return [c.tokens for completions in results for c in completions]


@functools.partial(jax.jit, static_argnames="model")
def forward(model, params, tokens):
    return model.apply({"params": params}, tokens)[0]


def naive(
    model, params, prompt: list[int], count: int, penalty: float = 1.0
) -> tuple[list[int], list[float]]:
    """Greedy, with a whole forward pass a token and no cache."""
    tokens, logprobs = list(prompt), []
    for _ in range(count):
        padded = np.zeros((1, 32), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = np.array(forward(model, params, padded)[0, len(tokens) - 1])
        penalized = logits.copy()
        for token in set(tokens):
            penalized[token] *= 1 / penalty if logits[token] > 0 else penalty
        tokens.append(int(penalized.argmax()))
        logprobs.append(float(jax.nn.log_softmax(logits)[tokens[-1]]))
    return tokens[len(prompt) :], logprobs


@pytest.mark.parametrize("scheme", SCHEMES)
def test_greedy_equals_full_forward_passes_for_prompts_of_different_lengths(scheme):
    model, params = make(SCHEMES[scheme])
    results = generate(model, params, PROMPTS, sampling=GREEDY, max_new_tokens=10)
    assert len({tuple(t) for t in rows(results)}) > 1
    for prompt, [completion] in zip(PROMPTS, results):
        tokens, logprobs = naive(model, params, prompt, 10)
        assert completion.tokens == tokens
        np.testing.assert_allclose(completion.logprobs, logprobs, atol=1e-4)
        assert completion.finish_reason == "length"


def test_a_sampled_row_depends_on_neither_neighbours_nor_padding(learned):
    options = dict(sampling=SamplingConfig(temperature=0.9), max_new_tokens=12, seed=5)
    together = rows(generate(*learned, PROMPTS, **options))
    others = rows(generate(*learned, [PROMPTS[0], [5], PROMPTS[2], [6] * 20], **options))
    assert together[0] == others[0]
    assert together[2] == others[2]
    # Alone: less padding, another batch size.
    assert rows(generate(*learned, PROMPTS[:1], **options)) == together[:1]


def test_the_seed_decides_the_sample(learned):
    def draw(seed):
        return rows(
            generate(*learned, PROMPTS, sampling=SamplingConfig(), max_new_tokens=8, seed=seed)
        )

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_sequences_of_a_prompt_differ_and_do_not_depend_on_how_many(learned):
    options = dict(sampling=SamplingConfig(), max_new_tokens=8)
    three = generate(*learned, PROMPTS[:2], num_return_sequences=3, **options)
    one = generate(*learned, PROMPTS[:2], **options)
    assert [len(completions) for completions in three] == [3, 3]
    assert len({tuple(t) for t in rows(three)}) == 6
    assert [completions[0] for completions in three] == [completions[0] for completions in one]


def test_equal_prompts_are_sampled_independently(learned):
    a, b = rows(generate(*learned, [[1, 2]] * 2, sampling=SamplingConfig(), max_new_tokens=8))
    assert a != b


def test_first_tokens_follow_the_models_distribution(learned):
    model, params = learned
    count = 4000
    results = generate(model, params, [[3, 1]], sampling=SamplingConfig(), max_new_tokens=2,
                       num_return_sequences=count)  # fmt: skip
    logits = model.apply({"params": params}, jnp.asarray([[3, 1]]))[0][0, -1]
    tokens = np.array(rows(results))
    observed = np.bincount(tokens[:, 0], minlength=29) / count
    expected = np.asarray(jax.nn.softmax(logits))
    assert np.all(np.abs(observed - expected) < 5 * np.sqrt(0.25 / count))
    # The second token's noise is not the first one's again.
    likeliest = expected.argmax()
    logits = model.apply({"params": params}, jnp.asarray([[3, 1, likeliest]]))[0][0, -1]
    second = tokens[tokens[:, 0] == likeliest, 1]
    observed = np.bincount(second, minlength=29) / len(second)
    bound = 5 * np.sqrt(0.25 / len(second))
    assert np.all(np.abs(observed - np.asarray(jax.nn.softmax(logits))) < bound)


def test_rows_end_at_eos_and_others_go_on(learned):
    free = rows(generate(*learned, PROMPTS, sampling=GREEDY, max_new_tokens=12))
    eos = next(t for t in free[0] if any(t not in tokens for tokens in free))
    results = generate(*learned, PROMPTS, sampling=GREEDY, max_new_tokens=12, eos_id=eos)
    for unbounded, [completion] in zip(free, results):
        if eos in unbounded:
            assert completion.tokens == unbounded[: unbounded.index(eos) + 1]
            assert completion.finish_reason == "eos"
        else:
            assert completion.tokens == unbounded
            assert completion.finish_reason == "length"
        assert len(completion.logprobs) == len(completion.tokens)
    assert {c.finish_reason for [c] in results} == {"eos", "length"}


def test_eos_as_the_first_token_and_a_single_token(learned):
    [[first]] = generate(*learned, PROMPTS[:1], sampling=GREEDY, max_new_tokens=1)
    assert len(first.tokens) == 1 and first.finish_reason == "length"
    [[ended]] = generate(*learned, PROMPTS[:1], sampling=GREEDY, max_new_tokens=9,
                         eos_id=first.tokens[0])  # fmt: skip
    assert ended == Completion(first.tokens, first.logprobs, "eos")


@pytest.mark.parametrize("chunk", [1, 3, 50])
def test_chunks_do_not_change_the_tokens(learned, chunk):
    options = dict(sampling=SamplingConfig(repetition_penalty=1.5), max_new_tokens=11, seed=3)
    decoding = Decoding(*learned, PROMPTS, chunk=chunk, **options)
    chunks = list(decoding.chunks())
    assert max(c.tokens.shape[1] for c in chunks) == min(chunk, 10)
    assert np.concatenate([c.tokens for c in chunks], 1).tolist() == rows(
        generate(*learned, PROMPTS, **options)
    )


def test_rows_ended_by_the_host_make_no_more_tokens_and_all_ended_stops(learned):
    decoding = Decoding(*learned, PROMPTS[:2], sampling=GREEDY, max_new_tokens=20, chunk=2)
    valid = []
    for chunk in decoding.chunks():
        valid.append(chunk.valid)
        decoding.end(0)
        if len(valid) == 3:
            decoding.end(1)
    made = np.concatenate(valid, 1)
    assert made.sum(1).tolist() == [1, 5]


def test_repetition_penalty_counts_prompt_and_completion_but_not_padding(learned):
    config = SamplingConfig(temperature=0.0, repetition_penalty=1.7)
    results = rows(generate(*learned, PROMPTS, sampling=config, max_new_tokens=12))
    assert results != rows(generate(*learned, PROMPTS, sampling=GREEDY, max_new_tokens=12))
    for prompt, tokens in zip(PROMPTS, results):
        assert tokens == naive(*learned, prompt, 12, penalty=1.7)[0]
    # Token 0 fills the padding. Make it the likeliest, by a head row along the hidden state: were
    # padding counted as seen, the penalty would take it out.
    model, params = learned
    hidden = model.apply({"params": params}, jnp.asarray([[5]]), method="hidden")[0][0, 0]
    table = params["token_embedding"]["embedding"]
    favoured = table.at[0].set(hidden / jnp.linalg.norm(hidden) * 3)
    params = {**params, "token_embedding": {"embedding": favoured}}
    strong = SamplingConfig(temperature=0.0, repetition_penalty=1e3)
    [[first]] = generate(model, params, [[5]], sampling=strong, max_new_tokens=1)
    assert first.tokens == [0]


def test_vocab_size_bounds_the_choice(learned):
    results = generate(*learned, [[1], [2]], sampling=SamplingConfig(temperature=5.0),
                       max_new_tokens=30, vocab_size=4)  # fmt: skip
    assert max(max(t) for t in rows(results)) == 3


def test_scanned_layers_decode_alike(learned):
    _, params = learned
    scanned = build_model(dataclasses.replace(BASE, scan_layers=True))
    options = dict(sampling=GREEDY, max_new_tokens=6, num_return_sequences=2)
    assert rows(generate(scanned, params, PROMPTS, **options)) == rows(
        generate(*learned, PROMPTS, **options)
    )


def test_lengths_in_a_bucket_share_compiled_programs(learned):
    from lm.generate import decode_loop

    def compiled() -> int:
        return decode_loop.prefill._cache_size() + decode_loop.decode._cache_size()

    options = dict(sampling=SamplingConfig(temperature=0.77))
    generate(*learned, [[1] * 17], max_new_tokens=20, **options)
    before = compiled()
    generate(*learned, [[1] * 30], max_new_tokens=29, seed=4, **options)
    assert compiled() == before


@pytest.mark.parametrize(
    ("prompts", "options", "error", "message"),
    [
        ([[1]], {"max_new_tokens": 0}, ConfigError, "max_new_tokens must be at least 1, not 0"),
        ([[1]], {"max_new_tokens": -3}, ConfigError, "max_new_tokens must be at least 1, not -3"),
        (
            [[1]],
            {"num_return_sequences": 0},
            ConfigError,
            "num_return_sequences must be at least 1",
        ),
        ([[1]], {"max_new_tokens": 10**11}, ConfigError, "must be below 2.31, not 100000000000"),
        (
            [[1]],
            {"num_return_sequences": 10**12},
            ConfigError,
            "1000000000000 sequences of up to 32 tokens need .* GiB of memory, and there are .*"
            "reduce max_new_tokens, num_return_sequences",
        ),
        ([], {}, UserError, "no prompt was given"),
        ([[1], []], {}, UserError, "prompt 1 is empty"),
        ([[1, 29]], {}, UserError, "tokens from 1 to 29, but the vocabulary is 0 to 28"),
        (
            [[1] * 40],
            {"max_new_tokens": 25},
            ConfigError,
            r"prompt of 40 tokens \+ max_new_tokens=25 exceeds the 64 positions the model has;",
        ),
    ],
)
def test_what_cannot_be_generated_is_refused(learned, prompts, options, error, message):
    with pytest.raises(error, match=message):
        generate(*learned, prompts, **{"sampling": GREEDY, "max_new_tokens": 4, **options})


def test_the_last_learned_position_is_usable_and_rotary_has_no_limit(learned):
    [[full]] = generate(*learned, [[1] * 40], sampling=GREEDY, max_new_tokens=24)
    assert len(full.tokens) == 24
    model, params = make(SCHEMES["rotary_grouped"])
    [[long]] = generate(model, params, [[1] * 100], sampling=GREEDY, max_new_tokens=5)
    assert len(long.tokens) == 5
