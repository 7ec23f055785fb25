"""Hidden states of texts: order, padding, pooling, special tokens."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import ByteTokenizer as ByteTokenizerConfig
from lm.config import DataConfig, Embedded, InitConfig, Learned, ModelConfig, XLNetRelative
from lm.data.tokenizers.simple import Bytes
from lm.errors import ConfigError, UserError
from lm.generate.embedding import embed, encode_texts
from lm.model import build_model

ENCODER = ModelConfig(
    vocab_size=259,
    num_layers=2,
    d_model=16,
    num_heads=2,
    d_ff=32,
    position=Learned(24),
    architecture="encoder",
    init=InitConfig(stddev=0.3),
)
VARIANTS = {
    "encoder": ENCODER,
    "decoder": dataclasses.replace(ENCODER, architecture="decoder"),
    "encoder_decoder": dataclasses.replace(
        ENCODER, architecture="encoder_decoder", decoder_start_id=0
    ),
    "two_stream": dataclasses.replace(
        ENCODER,
        architecture="two_stream",
        position=XLNetRelative(),
        norm=dataclasses.replace(ENCODER.norm, placement="post"),
        attention_bias=False,
        attention_output_bias=False,
    ),
}
DATA = DataConfig(train={"e": Embedded()}, tokenizer=ByteTokenizerConfig(), sequence_length=24)
SEQUENCES = [list(range(20)), [7], [5, 3, 1], [9, 9, 8, 7, 6]]


def make(config: ModelConfig):
    model = build_model(config)
    tokens = jnp.zeros((1, 4), jnp.int32)
    given = {"source": tokens} if config.architecture == "encoder_decoder" else {}
    return model, nn.unbox(jax.jit(model.init)(jax.random.key(0), tokens, **given))["params"]


def collected(model, params, **options) -> list[np.ndarray]:
    return [states for _, states in sorted(embed(model, params, SEQUENCES, **options))]


@pytest.mark.parametrize("name", VARIANTS)
def test_padding_and_neighbours_change_nothing(name: str) -> None:
    model, params = make(VARIANTS[name])
    states = collected(model, params, pooling="none")
    pooled = {pooling: collected(model, params, pooling=pooling) for pooling in ("mean", "last")}
    method = "encoder_states" if name == "encoder_decoder" else "hidden_states"
    for i, sequence in enumerate(SEQUENCES):
        tokens = jnp.asarray([sequence])
        alone = model.apply({"params": params}, tokens, method=method)[-1][0]
        np.testing.assert_allclose(states[i], alone, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(pooled["mean"][i], alone.mean(0), rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(pooled["last"][i], alone[-1], rtol=2e-5, atol=2e-5)


def test_cls_is_first_in_encoders_and_last_in_xlnet() -> None:
    for name, place in (("encoder", 0), ("two_stream", -1)):
        model, params = make(VARIANTS[name])
        states = collected(model, params, pooling="none")
        for cls, whole in zip(collected(model, params, pooling="cls"), states):
            np.testing.assert_allclose(cls, whole[place], rtol=2e-5, atol=2e-5)
    model, params = make(VARIANTS["decoder"])
    with pytest.raises(ConfigError, match="in a decoder sees nothing but itself"):
        collected(model, params, pooling="cls")


def test_layers_are_counted_from_the_embeddings() -> None:
    model, params = make(ENCODER)
    states = model.apply({"params": params}, jnp.asarray([SEQUENCES[2]]), method="hidden_states")
    for layer in (0, 1, 2, -1, -3):
        found = collected(model, params, pooling="none", layer=layer)[2]
        np.testing.assert_allclose(found, states[layer][0], rtol=2e-5, atol=2e-5)
    with pytest.raises(ConfigError, match="layer must be from -3 to 2, not 3"):
        collected(model, params, pooling="mean", layer=3)


def test_texts_are_wrapped_as_the_model_has_seen_them() -> None:
    data = dataclasses.replace(DATA, add_bos=True)
    texts = [("f:1", "ab"), ("f:2", "c" * 30)]

    def encode(config: ModelConfig, **options) -> list[list[int]]:
        return encode_texts(Bytes(), texts[: options.pop("count", 1)], config, data, **options)

    assert encode(ENCODER) == [[257, 97, 98, 258]]
    assert encode(VARIANTS["decoder"]) == [[257, 97, 98]]
    cut = encode(ENCODER, count=2, max_tokens=5)
    assert cut[1] == [257, 99, 99, 99, 258]
    assert encode(VARIANTS["decoder"], count=2, max_tokens=3)[1] == [257, 99, 99]
    # As XLNet's tokenizer says itself, where the data says nothing.
    own = Bytes()
    own.wrapping = ((), (7, 9))
    silent = dataclasses.replace(DATA, add_eos=False)
    assert encode_texts(own, texts[:1], ENCODER, silent) == [[97, 98, 7, 9]]
    assert encode_texts(own, texts[1:], ENCODER, silent, max_tokens=4) == [[99, 99, 7, 9]]
    with pytest.raises(ConfigError, match="max_tokens=2 leaves no room"):
        encode_texts(own, texts, ENCODER, silent, max_tokens=2)
    with pytest.raises(UserError, match="f:2: 32 tokens exceed the 24 positions"):
        encode(ENCODER, count=2)
    with pytest.raises(ConfigError, match="max_tokens=25 exceeds the 24 positions"):
        encode(ENCODER, max_tokens=25)
    with pytest.raises(UserError, match="f:9: the text is empty"):
        plain = dataclasses.replace(DATA, add_eos=False)
        encode_texts(Bytes(), [("f:9", "")], ENCODER, plain)
