"""Adapters: nothing at first, the merged model always, and nothing else trained or kept."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from lm.config import AdamW, LoRA, Muon, ParallelConfig
from lm.errors import ConfigError
from lm.model.lora import active, is_adapter, merged, rebased, with_adapters, without_adapters
from lm.objectives import build_objective
from lm.objectives.adapted import Adapted
from lm.parallel.mapping import Program, build_mapping
from lm.train.optimizer import build_optimizer, frozen
from lm.train.restoring import named_shapes
from lm.train.state import TrainState, boxed_params, create_state
from lm.train.step import evaluate_step, multi_step, train_step
from tests.objectives.cases import CASES, batch_of, on_device, params_of

# Every projection there is, of any family.
ALL = LoRA(
    rank=3, alpha=5.0, targets=r".*/(attention|cross_attention|mlp)/\w+|lm_head|lm_transform"
)
FAMILIES = ("causal", "masked", "replaced", "spans", "permutation")


def made(name: str, lora: LoRA = ALL, **model: Any) -> tuple[Any, Any, Any]:
    """The objective, the same with adapters, and a batch."""
    config, base = CASES[name]
    objective = build_objective(config, dataclasses.replace(base, **model))
    return objective, Adapted(objective, lora), on_device(batch_of(objective))


def values(objective: Any, params: Any, batch: Any) -> dict[str, jax.Array]:
    terms = jax.jit(lambda p: objective.loss(p, batch, None, train=False))(params)
    return {name: term.sum for name, term in terms.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_new_adapters_change_nothing_and_trained_ones_are_the_merged_model(name: str) -> None:
    objective, adapted, batch = made(name)
    base = params_of(objective, batch)
    params = with_adapters(base, ALL, jax.random.key(1))
    assert any(is_adapter(path) for path in named_shapes(params))
    before = values(objective, base, batch)
    for term, value in values(adapted, params, batch).items():
        np.testing.assert_array_equal(value, before[term], err_msg=term)
    # A random B too.
    trained = rebased(params_of(adapted, batch, stddev=0.2, seed=1), base)
    found, whole = values(adapted, trained, batch), values(objective, merged(trained, ALL), batch)
    assert abs(found["loss"] - before["loss"]) > 1e-2
    for term, value in whole.items():
        np.testing.assert_allclose(found[term], value, rtol=1e-4, atol=1e-4, err_msg=term)
    same = without_adapters(trained)
    assert jax.tree.structure(same) == jax.tree.structure(base)
    assert all(map(np.array_equal, jax.tree.leaves(same), jax.tree.leaves(base)))


def test_the_factor_by_hand() -> None:
    rng = np.random.default_rng(0)
    kernel, a, b = (rng.normal(size=s).astype(np.float32) for s in ((2, 4, 6), (2, 4, 9), (9, 6)))
    node = {"kernel": kernel, "lora_a": {"kernel": a}, "lora_b": {"kernel": b}}
    expected = kernel.reshape(8, 6) + a.reshape(8, 9) @ b * (6.0 / 9)
    found = merged({"output": node}, LoRA(rank=9, alpha=6.0))["output"]
    assert found.keys() == {"kernel"}
    np.testing.assert_allclose(found["kernel"].reshape(8, 6), expected, rtol=1e-5)
    assert LoRA(rank=9, alpha=6.0, rank_stabilised=True).scale == 2.0


def test_initial_numbers_are_within_their_bound_and_differ() -> None:
    objective, adapted, batch = made("causal")
    params = nn.meta.unbox(adapted.init(jax.random.key(0), batch))
    plain = nn.meta.unbox(objective.init(jax.random.key(0), batch))
    for a, b in zip(jax.tree.leaves(without_adapters(params)), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(a, b)
    attention = params["layer_0"]["attention"]
    query, output = (attention[n]["lora_a"]["kernel"] for n in ("query", "output"))
    assert query.shape == (16, 3) and output.shape == (2, 8, 3)
    assert 0.2 < jnp.abs(query).max() <= 0.25
    assert not np.array_equal(query, attention["value"]["lora_a"]["kernel"])
    assert not jnp.any(attention["query"]["lora_b"]["kernel"])


def run_steps(
    objective: Any, settings: Any, lora: LoRA | None, batch: Any, *, count: int = 2, **more: Any
) -> tuple[TrainState, TrainState]:
    def optimizer(params: Any) -> optax.GradientTransformation:
        return build_optimizer(settings, total_steps=9, in_steps=lambda d: d.steps or 0,
                               params=params, lora=lora)  # fmt: skip

    start = create_state(objective, optimizer, batch, 0, ema="ema_decay" in more)
    step = jax.jit(partial(
        train_step, objective=objective, optimizer=optimizer(start.params),
        frozen=frozen(settings, start.params, lora), **more,
    ))  # fmt: skip
    state = start
    for _ in range(count):
        state, _ = step(state, batch)
    return start, state


@pytest.mark.parametrize(
    ("settings", "microbatches"),
    [(AdamW(learning_rate=0.01, weight_decay=0.1), 2), (Muon(), 1)],
)
def test_only_adapters_are_trained_and_have_optimiser_state(
    settings: Any, microbatches: int
) -> None:
    _, adapted, batch = made("causal")
    start, end = run_steps(adapted, settings, ALL, batch, microbatches=microbatches, ema_decay=0.5)
    names = named_shapes(start.params)
    for name, a, b, mean in zip(
        names, *(jax.tree.leaves(tree) for tree in (start.params, end.params, end.ema)), strict=True
    ):
        assert np.array_equal(a, b) != is_adapter(name), name
        assert np.array_equal(a, mean) != is_adapter(name), name
    own = sum(x.size for n, x in zip(names, jax.tree.leaves(start.params)) if is_adapter(n))
    assert own < sum(x.size for x in jax.tree.leaves(end.opt_state)) <= 2 * own + 10


def test_frozen_weights_have_no_gradient() -> None:
    """Of the three products of a projection in a step, the adapters' leave out one."""
    model = {"d_model": 64, "d_ff": 256, "num_layers": 2}
    objective, adapted, batch = made("causal", **model)

    def flops(objective: Any, lora: LoRA | None) -> float:
        def step(state: Any) -> Any:
            return train_step(
                state, batch, objective=objective, optimizer=optimizer,
                frozen=frozen(AdamW(), state.params, lora),
            )  # fmt: skip

        shapes = nn.meta.unbox(jax.eval_shape(objective.init, jax.random.key(0), batch))
        optimizer = build_optimizer(
            AdamW(), total_steps=9, in_steps=lambda d: d.steps or 0, params=shapes, lora=lora
        )
        state = jax.eval_shape(lambda: create_state(objective, optimizer, batch, 0))
        found: Any = jax.jit(step).lower(state).compile().cost_analysis()
        return float(found["flops"])

    assert flops(adapted, ALL) < 0.85 * flops(objective, None)


