"""cuDNN's attention: what a mask becomes for it, against attention in blocks, and who uses it.

There is a GPU in none of these: the mapping runs through JAX's own implementation, and what cuDNN
would be asked for is read in programs that are lowered for CUDA and not run.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import ALiBi, DropoutConfig, ModelConfig, RelativeKeys, T5Relative
from lm.errors import ConfigError
from lm.model import attention, build_model, fused_attention, init_cache
from lm.model.attention import Context, attend
from lm.model.fused_attention import attend_fused, obstacle, use_cudnn
from lm.model.masks import Mask

BOTH = [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, -1, -1]]
PACKED = [[1, 1, 1, 2, 2, 2], [1, 2, 2, 2, 2, 0]]
WITHIN = [[0, 1, 2, 0, 1, 2], [0, 0, 1, 2, 3, -1]]


def at(positions: Any, **more: Any) -> Mask:
    array = jnp.asarray(positions)
    return Mask(query_positions=array, key_positions=array, **more)


def packed(**more: Any) -> Mask:
    array = jnp.asarray(PACKED)
    return Mask(query_segments=array, key_segments=array, **more)


MASKS = {
    "all": (Mask(), 6, 6),
    "causal": (Mask(causal=True), 6, 6),
    "window": (Mask(causal=True, window=3), 6, 6),
    "window of one": (Mask(causal=True, window=1), 6, 6),
    "window of all": (Mask(causal=True, window=9), 6, 6),
    "both ways in a window": (Mask(window=2), 6, 6),
    "causal, fewer queries": (Mask(causal=True), 4, 6),
    "packed": (packed(causal=True, in_order=True), 6, 6),
    "packed, positions": (packed(causal=True, in_order=True) & at(WITHIN), 6, 6),
    "packed, window": (packed(causal=True, in_order=True, window=2) & at(WITHIN), 6, 6),
    "packed, both ways": (packed(), 6, 6),
    "padding": (at(BOTH), 6, 6),
    "padding on the left": (at([[-1, -1, 0, 1, 2, 3], BOTH[0]], causal=True), 6, 6),
    "positions in any order": (at([[3, 1, 0, 2, 5, 4]], causal=True), 6, 6),
    "memory": (Mask(key_positions=jnp.asarray(BOTH)), 4, 6),
    "keys allowed": (Mask(causal=True, allowed=jnp.arange(6).reshape(1, 1, 1, 6) != 2), 6, 6),
}


def inputs(length: int, num_keys: int, kv_heads: int = 2, dtype: Any = jnp.float32) -> Any:
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(2, length, 4, 8), *[(2, num_keys, kv_heads, 8)] * 2]
    return [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)]


def allowed_by(mask: Mask, length: int, num_keys: int) -> np.ndarray:
    """[B, T, S]"""
    found = mask.materialise(length, num_keys)
    shape = (2, 1, length, num_keys)
    return np.broadcast_to(True if found is None else found, shape)[:, 0]


@pytest.mark.parametrize("name", MASKS)
def test_the_mapping_computes_what_blocks_do(name: str) -> None:
    """Values and gradients of queries that may attend to something, and where they look."""
    mask, length, num_keys = MASKS[name]
    allowed = allowed_by(mask, length, num_keys)
    some = allowed.any(axis=2)
    context = Context(mask, spans=mask.spans(length, num_keys, 4))
    weights = jax.random.normal(jax.random.key(1), (2, length, 4, 8)) * some[..., None, None]

    def fused(*x: Any) -> jax.Array:
        return attend_fused(*x, mask, scale=0.7, implementation="xla")

    @jax.jit
    def run(x: Any) -> Any:
        ways = [fused, lambda *x: attend(*x, context, scale=0.7)]
        results = [jax.value_and_grad(lambda x, f=f: (f(*x) * weights).sum())(x) for f in ways]
        # With one-hot vectors for values the result is the probabilities.
        one_hot = jnp.broadcast_to(jnp.eye(num_keys, 8)[None, :, None], x[2].shape)
        return *results, fused(x[0], x[1], one_hot)

    found, expected, probabilities = run(inputs(length, num_keys))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, expected
    )
    looks = np.asarray(probabilities > 0).all(axis=2)[..., :num_keys]
    np.testing.assert_array_equal(looks[some], allowed[some])


def test_a_query_without_keys_is_finite_and_so_are_gradients() -> None:
    """And the logarithm of its sum is an ordinary number: it looks as if nothing were masked."""
    x = inputs(6, 6, dtype=jnp.bfloat16)
    nothing = Mask(allowed=jnp.zeros((1, 1, 6, 6), bool))

    def run(mask: Mask) -> Any:
        def total(x: Any) -> Any:
            return attend_fused(*x, mask, scale=1.0, implementation="xla").sum()

        return jax.jit(jax.value_and_grad(total))(x)

    found = run(nothing)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    jax.tree.map(np.testing.assert_array_equal, found, run(Mask()))


def test_which_calls_cudnn_takes() -> None:
    def why(
        length: int = 6, num_keys: int = 6, width: int = 8, mask: Mask = MASKS["packed"][0],
        dtype: str = "bfloat16", batch: Any = 2, **more: Any,
    ) -> str:  # fmt: skip
        found: list[str | None] = []
        shapes = [(batch, n, 4, width) for n in (length, num_keys, num_keys)]
        dtypes = (dtype, "bfloat16", "bfloat16")
        jax.eval_shape(
            lambda *x: found.append(obstacle(*x, mask, **more)),
            *map(jax.ShapeDtypeStruct, shapes, map(jnp.dtype, dtypes)),
        )
        return found[0] or ""

    assert why() == why(width=128) == why(mask=Mask()) == ""
    assert "bfloat16, not float32" in why(dtype="float32")
    assert "cache" in why(cached=True)
    for more in ({"biased": True}, {"cap": 30.0}, {"dropout": 0.1}):
        assert "no bias, softcap or dropout" in why(**more)
    for width in (4, 12, 136, 256):
        assert f"multiple of 8 up to 128, not {width}" in why(width=width)
    assert "one query" in why(length=1, mask=Mask()) and "one query" in why(num_keys=1)
    # Odd lengths stand in the way where the mask is an array, and not else.
    memory = MASKS["memory"][0]
    assert "even lengths, not 3 and 6" in why(length=3, mask=memory)
    assert "even lengths" in why(7, 7, mask=Mask(window=2)) and "even" in why(3, 6, mask=Mask(True))
    assert why(7, 7, mask=Mask(causal=True, window=2)) == why(3, 6, mask=Mask()) == ""
    assert "NaN" in why(192, 192) and why(192, 128) == why(192, 192, mask=Mask(causal=True)) == ""

    assert "open" in why(batch=jax.export.symbolic_shape("b")[0])


def test_who_uses_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not use_cudnn("auto", None)
    with pytest.raises(ConfigError, match=r'kernel="cudnn", but there is no GPU: set it to "auto"'):
        use_cudnn("cudnn", None)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for capability in ("gfx90a", "7.5", ""):
        monkeypatch.setattr(fused_attention, "compute_capability", lambda c=capability: c)
        assert not use_cudnn("auto", None)
        with pytest.raises(ConfigError, match=f"capability is {capability or 'unknown'}, not"):
            use_cudnn("cudnn", None)
    for capability in ("8.0", "9.0", "12.0"):
        monkeypatch.setattr(fused_attention, "compute_capability", lambda c=capability: c)
        assert use_cudnn("auto", None) and use_cudnn("cudnn", None)
        assert not use_cudnn("blocks", None) and not use_cudnn("cudnn", "a reason")


BFLOAT16 = {"compute_dtype": "bfloat16", "d_model": 32, "num_kv_heads": 2}
JOINED = {"architecture": "encoder_decoder", "decoder_start_id": 0}


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an H100, as far as the choice goes."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(fused_attention, "compute_capability", lambda: "9.0")


@pytest.fixture
def calls(hopper: None, monkeypatch: pytest.MonkeyPatch) -> list[Mask]:
    """The masks of calls for cuDNN, which JAX's implementation answers."""
    seen: list[Mask] = []

    def fused(query: Any, key: Any, value: Any, mask: Mask, **more: Any) -> Any:
        seen.append(mask)
        return attend_fused(query, key, value, mask, **more, implementation="xla")

    monkeypatch.setattr(attention, "attend_fused", fused)
    return seen


