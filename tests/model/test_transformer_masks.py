"""The decoder with masks: the caller's, of packed documents, and of long sequences in blocks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import ModelConfig, NormConfig, Rotary
from lm.model import Mask, build_model, init_cache
from lm.model.stack import query_block

TOKENS = jnp.array([[1, 2, 3, 4, 5, 6], [7, 3, 9, 9, 0, 2]])
LOCAL_GLOBAL: dict[str, Any] = {
    "position": Rotary(),
    "layer_pattern": ("local", "global"),
    "window": 3,
    "norm": NormConfig(kind="rms"),
}
# Float32 rounding through two layers at activations of order 1 to 10.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def logits_of(config: ModelConfig, params: Any, tokens: Any, **arguments: Any) -> Any:
    model = build_model(config)
    return jax.jit(lambda p, t, a: model.apply({"params": p}, t, **a)[0])(params, tokens, arguments)


def test_long_sequences_in_query_blocks(tiny: Any, params_of: Any) -> None:
    """Past one block of queries, logits are those of given positions, which use no blocks."""
    config = tiny(**LOCAL_GLOBAL)
    params = params_of(config)
    tokens = jax.random.randint(jax.random.key(0), (1, 150), 0, 13)
    explicit = logits_of(config, params, tokens, positions=jnp.arange(150)[None])
    np.testing.assert_allclose(logits_of(config, params, tokens), explicit, **CLOSE)


def test_a_mask_of_the_callers(tiny: Any, params_of: Any) -> None:
    """Without `causal` the first output sees the last token, whatever else is given."""
    config = tiny(position=Rotary())
    params, changed = params_of(config), TOKENS.at[:, -1].set(12)
    positions = jnp.arange(6)[None].repeat(2, 0)
    given = [{}, {"positions": positions}, {"segment_ids": jnp.ones_like(TOKENS)}]
    given.append({**given[1], **given[2]})
    for arguments in given:
        for mask, same in ((None, True), (Mask(causal=True), True), (Mask(), False)):
            before = logits_of(config, params, TOKENS, mask=mask, **arguments)[:, 0]
            after = logits_of(config, params, changed, mask=mask, **arguments)[:, 0]
            assert bool((before == after).all()) == same


def test_a_prompt_read_both_ways_into_a_cache(tiny: Any, params_of: Any) -> None:
    config = tiny(position=Rotary())
    params = params_of(config)
    bare = logits_of(config, params, TOKENS, mask=Mask())
    cached = logits_of(config, params, TOKENS, mask=Mask(), cache=init_cache(config, 2, 9))
    np.testing.assert_allclose(cached, bare, **CLOSE)


def test_packed_documents_in_query_blocks(tiny: Any, params_of: Any) -> None:
    """A row of several blocks and a document over two of them: each is as if alone."""
    config = tiny(**LOCAL_GLOBAL)
    params = params_of(config)
    tokens = jax.random.randint(jax.random.key(0), (1, 200), 0, 13)
    lengths = (50, 90, 40)
    positions = jnp.concatenate([jnp.arange(n) for n in (*lengths, 20)])[None]
    segments = jnp.repeat(jnp.array([1, 2, 3, 0]), jnp.array([*lengths, 20]))[None]
    made = logits_of(config, params, tokens, positions=positions, segment_ids=segments)
    begin = 0
    for length in lengths:
        alone = logits_of(config, params, tokens[:, begin : begin + length])
        np.testing.assert_allclose(made[:, begin : begin + length], alone, **CLOSE)
        begin += length


def test_blocks_of_queries_are_few_at_any_length() -> None:
    assert [query_block(n) for n in (1, 64, 256, 512, 513, 1024, 8192)] == [
        64, 64, 64, 64, 128, 128, 1024]  # fmt: skip
    lengths = range(1, 5000, 37)
    assert all(len(Mask(causal=True).spans(n, n, query_block(n))) <= 8 for n in lengths)


def test_packed_rows_skip_later_keys_too(tiny: Any, params_of: Any) -> None:
    """No scores of all queries with all keys are made."""
    config = tiny(num_layers=1, position=Rotary())
    params, model = params_of(config), build_model(config)
    tokens = jnp.zeros((1, 128), jnp.int32)

    def text(**arguments: Any) -> str:
        def run(arguments: Any) -> Any:
            return model.apply({"params": params}, tokens, **arguments)

        return str(jax.make_jaxpr(run)(arguments))

    row = {"positions": tokens, "segment_ids": tokens}
    assert "f32[1,4,128,128]" in text(positions=tokens)
    assert "f32[1,4,128,128]" not in text(**row)
    assert "bool[1,1,128,128]" not in text(**row)
