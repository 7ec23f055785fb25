"""The pure step: division once, microbatches, zero weights, averages, metrics, and its cost."""

from __future__ import annotations

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm.config import (
    AdamW,
    CausalLM,
    DropoutConfig,
    Learned,
    ModelConfig,
    ParameterRule,
)
from lm.objectives import build_objective
from lm.objectives.base import Term
from lm.train.optimizer import build_optimizer
from lm.train.state import TrainState, create_state
from lm.train.step import evaluate_step, multi_step, train_step
from tests.parallel.toy import ToyObjective, batches, one, update_error

ROWS = 8
SGD = optax.sgd(0.1)


def start(objective: Any = None, optimizer: Any = SGD, **kwargs: Any) -> TrainState:
    batch = one(batches(1, ROWS))
    make = functools.partial(create_state, objective or ToyObjective(), optimizer, batch, 0)
    return jax.jit(lambda: make(**kwargs))()


def step(state: TrainState, batch: Any, objective: Any = None, **kwargs: Any) -> Any:
    kwargs = {"objective": objective or ToyObjective(), "optimizer": SGD, **kwargs}
    return jax.jit(functools.partial(train_step, **kwargs))(state, batch)


def total_loss(params: Any, batch: Any) -> jax.Array:
    terms = ToyObjective().loss(params, batch, None, train=False)
    loss, penalty = terms["loss"], terms["penalty"]
    return loss.sum / loss.weight + 0.1 * penalty.sum / penalty.weight


@pytest.mark.parametrize("microbatches", [1, 2, 4, 8])
def test_the_update_is_the_gradient_of_the_quotients(microbatches: int) -> None:
    state, batch = start(), one(batches(1, ROWS))
    new, metrics = step(state, batch, microbatches=microbatches, learning_rate=lambda s: 0.5 + s)
    loss, gradient = jax.value_and_grad(total_loss)(state.params, batch)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradient)
    # Sums of eight rows in another order: a few units in the last place.
    assert update_error(state.params, expected, new.params) < 1e-5
    terms = ToyObjective().loss(state.params, batch, None, train=False)
    wanted = {
        "loss": terms["loss"].sum / terms["loss"].weight,
        "penalty": terms["penalty"].sum / terms["penalty"].weight,
        "empty": 0.0,
        "total_loss": loss,
        "gradient_norm": optax.tree.norm(gradient),
        "learning_rate": 0.5,
        "tokens": batch["weights"].sum(),
    }
    assert metrics.keys() == {*wanted, "metric"}
    for name, value in wanted.items():
        assert metrics[name].shape == () and metrics[name].dtype == jnp.float32
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    assert new.step == 1
    np.testing.assert_array_equal(new.rng, state.rng)


@pytest.mark.parametrize("microbatches", [1, 4])
def test_a_batch_without_weight_changes_nothing(microbatches: int) -> None:
    batch = one(batches(1, ROWS))
    batch["weights"][:] = 0
    state = start()
    new, metrics = step(state, batch, microbatches=microbatches)
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)
    assert all(value == 0 for name, value in metrics.items() if name != "metric"), metrics


def test_microbatches_deal_the_rows_and_draw_their_own_keys() -> None:
    class Recorder(ToyObjective):
        def loss(self, params: Any, batch: Any, rng: Any, *, train: bool) -> dict[str, Term]:
            jax.debug.callback(seen.append, batch["weights"])
            jax.debug.callback(draws.append, jax.random.uniform(rng))
            return super().loss(params, batch, rng, train=train)

    seen: list[Any] = []
    draws: list[Any] = []
    batch = one(batches(1, ROWS))
    batch["weights"] = np.arange(ROWS, dtype=np.float32)
    jax.block_until_ready(step(start(), batch, Recorder(), microbatches=2))
    jax.effects_barrier()
    assert {tuple(np.asarray(w).tolist()) for w in seen} == {(0, 2, 4, 6), (1, 3, 5, 7)}
    assert len({float(d) for d in draws}) == 2


def test_dropout_changes_from_step_to_step_and_repeats_with_the_state() -> None:
    objective = ToyObjective(dropout=0.5)
    state, batch = start(objective), one(batches(1, ROWS))
    still = optax.set_to_zero()
    first, a = step(state, batch, objective, optimizer=still)
    _, b = step(first, batch, objective, optimizer=still)
    _, again = step(state, batch, objective, optimizer=still)
    jax.tree.map(np.testing.assert_array_equal, a, again)
    assert abs(a["loss"] - b["loss"]) > 1e-3