def test_models_are_computed_by_it(tiny: Any, params_of: Any, calls: list[Mask]) -> None:
    config = tiny(**BFLOAT16, layer_pattern=("global", "local"), window=3)
    params, tokens = params_of(config), jnp.arange(12).reshape(2, 6)

    def logits(changes: dict[str, Any], arguments: dict[str, Any]) -> Any:
        model = build_model(dataclasses.replace(config, **changes))
        return lambda params: model.apply({"params": params}, tokens, **arguments)[0]

    segments = jnp.asarray(PACKED)
    for arguments, real in ({}, segments >= 0), ({"segment_ids": segments}, segments > 0):
        blocks = jax.jit(logits({"attention_kernel": "blocks"}, arguments))(params)
        assert not calls
        found = jax.jit(logits({}, arguments))(params)
        assert [mask.window for mask in calls] == [None, 3]
        calls.clear()
        # It may be rounded to bfloat16 at other places.
        found, blocks = found[real], blocks[real]
        assert jnp.linalg.norm(found - blocks) < 0.02 * jnp.linalg.norm(blocks)

    # Dropout on probabilities stands in the way of training, not of evaluation.
    dropped = {"dropout": DropoutConfig(attention=0.1)}
    training = {"train": True, "rngs": {"dropout": jax.random.key(0)}}
    cases: list[tuple[int, dict[str, Any], dict[str, Any]]] = [
        (0, {}, {"cache": init_cache(config, 2, 6)}),
        (0, {"compute_dtype": "float32"}, {}),
        (0, {"attention_softcap": 3.0}, {}),
        (0, {"position": ALiBi()}, {}),
        (0, dropped, training),
        (2, dropped, {}),
        (2, {}, training),
    ]
    for count, changes, arguments in cases:
        jax.eval_shape(logits(changes, arguments), params)
        assert len(calls) == count, (changes, arguments)
        calls.clear()


