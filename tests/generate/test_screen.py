"""The likeliest token by int8 bounds is the likeliest token."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import InitConfig, ModelConfig, Rotary
from lm.generate import screen
from lm.generate.arrange import arrange
from lm.generate.decode import generate
from lm.generate.quantize import quantize
from lm.generate.sampling import SamplingConfig
from lm.model import build_model

GREEDY = SamplingConfig(temperature=0.0)
CONFIG = ModelConfig(
    vocab_size=1200,
    num_layers=1,
    d_model=16,
    num_heads=2,
    d_ff=32,
    position=Rotary(),
    init=InitConfig(stddev=0.5),
)


@pytest.fixture(autouse=True)
def tables_of_any_size(monkeypatch):
    monkeypatch.setattr(screen, "LEAST_BYTES", 0)


def screened(table: np.ndarray) -> dict:
    params = {"token_embedding": {"embedding": jnp.asarray(table)}}
    return {**params, **screen.screen_of(CONFIG, params)}


def made(config: ModelConfig) -> tuple[nn.Module, dict]:
    model = build_model(config)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    return model, nn.unbox(variables)["params"]


@pytest.mark.parametrize("size", [1199, 1280])
@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_it_is_the_likeliest_of_all(size, spread):
    """Of vectors of very different lengths too: the bound is each token's own."""
    numbers = np.random.default_rng(0)
    table = numbers.normal(size=(size, 24)).astype(np.float32)
    table *= np.exp(spread * numbers.normal(size=(size, 1))).astype(np.float32)
    params = screened(table)
    choose = jax.jit(screen.likeliest_of_few, static_argnums=2)
    for known in (size, size - 130):
        for x in numbers.normal(size=(40, 1, 24)).astype(np.float32):
            expected = np.argmax(table[:known].astype(np.float64) @ x[0])
            assert choose(params, jnp.asarray(x), known).tolist() == [expected]


def test_bounds_hold_for_every_token_and_leave_few():
    numbers = np.random.default_rng(1)
    table = numbers.normal(size=(1280, 64)).astype(np.float32)
    kept = screened(table)[screen.SCREEN]
    rows = (
        np.asarray(kept["quantized"], np.float64) * np.asarray(kept["scale"], np.float64)[:, None]
    )
    np.testing.assert_allclose(np.linalg.norm(table - rows, axis=1), kept["lost"], rtol=1e-4)
    for x in numbers.normal(size=(20, 64)):
        logits, off = table @ x, np.linalg.norm(x) * np.asarray(kept["lost"])
        assert (np.abs(rows @ x - logits) <= off * (1 + 1e-4)).all()
        assert (logits + 2 * off >= np.max(logits - 2 * off)).sum() < screen.BLOCKS


def test_rows_that_int8_cannot_tell_apart():
    """The likeliest in int8 is another one, of other blocks than the sixteen best of int8."""
    numbers = np.random.default_rng(4)
    table = 1 + 1e-3 * numbers.normal(size=(5120, 24)).astype(np.float32)
    params = screened(table)
    for x in numbers.normal(size=(10, 1, 24)).astype(np.float32):
        [token] = screen.likeliest_of_few(params, jnp.asarray(x), 5120).tolist()
        logits = table.astype(np.float64) @ x[0]
        assert logits[token] == pytest.approx(logits.max(), abs=1e-5)


def test_of_equals_the_first_even_where_there_are_too_many():
    table = np.random.default_rng(2).normal(size=(1280, 8)).astype(np.float32)
    x = jnp.ones((1, 8))
    few, all_equal = table.copy(), np.tile(table[:1], (1280, 1))
    best = np.argmax(table.sum(1))
    few[[700, 70, 1100]] = 2 * table[best]
    for rows, expected in ((few, 70), (all_equal, 0)):
        assert screen.likeliest_of_few(screened(rows), x, 1280).tolist() == [expected]


def test_what_is_not_finite_is_an_id_all_the_same():
    table = np.random.default_rng(3).normal(size=(1280, 8)).astype(np.float32)
    [token] = screen.likeliest_of_few(screened(table), jnp.full((1, 8), jnp.nan), 1280).tolist()
    assert 0 <= token < 1280


@pytest.mark.parametrize("tied", [True, False])
def test_generate_says_the_same_and_reads_it(tied, monkeypatch):
    # Few enough that a wrong screen looks in wrong places.
    monkeypatch.setattr(screen, "BLOCKS", 2)
    model, params = made(dataclasses.replace(CONFIG, tie_embeddings=tied))
    arranged = arrange(model, params, 1, greedy=True)
    assert screen.SCREEN in arranged
    options = dict(sampling=GREEDY, max_new_tokens=12, vocab_size=1100)
    [[expected]] = generate(model, params, [[3, 1, 4]], **options)
    [[said]] = generate(model, arranged, [[3, 1, 4]], **options, logprobs=False)
    assert said.tokens == expected.tokens
    assert said.logprobs == [] and len(expected.logprobs) == 12
    # Log-probabilities need all logits: the arranged weights give them too.
    [[full]] = generate(model, arranged, [[3, 1, 4]], **options)
    np.testing.assert_allclose(full.logprobs, expected.logprobs, atol=1e-4)
    # That the screen is what was read: another one says other tokens.
    wrong = {**arranged[screen.SCREEN], "lost": jnp.zeros(1216), "kept": jnp.zeros(1216)}
    wrong["scale"] = -wrong["scale"]
    params = {**arranged, screen.SCREEN: wrong}
    [[other]] = generate(model, params, [[3, 1, 4]], **options, logprobs=False)
    assert other.tokens != expected.tokens


def test_int8_parameters_have_none():
    model, params = made(CONFIG)
    small = quantize(arrange(model, params, 1, greedy=True))
    assert screen.SCREEN not in small and screen.SCREEN not in arrange(model, small, 1, greedy=True)


def test_only_where_it_is_exact():
    for change in (
        dict(logit_softcap=30.0),
        dict(lm_head_bias=True),
        dict(compute_dtype="bfloat16"),
    ):
        model, params = made(dataclasses.replace(CONFIG, **change))
        assert screen.SCREEN not in arrange(model, params, 1, greedy=True)
    model, params = made(CONFIG)
    assert screen.SCREEN not in arrange(model, params, 1)
    assert screen.SCREEN not in arrange(model, params, 2, greedy=True)
