"""Every objective on a tiny model that it can train, and rows of random bytes for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.config import (
    CausalLM,
    Denoising,
    HeadConfig,
    Learned,
    MaskedLM,
    MixtureOfDenoisers,
    ModelConfig,
    NormConfig,
    PermutationLM,
    PoolerConfig,
    PrefixLM,
    ReplacedTokens,
    Rotary,
    SequenceToSequence,
    SpanCorruption,
    T5Relative,
    XLNetRelative,
)
from lm.data.rows import stack
from lm.data.tokenizers.simple import Bytes
from lm.data.validation import padding_like
from lm.objectives import build_objective

LENGTH, VOCAB = 24, 300
TOKENIZER = Bytes()
BASE: dict[str, Any] = dict(vocab_size=VOCAB, num_layers=1, d_model=16, num_heads=2, d_ff=32)
ENCODER = ModelConfig(
    **BASE,
    position=Learned(LENGTH),
    architecture="encoder",
    token_types=2,
    embedding_norm=True,
    norm=NormConfig(placement="post"),
    lm_head="transform",
    lm_head_bias=True,
)
PAIRED = dataclasses.replace(
    ENCODER, pooler=PoolerConfig(), heads=(HeadConfig("next_sentence", 2),)
)
DETECTOR = dataclasses.replace(
    ENCODER,
    lm_head="none",
    lm_head_bias=False,
    embedding_size=8,
    heads=(HeadConfig("replaced_token", 1, transform=True),),
)
GENERATOR = dataclasses.replace(ENCODER, d_model=12, embedding_size=8, d_ff=16)
JOINED = ModelConfig(
    **BASE,
    position=T5Relative(8, 16),
    architecture="encoder_decoder",
    decoder_start_id=256,
    norm=NormConfig(kind="rms"),
)
DECODER = ModelConfig(**BASE, position=Rotary())
TWO_STREAM = ModelConfig(
    # What leaks does so over two layers.
    **{**BASE, "num_layers": 2},
    position=XLNetRelative(),
    architecture="two_stream",
    norm=NormConfig(placement="post"),
    attention_bias=False,
    attention_output_bias=False,
    lm_head_bias=True,
    token_types=2,
)
# So sharp that samples do not depend on the random numbers, which microbatches and devices change.
SHARP = 1e-6
CASES: dict[str, tuple[Any, ModelConfig]] = {
    "causal": (CausalLM(), DECODER),
    "masked": (MaskedLM(), ENCODER),
    "wrapped spans": (MaskedLM(selection="spans", wrap=True), ENCODER),
    "next sentence": (MaskedLM(pairs="next_sentence"), PAIRED),
    "sentence order": (MaskedLM(pairs="sentence_order"), PAIRED),
    "replaced": (ReplacedTokens(generator=GENERATOR, temperature=SHARP), DETECTOR),
    "all originals": (
        ReplacedTokens(generator=GENERATOR, temperature=SHARP, task="all_originals"),
        dataclasses.replace(ENCODER, embedding_size=8),
    ),
    "spans": (SpanCorruption(density=0.3, mean_length=2.0), JOINED),
    "ul2": (MixtureOfDenoisers(), JOINED),
    "bart": (Denoising(), JOINED),
    "prefix": (PrefixLM(), JOINED),
    "prefix decoder": (PrefixLM(), DECODER),
    "translation": (MaskedLM(pairs="translation"), ENCODER),
    "texts": (SequenceToSequence(target_length=15), JOINED),
    "texts decoder": (SequenceToSequence(), DECODER),
    "permutation": (PermutationLM(num_predict=6), TWO_STREAM),
}
# Those whose rows may hold several texts.
PACKED = ("causal", "masked", "replaced", "all originals")
PAIRS = ("next sentence", "sentence order")
# Those whose rows are a document and its target.
TARGETS = ("translation", "texts", "texts decoder")


def case(name: str) -> Any:
    """The objective."""
    return build_objective(*CASES[name])


def distinct(n: int, seed: int) -> np.ndarray:
    """n different bytes."""
    return np.random.default_rng(seed).permutation(256)[:n].astype(np.int32)


def pieces_of(objective: Any, text: np.ndarray) -> list[np.ndarray]:
    """What a row is made of: one text, or, where it is to be a text and its target, its halves."""
    return np.split(text, [len(text) // 2]) if objective.config.takes_pairs else [text]


def rows(
    objective: Any,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    length: int = LENGTH,
    eos: bool = False,
) -> list[dict[str, np.ndarray]]:
    """Rows of texts of so many different bytes (as many as fit), each from a seed of its own."""
    make = objective.row_maker(TOKENIZER, length)
    most = make.positions + make.lookahead
    joined = getattr(objective.config, "pairs", "none") == "none"
    found = []
    for number, size in enumerate(sizes):
        text = distinct(min(size, most), 1000 * seed + number)
        if eos:
            text[-1] = TOKENIZER.eos_id

        def other(rng: np.random.Generator) -> np.ndarray:
            return distinct(most, int(rng.integers(2**31)))

        rng = np.random.default_rng([seed, number])
        found.append(make(pieces_of(objective, text), rng, joined=joined, other=other))
    return found


def batch_of(objective: Any, sizes: Sequence[int] = (24, 13, 24, 7), **settings: Any) -> Any:
    return stack(rows(objective, sizes, **settings))


def params_of(objective: Any, batch: Any, stddev: float = 0.4, seed: int = 0) -> Any:
    """Random parameters in the shapes of `objective.init`."""
    rng = np.random.default_rng(seed)
    shapes = nn.meta.unbox(jax.eval_shape(objective.init, jax.random.key(0), batch))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, stddev, x.shape), x.dtype), shapes)


def on_device(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)


def evaluated(objective: Any, params: Any, batch: Any) -> dict[str, tuple[float, float]]:
    """The sum and weight of every term, without dropout."""
    terms = jax.jit(lambda p, b: objective.loss(p, b, None, train=False))(params, batch)
    return {name: (float(t.sum), float(t.weight)) for name, t in terms.items()}


def assert_equal_terms(actual: Any, expected: Any) -> None:
    """But for the rounding of sums in another order."""
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def filler(batch: Any, count: int) -> Any:
    """The batch with rows of padding after it, as the last one of an evaluation has."""
    row = padding_like({name: values[0] for name, values in batch.items()})
    return {k: np.concatenate([x, row[k][None].repeat(count, 0)]) for k, x in batch.items()}