def test_scanned_layers_and_rematerialised_ones_are_the_unrolled_ones() -> None:
    ends = []
    for model in ({}, {"scan_layers": True, "remat": "full"}):
        lora = dataclasses.replace(ALL, dropout=0.3)
        _, adapted, batch = made("causal", lora, num_layers=2, **model)
        ends.append(run_steps(adapted, AdamW(learning_rate=0.01), lora, batch)[1].params)
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_dropout_is_on_what_adapters_read_while_training() -> None:
    objective, _, batch = made("causal")
    lora = dataclasses.replace(ALL, dropout=0.5)
    adapted = Adapted(objective, lora)
    params = params_of(adapted, batch, stddev=0.2)

    @partial(jax.jit, static_argnames="train")
    def loss(params: Any, key: Any, train: bool) -> jax.Array:
        return adapted.loss(params, batch, key, train=train)["loss"].sum

    one, other = jax.random.key(0), jax.random.key(1)
    assert loss(params, one, True) != loss(params, other, True)
    assert loss(params, one, True) == loss(params, one, True)
    whole = values(objective, merged(params, lora), batch)["loss"]
    np.testing.assert_allclose(loss(params, one, False), whole, rtol=1e-5)
    # On nothing else: the model itself has no dropout.
    fresh = with_adapters(without_adapters(params), lora, one)
    assert loss(fresh, one, True) == loss(fresh, other, True)


