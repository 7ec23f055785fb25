"""Encoder-decoders: who sees what, cached decoding, embeddings shared or not."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import Learned, NormConfig, Rotary, Sinusoidal, T5Relative
from lm.model import build_model, init_cache

SOURCE = jnp.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
SOURCE_POSITIONS = jnp.array([[0, 1, 2, 3, 4], [0, 1, 2, -1, -1]])
TARGET = jnp.array([[0, 5, 6, 7, 1, 2], [0, 3, 2, 1, 12, 11]])
ROUNDING = 2e-5  # float32, values of order 1 after two stacks of two layers

FAMILIES: dict[str, dict[str, Any]] = {
    "original": dict(
        position=Sinusoidal(), norm=NormConfig(placement="post"), scale_embeddings=True
    ),
    "t5": dict(
        position=T5Relative(8, 16),
        norm=NormConfig(kind="rms"),
        attention_bias=False,
        attention_output_bias=False,
        mlp_bias=False,
        attention_scale=1.0,
        logit_scale=0.25,
    ),
    "bart": dict(
        position=Learned(8, offset=2),
        norm=NormConfig(placement="post"),
        embedding_norm=True,
        lm_head_bias=True,
    ),
    "rotary_grouped": dict(position=Rotary(), num_kv_heads=2, num_decoder_layers=3),
    "separate": dict(position=Sinusoidal(), source_vocab_size=11, tie_embeddings=False),
}


@pytest.fixture
def family(tiny: Any) -> Any:
    def make(name: str, **overrides: Any) -> Any:
        values = {"architecture": "encoder_decoder", "decoder_start_id": 0, **FAMILIES[name]}
        return tiny(**{**values, **overrides})

    return make


def apply(config: Any, params: Any, *arguments: Any, **keywords: Any) -> Any:
    return build_model(config).apply({"params": params}, *arguments, **keywords)


@pytest.mark.parametrize("name", FAMILIES)
def test_cached_decoding_encodes_once_and_equals_the_full_pass(
    family: Any, params_of: Any, name: str
) -> None:
    config = family(name)
    params = params_of(config)
    given = {"source": SOURCE, "source_positions": SOURCE_POSITIONS}
    full, none = apply(config, params, TARGET, **given)
    assert none is None
    logits, cache = apply(config, params, TARGET[:, :2], cache=init_cache(config, 2, 8), **given)
    parts = [logits]
    for i in range(2, 6):
        logits, cache = apply(config, params, TARGET[:, i : i + 1], cache=cache)
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), full, rtol=ROUNDING, atol=ROUNDING)


def test_later_steps_do_not_run_the_encoder(family: Any, params_of: Any) -> None:
    """They give the same logits when the encoder's parameters are gone bad."""
    config = family("t5")
    params = params_of(config)
    _, cache = apply(config, params, TARGET[:, :2], source=SOURCE, cache=init_cache(config, 2, 8))
    spoilt = {**params, "encoder": jax.tree.map(lambda x: x * jnp.nan, params["encoder"])}
    good, _ = apply(config, params, TARGET[:, 2:3], cache=cache)
    same, _ = apply(config, spoilt, TARGET[:, 2:3], cache=cache)
    np.testing.assert_array_equal(good, same)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_target_is_causal_and_sees_all_of_the_source(
    family: Any, params_of: Any, name: str
) -> None:
    config = family(name, source_vocab_size=13, tie_embeddings=False)
    params = params_of(config)

    def state(tables: tuple[jax.Array, jax.Array], at: int) -> jax.Array:
        mine, theirs = tables
        encoder = {**params["encoder"], "token_embedding": {"embedding": theirs}}
        changed = {**params, "token_embedding": {"embedding": mine}, "encoder": encoder}
        given = {"source": SOURCE[:1], "source_positions": SOURCE_POSITIONS[1:]}
        return jnp.sum(apply(config, changed, TARGET[:1], **given, method="hidden")[0][0, at, :3])

    tables = (
        params["token_embedding"]["embedding"],
        params["encoder"]["token_embedding"]["embedding"],
    )
    for at in range(6):
        own, source = jax.grad(state)(tables, at)
        seen = {int(t) for t in np.flatnonzero(np.abs(own).sum(1) > 1e-9)}
        assert seen == set(TARGET[0, : at + 1].tolist())
        # Tokens 4 and 5 of the source are padding here.
        read = {int(t) for t in np.flatnonzero(np.abs(source).sum(1) > 1e-9)}
        assert read == {1, 2, 3}


def test_padding_of_the_source_changes_nothing(family: Any, params_of: Any) -> None:
    config = family("original")
    params = params_of(config)
    padded, _ = apply(
        config, params, TARGET[1:], source=SOURCE[1:], source_positions=SOURCE_POSITIONS[1:]
    )
    short, _ = apply(config, params, TARGET[1:], source=SOURCE[1:, :3])
    np.testing.assert_allclose(padded, short, rtol=ROUNDING, atol=ROUNDING)


def test_encoded_sources_can_be_given(family: Any, params_of: Any) -> None:
    config = family("bart")
    params = params_of(config)
    given = {"source_positions": SOURCE_POSITIONS}
    encoded = apply(config, params, SOURCE, **given, method="encode")
    direct, _ = apply(config, params, TARGET, source=SOURCE, **given)
    again, _ = apply(config, params, TARGET, encoded=encoded, **given)
    np.testing.assert_allclose(again, direct, rtol=ROUNDING, atol=ROUNDING)
    states = apply(config, params, SOURCE, **given, method="encoder_states")
    np.testing.assert_allclose(states[-1], encoded, rtol=ROUNDING, atol=ROUNDING)
    assert len(states) == 3
    decoder = apply(config, params, TARGET, source=SOURCE, **given, method="hidden_states")
    hidden, _ = apply(config, params, TARGET, source=SOURCE, **given, method="hidden")
    np.testing.assert_allclose(decoder[-1], hidden, rtol=ROUNDING, atol=ROUNDING)


def test_scanned_layers_are_the_same(family: Any, params_of: Any) -> None:
    for name in ("t5", "rotary_grouped"):
        params = params_of(family(name))
        plain, _ = apply(family(name), params, TARGET, source=SOURCE)
        scanned = family(name, scan_layers=True, remat="dots")
        other, _ = apply(scanned, params, TARGET, source=SOURCE)
        np.testing.assert_allclose(other, plain, rtol=ROUNDING, atol=ROUNDING)


def test_one_table_or_two(family: Any, params_of: Any) -> None:
    shared, separate = params_of(family("original")), params_of(family("separate"))
    assert "token_embedding" not in shared["encoder"]
    assert separate["encoder"]["token_embedding"]["embedding"].shape == (11, 16)
    assert separate["token_embedding"]["embedding"].shape == (13, 16)
    assert separate["lm_head"]["kernel"].shape == (16, 13)


def test_a_source_is_given_once(family: Any, params_of: Any) -> None:
    config = family("t5")
    params = params_of(config)
    with pytest.raises(ValueError, match="needs source= or encoded=, or a cache"):
        apply(config, params, TARGET)
    with pytest.raises(ValueError, match="give the source or encoded, not both"):
        apply(config, params, TARGET, source=SOURCE, encoded=jnp.zeros((2, 5, 16)))
    _, cache = apply(config, params, TARGET, source=SOURCE, cache=init_cache(config, 2, 8))
    with pytest.raises(ValueError, match="has seen the source already"):
        apply(config, params, TARGET[:, :1], source=SOURCE, cache=cache)