def test_cross_attention_is_too(tiny: Any, params_of: Any, calls: list[Mask]) -> None:
    config = tiny(**BFLOAT16, **JOINED, position=T5Relative(num_buckets=8, max_distance=16))
    tokens = jnp.arange(12).reshape(2, 6)
    params, positions = params_of(config), jnp.asarray(BOTH)
    run = functools.partial(build_model(config).apply, source=tokens, source_positions=positions)
    jax.eval_shape(lambda params: run({"params": params}, tokens[:, :4]), params)
    # T5 adds a bias to the scores of a sequence with itself.
    assert len(calls) == 2 and all(mask.key_positions is not None for mask in calls)


def test_cudnn_by_name(tiny: Any, params_of: Any) -> None:
    wrong: dict[str, dict[str, Any]] = {
        r'needs compute_dtype="bfloat16", not .float32': {"compute_dtype": "float32"},
        r"needs attention_softcap=None, not 30\.0": {"attention_softcap": 30.0},
        r"no bias on scores, which position\.kind='alibi' is": {"position": ALiBi()},
        r"position\.kind='t5_relative'": {"position": T5Relative(num_buckets=8, max_distance=16)},
        r"position\.kind='relative_keys'": {"position": RelativeKeys(8)},
        r"needs dropout\.attention=0, not 0\.1": {"dropout": DropoutConfig(attention=0.1)},
        r"multiple of 8 up to 128, not 4": {"d_model": 16},
        r"multiple of 8 up to 128, not 256": {"head_dim": 256},
    }
    for message, fields in wrong.items():
        with pytest.raises(ConfigError, match=message):
            tiny(**{**BFLOAT16, "attention_kernel": "cudnn", **fields})
    config = tiny(**BFLOAT16, attention_kernel="cudnn")
    # Made, converted and decoded anywhere; what cuDNN would compute, nowhere else.
    model, params = build_model(config), params_of(config)
    tokens = jnp.zeros((2, 6), jnp.int32)
    cache = init_cache(config, 2, 6)
    jax.eval_shape(lambda params: model.apply({"params": params}, tokens, cache=cache)[0], params)
    with pytest.raises(ConfigError, match="there is no GPU"):
        model.apply({"params": params}, tokens)


@pytest.mark.usefixtures("hopper")
def test_what_cudnn_is_asked_for(
    tiny: Any, params_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the program of a loss and its gradient, lowered for CUDA."""
    inside = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    if not hasattr(inside, "check_cudnn_version"):
        pytest.skip("this JAX looks elsewhere for cuDNN")
    monkeypatch.setattr(inside, "check_cudnn_version", lambda: 91500)
    tokens, segments, positions = (
        jnp.zeros((2, 6), jnp.int32),
        jnp.asarray(PACKED),
        jnp.asarray(BOTH),
    )

    def asked(config: ModelConfig, **arguments: Any) -> set[tuple[str, str, int]]:
        """(function, kind of mask, window or 0) of every call."""
        model = build_model(config)

        def loss(params: Any) -> jax.Array:
            return jnp.sin(model.apply({"params": params}, tokens, **arguments)[0]).sum()

        traced = jax.jit(jax.grad(loss)).trace(params_of(config))
        try:
            text = traced.lower(lowering_platforms=("cuda",)).as_text()
        except (TypeError, NotImplementedError) as error:
            pytest.skip(f"this JAX does not lower for CUDA here: {error}")
        found = re.findall(
            r'@__cudnn\$fmha(\w+).*?"mask_type": "(\w+)".*?"sliding_window_length": (\d+)',
            text.replace("\\22", '"'),
        )
        return {(name, kind, int(window)) for name, kind, window in found}

    def both(*forward: tuple[str, str, int]) -> set[tuple[str, str, int]]:
        return {*forward, *((f"{name}Backward", *rest) for name, *rest in forward)}

    config = tiny(**BFLOAT16, layer_pattern=("global", "local"), window=3)
    causal = both(("Softmax", "CAUSAL", 0), ("Softmax", "CAUSAL", 3))
    assert asked(config) == causal
    assert asked(dataclasses.replace(config, scan_layers=True, remat="full")) == causal
    # The window is in the array.
    assert asked(config, segment_ids=segments) == both(("ScaleBiasSoftmax", "CAUSAL", 0))
    encoder = tiny(**BFLOAT16, architecture="encoder")
    assert asked(encoder) == both(("Softmax", "NO_MASK", 0))
    whole = Mask(allowed=jnp.ones((1, 1, 1, 6), bool))
    for more in ({"positions": positions}, {"mask": whole}):
        assert asked(encoder, **more) == both(("ScaleBiasSoftmax", "NO_MASK", 0))
    assert asked(tiny(**BFLOAT16, **JOINED), source=tokens, source_positions=positions) == both(
        ("Softmax", "CAUSAL", 0), ("ScaleBiasSoftmax", "NO_MASK", 0)
    )
    assert not asked(dataclasses.replace(config, attention_kernel="blocks"))