@pytest.mark.parametrize("config", [
    ParallelConfig(mapping="data_parallel"), ParallelConfig(data=2, fsdp=2),
])  # fmt: skip
def test_four_devices_are_one(config: ParallelConfig) -> None:
    _, adapted, batch = made("causal")

    def optimizer(params: Any) -> optax.GradientTransformation:
        return build_optimizer(
            AdamW(learning_rate=0.01), total_steps=9, in_steps=lambda d: d.steps or 0,
            params=params, lora=ALL,
        )  # fmt: skip

    shapes = nn.meta.unbox(jax.eval_shape(lambda: boxed_params(adapted, batch, 0)))
    own, still = optimizer(shapes), frozen(AdamW(), shapes, ALL)

    def train(state: Any, batches: Any, *, reduce: Any, device: Any) -> Any:
        step = partial(train_step, objective=adapted, optimizer=own, reduce=reduce, device=device,
                       frozen=still)  # fmt: skip
        return multi_step(step)(state, batches)

    program = Program(
        lambda: create_state(adapted, own, batch, 0), lambda: boxed_params(adapted, batch, 0),
        train, partial(evaluate_step, objective=adapted),
    )  # fmt: skip
    mapped = build_mapping(config, program, batch_size=4)
    if config.fsdp > 1:
        query = mapped.abstract().params["layer_0"]["attention"]["query"]
        spec = query["lora_a"]["kernel"].sharding.spec
        assert tuple(spec) == ("fsdp", None), "an adapter lies where its kernel does"
    state, _ = mapped.train(mapped.init(), {k: np.asarray(v)[None] for k, v in batch.items()})
    _, expected = run_steps(adapted, AdamW(learning_rate=0.01), ALL, batch, count=1)
    found = mapped.to_save(state).params
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4)


def test_what_matches_nothing_is_said() -> None:
    objective, _, batch = made("causal")
    with pytest.raises(ConfigError, match="matches no projection; there are layer_0/attention/que"):
        Adapted(objective, LoRA(targets="attn")).init(jax.random.key(0), batch)
    scanned = made("causal", LoRA(targets="layer_0/.*"), num_layers=2, scan_layers=True)[1]
    with pytest.raises(ConfigError, match="scan_layers needs all of them alike"):
        scanned.init(jax.random.key(0), batch)
    with pytest.raises(ConfigError, match=r"targets '\(' is not a regular expression"):
        LoRA(targets="(")


def test_the_head_of_a_task_is_trained_and_nothing_else_beside() -> None:
    params = {
        "classification": {"kernel": np.zeros((4, 2)), "bias": np.zeros(2)},
        "pooler": {"kernel": np.zeros((4, 4))},
        "lm_head": {"kernel": np.zeros((4, 9))},
        "layer_0": {"attention": {"query": {"kernel": np.zeros((4, 2, 2))}}},
    }
    lora = LoRA(rank=2)
    whole = with_adapters(params, lora, jax.random.key(0))
    still = frozen(AdamW(), whole, lora)
    names = [n for n, f in zip(named_shapes(whole), jax.tree.leaves(still), strict=True) if not f]
    assert names == [
        "classification/bias", "classification/kernel",
        "layer_0/attention/query/lora_a/kernel", "layer_0/attention/query/lora_b/kernel",
        "pooler/kernel",
    ]  # fmt: skip
    assert active(whole, lora)["pooler"] == whole["pooler"]
