"""The causal objective: its terms against formulas, and the loss in parts against the whole."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.extend.core import ClosedJaxpr, Jaxpr

from lm.config import CausalLM, DropoutConfig, InitConfig, Learned, ModelConfig, Rotary
from lm.data.tokenizers.simple import Bytes
from lm.objectives import build_objective, cross_entropy
from lm.objectives.cross_entropy import positions_per_chunk

MODEL = ModelConfig(
    vocab_size=11,
    num_layers=1,
    d_model=8,
    num_heads=2,
    d_ff=16,
    position=Rotary(),
    init=InitConfig(stddev=0.5),
)


def batch_of(batch: int = 2, length: int = 7, vocab: int = 11) -> dict[str, Any]:
    tokens = jax.random.randint(jax.random.key(1), (batch, length + 1), 0, vocab)
    weights = jnp.ones((batch, length)).at[0, -2:].set(0)
    return {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}


def params_of(objective: Any, batch: Any) -> Any:
    """Random parameters in the shapes of `objective.init`."""
    rng = np.random.default_rng(0)
    shapes = nn.meta.unbox(jax.eval_shape(objective.init, jax.random.key(0), batch))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), x.dtype), shapes)


def logits_of(objective: Any, params: Any, batch: Any) -> np.ndarray:
    return np.asarray(objective.model.apply({"params": params}, batch["tokens"])[0], np.float64)


def test_prepare_shifts_by_one() -> None:
    objective = build_objective(CausalLM(), MODEL)
    tokens = np.array([5, 6, 7, 8], np.int32)
    features = objective.prepare({"tokens": tokens}, np.random.default_rng(0))
    maker = objective.row_maker(Bytes(), 16)
    assert (maker.positions, maker.lookahead) == (16, 1)
    assert features["tokens"].tolist() == [5, 6, 7]
    assert features["targets"].tolist() == [6, 7, 8]
    assert features["weights"].tolist() == [1, 1, 1] and features["weights"].dtype == np.float32
    short = objective.prepare({"tokens": tokens[:0]}, np.random.default_rng(0))
    assert all(len(x) == 0 for x in short.values())


@pytest.mark.parametrize("chunk_tokens", [0, 4])
def test_terms_by_formula(chunk_tokens: int) -> None:
    config = CausalLM(label_smoothing=0.1, z_loss=1e-3, chunk_tokens=chunk_tokens)
    objective, batch = build_objective(config, MODEL), batch_of()
    params = params_of(objective, batch)
    terms = objective.loss(params, batch, None, train=True)

    logits, weights = logits_of(objective, params, batch), np.asarray(batch["weights"])
    log_z = np.log(np.exp(logits).sum(-1))
    log_p = logits - log_z[..., None]
    of_target = np.take_along_axis(log_p, np.asarray(batch["targets"])[..., None], -1)[..., 0]
    expected = {
        "loss": (-of_target, 0.0),
        "smoothed_loss": (-0.9 * of_target - 0.1 * log_p.mean(-1), 1.0),
        "z_loss": (log_z**2, 1e-3),
        "accuracy": (logits.argmax(-1) == np.asarray(batch["targets"]), 0.0),
    }
    assert set(terms) == set(expected)
    for name, (values, coefficient) in expected.items():
        assert float(terms[name].sum) == pytest.approx((values * weights).sum(), rel=1e-5)
        assert float(terms[name].weight) == 12
        assert terms[name].coefficient == coefficient


def test_plain_terms() -> None:
    objective, batch = build_objective(CausalLM(), MODEL), batch_of()
    terms = objective.loss(params_of(objective, batch), batch, None, train=True)
    assert {name: term.coefficient for name, term in terms.items()} == {"loss": 1, "accuracy": 0}
    smoothing = build_objective(CausalLM(label_smoothing=0.1), MODEL)
    evaluated = smoothing.loss(params_of(smoothing, batch), batch, None, train=False)
    assert set(evaluated) == {"loss", "accuracy"} and evaluated["loss"].coefficient == 1


def test_uniform_logits_cost_log_v() -> None:
    objective, batch = build_objective(CausalLM(), MODEL), batch_of()
    params = jax.tree.map(jnp.zeros_like, params_of(objective, batch))
    terms = objective.loss(params, batch, None, train=False)
    assert float(terms["loss"].sum / terms["loss"].weight) == pytest.approx(math.log(11))
    # All logits are equal: nothing was predicted, so nothing is right.
    assert float(terms["accuracy"].sum) == 0


# 2 positions do not divide 7; 1 token is fewer than the rows.
@pytest.mark.parametrize("chunk_tokens", [4, 1])
@pytest.mark.parametrize(
    "head",
    [
        {"logit_softcap": 4.0},
        {"logit_softcap": 4.0, "tie_embeddings": False},
        {"logit_scale": 0.5},
        {"lm_head_bias": True},
        {},
    ],
    ids=str,
)
def test_loss_in_parts_is_the_whole(chunk_tokens: int, head: Any) -> None:
    model = ModelConfig(11, 1, 8, 2, 16, Rotary(), **head)
    batch = batch_of()
    results = []
    for chunk in (0, chunk_tokens):
        config = CausalLM(label_smoothing=0.1, z_loss=0.01, chunk_tokens=chunk)
        objective = build_objective(config, model)
        params = params_of(objective, batch)

        def total(params: Any, objective: Any = objective) -> Any:
            terms = objective.loss(params, batch, None, train=True)
            return sum(t.coefficient * t.sum for t in terms.values())

        results.append(jax.jit(jax.value_and_grad(total))(params))
    # The same 14 summands in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *results)


def sizes(jaxpr: Jaxpr) -> set[int]:
    """Numbers of elements of every intermediate, those of inner jaxprs included."""
    found = set()
    for equation in jaxpr.eqns:
        found |= {math.prod(v.aval.shape) for v in equation.outvars}
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: isinstance(x, (Jaxpr, ClosedJaxpr))
        ):
            if isinstance(value, ClosedJaxpr):
                value = value.jaxpr
            if isinstance(value, Jaxpr):
                found |= sizes(value)
    return found


def test_loss_in_parts_never_holds_all_logits() -> None:
    model = ModelConfig(1024, 1, 8, 2, 16, Rotary())
    batch = batch_of(2, 64, 1024)
    largest, temporary = {}, {}
    for chunk in (0, 16):
        objective = build_objective(CausalLM(chunk_tokens=chunk), model)
        params = params_of(objective, batch)

        def total(params: Any, objective: Any = objective) -> Any:
            return objective.loss(params, batch, None, train=True)["loss"].sum

        gradient = jax.jit(jax.grad(total))
        largest[chunk] = max(sizes(jax.make_jaxpr(gradient)(params).jaxpr))
        analysis = gradient.lower(params).compile().memory_analysis()
        temporary[chunk] = analysis.temp_size_in_bytes
    logits = 2 * 64 * 1024
    assert largest[0] >= logits
    assert largest[16] < logits / 4
    assert temporary[16] < logits * 4 < temporary[0]


def test_when_the_loss_is_split() -> None:
    assert positions_per_chunk(None, 8, 256, 65) == 256
    assert positions_per_chunk(None, 1, 1024, 2**16) == 1024  # exactly 2^26 elements
    assert positions_per_chunk(None, 2, 1024, 2**16) == 512  # 1024 tokens
    assert positions_per_chunk(None, 2, 1024, 2**16, devices=2) == 1024
    assert positions_per_chunk(None, 16, 16384, 512) == 2**25 // 512 // 16
    assert positions_per_chunk(0, 64, 1024, 50257) == 1024
    assert positions_per_chunk(100, 8, 256, 65) == 12
    assert positions_per_chunk(4, 8, 256, 65) == 1
    assert positions_per_chunk(10**6, 8, 256, 65) == 256


# Rows and length of a step of all devices, vocabulary, devices.
@pytest.mark.parametrize(
    ("batch", "length", "vocab", "devices"),
    [
        (96, 1024, 50257, 1),  # GPT-2
        (96, 1024, 50257, 8),
        (512, 8192, 128256, 256),  # Llama 3 8B
        (512, 8192, 128256, 1),
        (1, 8192, 128256, 1),
        (64, 1024, 32000, 4),
    ],
)
def test_parts_are_large_enough_and_fit(batch, length, vocab, devices) -> None:
    size = positions_per_chunk(None, batch, length, vocab, devices)
    tokens = size * batch / devices
    assert -(-length // size) <= 32
    assert tokens >= 1024
    # At most what the docstring says, and a position a row for rounding.
    bound = max(2**25, 1024 * vocab, batch * length * vocab / devices / 32)
    assert (size - 1) * batch / devices * vocab <= bound
    assert size * batch * vocab < batch * length * vocab / 7


def test_parts_are_sized_by_the_mesh(monkeypatch) -> None:
    """A quarter of the logits a device is not split; a mapped axis has divided them already."""
    monkeypatch.setattr(cross_entropy, "SPLIT_ABOVE", 14 * 11 // 4 + 10)
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", 11)
    monkeypatch.setattr(cross_entropy, "CHUNK_TOKENS", 1)
    objective, batch = build_objective(CausalLM(), MODEL), batch_of()
    params = params_of(objective, batch)

    def scans(batch: Any) -> bool:
        run = jax.make_jaxpr(lambda p, b: objective.loss(p, b, None, train=True)["loss"].sum)
        return "scan" in str(run(params, batch))

    assert scans(batch)
    axes = {"axis_types": (jax.sharding.AxisType.Auto,) * 2}
    with jax.set_mesh(jax.make_mesh((2, 2), ("data", "fsdp"), **axes)):
        assert not scans(batch)

    def whole(batch: Any) -> Any:
        assert scans(batch)
        return batch["weights"].sum()

    jax.pmap(whole)(jax.tree.map(lambda x: jnp.stack([x] * 4), batch))


def test_by_itself_the_loss_never_holds_all_logits_of_a_large_vocabulary() -> None:
    model = ModelConfig(2**17, 1, 2, 1, 2, Rotary())
    objective, batch = build_objective(CausalLM(), model), batch_of(4, 1024, 2**17)
    shapes = jax.eval_shape(objective.init, jax.random.key(0), batch)

    def total(params: Any) -> Any:
        return objective.loss(params, batch, None, train=True)["loss"].sum

    largest = max(sizes(jax.make_jaxpr(jax.grad(total))(nn.meta.unbox(shapes)).jaxpr))
    assert largest == 1024 * 2**17 == 4 * 1024 * 2**17 // 4


def test_packed_batches_use_segments_and_positions() -> None:
    """Two documents in a row cost what they cost apart."""
    model = ModelConfig(11, 1, 8, 2, 16, Learned(8), init=InitConfig(stddev=0.5))
    objective, batch = build_objective(CausalLM(), model), batch_of(2, 4)
    batch["weights"] = jnp.ones((2, 4))
    params = params_of(objective, batch)
    packed = {name: x.reshape(1, 8) for name, x in batch.items()}
    packed["segment_ids"] = jnp.array([[1] * 4 + [2] * 4])
    packed["positions"] = jnp.array([[0, 1, 2, 3] * 2])
    apart = objective.loss(params, batch, None, train=False)["loss"].sum
    together = objective.loss(params, packed, None, train=False)["loss"].sum
    assert float(together) == pytest.approx(float(apart), rel=1e-5)
    del packed["segment_ids"], packed["positions"]
    mixed = objective.loss(params, packed, None, train=False)["loss"].sum
    assert abs(float(mixed - apart)) > 1e-2


def test_rng_is_for_dropout_while_training() -> None:
    model = ModelConfig(11, 1, 8, 2, 16, Rotary(), dropout=DropoutConfig(residual=0.5))
    objective, batch = build_objective(CausalLM(), model), batch_of()
    params = params_of(objective, batch)

    def loss(seed: int, train: bool) -> float:
        return float(objective.loss(params, batch, jax.random.key(seed), train=train)["loss"].sum)

    assert loss(0, True) == loss(0, True) != loss(1, True)
    assert loss(0, False) == loss(1, False)
