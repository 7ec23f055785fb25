"""Generation by an encoder-decoder: sources of different lengths, the start of the target."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import ByteTokenizer as ByteTokenizerConfig
from lm.config import (
    DataConfig,
    Embedded,
    InitConfig,
    Learned,
    ModelConfig,
    NormConfig,
    T5Relative,
)
from lm.data.tokenizers.simple import Bytes
from lm.errors import ConfigError, UserError
from lm.generate.decode import generate
from lm.generate.sampling import SamplingConfig
from lm.generate.text import encode_source, generate_text
from lm.model import build_model

GREEDY = SamplingConfig(temperature=0.0)
CONFIG = ModelConfig(
    vocab_size=259,
    num_layers=1,
    d_model=16,
    num_heads=2,
    d_ff=32,
    position=T5Relative(8, 16),
    architecture="encoder_decoder",
    decoder_start_id=3,
    norm=NormConfig(kind="rms"),
    init=InitConfig(stddev=0.6, scale_residual=False),
)
SOURCES = [[3, 1, 4, 1, 5, 9, 2, 6], [7], list(range(20))]


@pytest.fixture(scope="module")
def made():
    model = build_model(CONFIG)
    tokens = jnp.zeros((1, 4), jnp.int32)
    variables = jax.jit(model.init)(jax.random.key(0), tokens, source=tokens)
    return model, nn.unbox(variables)["params"]


def naive(model, params, source: list[int], start: list[int], count: int) -> list[int]:
    """Greedy, with a whole forward pass a token, no cache and no padding of the source."""
    forward = jax.jit(lambda tokens: model.apply({"params": params}, tokens, source=read)[0])
    read, tokens = jnp.asarray([source]), list(start)
    for _ in range(count):
        padded = np.zeros((1, 16), np.int32)
        padded[0, : len(tokens)] = tokens
        tokens.append(int(np.argmax(forward(padded)[0, len(tokens) - 1])))
    return tokens[len(start) :]


def test_greedy_equals_full_forward_passes(made) -> None:
    found = generate(*made, SOURCES, sampling=GREEDY, max_new_tokens=7)
    expected = [naive(*made, source, [3], 7) for source in SOURCES]
    assert [completions[0].tokens for completions in found] == expected
    assert len({tuple(tokens) for tokens in expected}) > 1, "the source makes no difference"


def test_a_target_may_begin_with_more(made) -> None:
    found = generate(*made, SOURCES[:1], sampling=GREEDY, max_new_tokens=5, start=[3, 8, 2])
    assert found[0][0].tokens == naive(*made, SOURCES[0], [3, 8, 2], 5)
    [[text]] = generate_text(
        *made,
        Bytes(),
        ["ab"],
        sampling=GREEDY,
        max_new_tokens=5,
        before=[9],
        start=[3, 8],
    )
    expected = naive(*made, [9, 97, 98], [3, 8], 5)
    assert text.tokens == expected[: len(text.tokens)]


def test_sequences_of_one_source_are_samples_of_it(made) -> None:
    sampling = SamplingConfig(temperature=1.0)
    several = generate(
        *made, SOURCES, sampling=sampling, max_new_tokens=4, num_return_sequences=3, seed=5
    )
    assert [len(completions) for completions in several] == [3, 3, 3]
    alone = generate(*made, SOURCES[:1], sampling=sampling, max_new_tokens=4, seed=5)
    assert alone[0][0].tokens == several[0][0].tokens


def test_text_is_read_between_the_tokens_of_the_data(made) -> None:
    data = DataConfig(
        train={"e": Embedded()}, tokenizer=ByteTokenizerConfig(), sequence_length=8, add_bos=True
    )
    tokenizer = Bytes()
    assert encode_source(tokenizer, "ab", data) == [257, 97, 98, 258]
    assert encode_source(tokenizer, "ab") == [97, 98]
    with pytest.raises(UserError, match="the text is empty"):
        encode_source(tokenizer, "")
    pieces: list[str] = []
    [[completion]] = generate_text(
        *made, tokenizer, ["ab"], sampling=GREEDY, max_new_tokens=6, data=data,
        on_text=lambda prompt, sequence, text: pieces.append(text),
    )  # fmt: skip
    expected = naive(*made, [257, 97, 98, 258], [3], 6)
    assert completion.tokens == expected[: len(completion.tokens)]
    assert "".join(pieces) == completion.text


def test_what_cannot_be_generated_is_refused(made) -> None:
    model, params = made
    with pytest.raises(UserError, match="prompt 1 has tokens from 400 to 400"):
        generate(model, params, [[1], [400]], sampling=GREEDY, max_new_tokens=2)
    with pytest.raises(UserError, match="prompt 0 is empty"):
        generate(model, params, [[]], sampling=GREEDY, max_new_tokens=2)
    with pytest.raises(ConfigError, match="start is empty"):
        generate(model, params, [[1]], sampling=GREEDY, max_new_tokens=2, start=[])
    with pytest.raises(UserError, match="the start of the target has tokens from 300 to 300"):
        generate(model, params, [[1]], sampling=GREEDY, max_new_tokens=2, start=[300])
    short = build_model(dataclasses.replace(CONFIG, position=Learned(8)))
    with pytest.raises(UserError, match="prompt 0 has 20 tokens, more than the 8 positions"):
        generate(short, params, SOURCES[2:], sampling=GREEDY, max_new_tokens=2)
    with pytest.raises(ConfigError, match="start of the target of 1 .* exceeds the 8 positions"):
        generate(short, params, SOURCES[1:2], sampling=GREEDY, max_new_tokens=8)
    decoder = dataclasses.replace(CONFIG, architecture="decoder", decoder_start_id=None)
    with pytest.raises(ConfigError, match="start is what an encoder_decoder's target begins with"):
        generate(build_model(decoder), params, [[1]], sampling=GREEDY, max_new_tokens=2, start=[1])
    encoder = dataclasses.replace(CONFIG, architecture="encoder", decoder_start_id=None)
    with pytest.raises(ConfigError, match="this model's architecture is 'encoder'"):
        generate(build_model(encoder), params, [[1]], sampling=GREEDY, max_new_tokens=2)
    silent = dataclasses.replace(decoder, lm_head="none")
    with pytest.raises(ConfigError, match="no language-model head"):
        generate(build_model(silent), params, [[1]], sampling=GREEDY, max_new_tokens=2)