def test_the_moving_average_equals_numpy() -> None:
    data = batches(3, ROWS)
    state = start(ema=True)
    average = np.asarray(state.params["up"]["kernel"], np.float64)
    for i in range(3):
        state, _ = step(state, one(data, i), ema_decay=0.75)
        average = 0.75 * average + 0.25 * np.asarray(state.params["up"]["kernel"])
    np.testing.assert_allclose(state.ema["up"]["kernel"], average, rtol=1e-6, atol=1e-6)
    assert np.abs(average - state.params["up"]["kernel"]).max() > 1e-2


def test_the_reported_norm_is_of_trainable_gradients_before_clipping() -> None:
    rules = (ParameterRule("down/.*", frozen=True), ParameterRule(".*"))
    state = start()
    optimizer = build_optimizer(
        AdamW(clip_norm=1e-3, rules=rules),
        total_steps=1,
        in_steps=lambda d: d.steps or 0,
        params=state.params,
    )
    state, batch = start(optimizer=optimizer), one(batches(1, ROWS))
    gradient = jax.grad(total_loss)(state.params, batch)
    new, metrics = step(state, batch, optimizer=optimizer)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradient["up"]), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, new.params["down"], state.params["down"])


def test_several_steps_stack_their_metrics() -> None:
    data = batches(3, ROWS)
    one_step = functools.partial(train_step, objective=ToyObjective(), optimizer=SGD)
    run = jax.jit(multi_step(one_step))
    end, metrics = run(start(), data)
    state, losses = start(), []
    for i in range(3):
        state, single = run(state, {k: x[i : i + 1] for k, x in data.items()})
        losses.append(single["loss"])
    np.testing.assert_allclose(metrics["loss"], np.concatenate(losses), rtol=1e-5)
    assert update_error(start().params, end.params, state.params) < 1e-5


def test_evaluation_drops_nothing_and_adds_up() -> None:
    objective = ToyObjective(dropout=0.5)
    params, batch = start().params, one(batches(1, ROWS))
    whole = evaluate_step(params, batch, objective=objective)
    parts = [
        evaluate_step(params, {k: x[half] for k, x in batch.items()}, objective=objective)
        for half in (slice(0, 3), slice(3, None))
    ]
    for name in ("loss", "penalty"):
        for i in range(2):
            np.testing.assert_allclose(whole[name][i], sum(p[name][i] for p in parts), rtol=1e-5)


# ----------------------------------------------------------------------------- the real objective


def text(rows: int) -> dict[str, np.ndarray]:
    tokens = np.zeros((rows, 6), np.int32)
    return {"tokens": tokens, "targets": tokens, "weights": np.ones((rows, 6), np.float32)}


def products(objective: Any, batch: Any, microbatches: int) -> int:
    """Matrix products in the compiled step; a loop's body counts once."""
    state = jax.eval_shape(lambda: create_state(objective, SGD, batch, 0))
    run = functools.partial(
        train_step, objective=objective, optimizer=SGD, microbatches=microbatches
    )
    # Level 0 is quick and still removes dead code; it only leaves machine code unoptimised.
    compiled = jax.jit(run).lower(state, batch).compile({"xla_backend_optimization_level": 0})
    return len(re.findall(r"= \S+ dot\(", compiled.as_text()))


def test_counting_weights_first_costs_no_forward_pass() -> None:
    """Nor does it through the loops of scanned layers, rematerialisation and chunked logits."""
    model = ModelConfig(
        vocab_size=13,
        num_layers=2,
        d_model=8,
        num_heads=2,
        d_ff=16,
        position=Learned(6),
        dropout=DropoutConfig(residual=0.1),
        scan_layers=True,
        remat="full",
    )
    decoder = build_objective(CausalLM(chunk_tokens=12), model)
    assert products(decoder, text(8), 2) == products(decoder, text(4), 1) > 10
    toy = ToyObjective()
    assert products(toy, one(batches(1, 8)), 2) == products(toy, one(batches(1, 4)), 1) == 5
