"""Decoding with a cache equals the full forward pass."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import (
    ALiBi,
    Learned,
    NoPosition,
    NormConfig,
    RelativeKeys,
    Rotary,
    Sinusoidal,
    T5Relative,
)
from lm.errors import ConfigError
from lm.model import build_model, init_cache

VARIANTS: dict[str, dict[str, Any]] = {
    "learned": {"position": Learned(12)},
    "sinusoidal": {"position": Sinusoidal(), "num_kv_heads": 2, "scan_layers": True},
    "rotary": {"position": Rotary(), "num_kv_heads": 1},
    "rotary_interleaved": {
        "position": Rotary(fraction=0.5, interleaved=True),
        "norm": NormConfig(kind="rms"),
    },
    "alibi": {"position": ALiBi(), "layer_pattern": ("local",), "window": 2},
    "t5_relative": {"position": T5Relative(4, 8), "norm": NormConfig(placement="post")},
    "relative_keys": {"position": RelativeKeys(4), "d_ff": 0},
    "none": {"position": NoPosition()},
    "local_global": {
        "position": Rotary(),
        "layer_pattern": ("local", "global"),
        "window": 3,
        "num_kv_heads": 2,
        "norm": NormConfig(placement="post"),
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_left_padded_decoding_is_the_full_forward_pass(
    variant: str, tiny: Any, params_of: Any
) -> None:
    """Prompts of 3 and 5 tokens, padded on the left to 5, then 3 tokens one at a time."""
    config = tiny(**VARIANTS[variant])
    model, params = build_model(config), params_of(config)
    tokens = jax.random.randint(jax.random.key(0), (2, 8), 0, 13)
    full, _ = jax.jit(model.apply)({"params": params}, tokens)

    @jax.jit
    def step(cache: Any, tokens: Any, positions: Any) -> Any:
        return model.apply({"params": params}, tokens, positions=positions, cache=cache)

    prompt = jnp.stack([jnp.concatenate([jnp.array([9, 9]), tokens[0, :3]]), tokens[1, :5]])
    positions = jnp.array([[-1, -1, 0, 1, 2], [0, 1, 2, 3, 4]])
    logits, cache = step(init_cache(config, 2, 9), prompt, positions)
    assert jnp.isfinite(logits).all()
    made = [[logits[0, 2:]], [logits[1]]]
    for i in range(3):
        new = jnp.stack([tokens[0, 3 + i], tokens[1, 5 + i]])[:, None]
        logits, cache = step(cache, new, jnp.array([[3 + i], [5 + i]]))
        for row in range(2):
            made[row].append(logits[row])
    assert int(cache.index) == 8
    # Float32 rounding at logits of order 1 to 10.
    np.testing.assert_allclose(jnp.concatenate(made[0]), full[0, :6], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jnp.concatenate(made[1]), full[1], rtol=1e-4, atol=1e-5)


def test_positions_follow_the_index(tiny: Any, params_of: Any) -> None:
    config = tiny(position=Learned(8))
    model, params = build_model(config), params_of(config)
    tokens = jnp.array([[1, 2, 3, 4, 5]])
    full, _ = model.apply({"params": params}, tokens)
    first, cache = model.apply({"params": params}, tokens[:, :3], cache=init_cache(config, 1, 8))
    second, cache = model.apply({"params": params}, tokens[:, 3:], cache=cache)
    assert cache.positions.tolist() == [[0, 1, 2, 3, 4, -1, -1, -1]]
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), full, rtol=1e-4, atol=1e-5)


def test_shapes_and_dtype(tiny: Any) -> None:
    cache = init_cache(tiny(num_kv_heads=2, head_dim=6, compute_dtype="bfloat16"), 3, 7)
    assert len(cache.keys) == len(cache.values) == 2
    assert {x.shape for x in (*cache.keys, *cache.values)} == {(3, 2, 7, 6)}
    assert cache.keys[0].dtype == jnp.bfloat16
    assert (cache.positions == -1).all() and cache.length == 7


def test_a_cache_beyond_learned_positions_is_refused(tiny: Any) -> None:
    with pytest.raises(ConfigError, match="sequence of 9 tokens, but learned positions end at"):
        init_cache(tiny(position=Learned(8)), 1, 9)


def test_overflow_is_loud(tiny: Any, params_of: Any) -> None:
    config = tiny()
    model, params = build_model(config), params_of(config)
    with pytest.raises(ValueError, match="4 tokens do not fit a cache of 3 slots"):
        model.apply({"params": params}, jnp.ones((1, 4), int), cache=init_cache(config, 1, 3))
    cache = init_cache(config, 1, 3).replace(index=jnp.array(2))
    logits, cache = model.apply({"params": params}, jnp.array([[1]]), cache=cache)
    assert jnp.isfinite(logits).all()
    logits, _ = model.apply({"params": params}, jnp.array([[1]]), cache=cache)
    assert jnp.isnan(logits).all()


def test_segments_with_a_cache_are_refused(tiny: Any, params_of: Any) -> None:
    config = tiny()
    with pytest.raises(ValueError, match="takes no segment_ids"):
        build_model(config).apply(
            {"params": params_of(config)},
            jnp.array([[1]]),
            segment_ids=jnp.array([[1]]),
            cache=init_cache(config, 1, 3),
        )
