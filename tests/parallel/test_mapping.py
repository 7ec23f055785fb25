"""Every mapping gives the single device's result, from unequal rows, with any microbatching."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm.config import CausalLM, Learned, ModelConfig, ParallelConfig
from lm.errors import ConfigError
from lm.objectives import build_objective
from lm.objectives.base import Term
from lm.objectives.clm import CausalLMObjective
from lm.parallel.mapping import Mapped, Program, build_mapping
from lm.parallel.mesh import make_mesh
from lm.parallel.rules import batch_sharding, parameter_shardings
from lm.train.state import boxed_params, create_state
from lm.train.step import evaluate_step, multi_step, train_step
from tests.parallel.toy import ToyObjective, batches, one, update_error

ROWS, STEPS = 16, 2
TOY, DROPPING = ToyObjective(), ToyObjective(dropout=0.5)
OPTIMIZER = optax.sgd(0.1, momentum=0.9)
# float32 rounds to 6e-8; sums of 16 rows in another order differ by a few of those. Updates are
# compared by norm, after steps of SGD, which (unlike Adam's) keep errors in proportion.
LOSS_TOLERANCE, UPDATE_TOLERANCE = 1e-5, 1e-4

MAPPINGS = {
    "pmap 2": (ParallelConfig(mapping="data_parallel"), 2),
    "pmap 4": (ParallelConfig(mapping="data_parallel"), 4),
    "sharded data 2": (ParallelConfig(data=2), 2),
    "sharded data 4": (ParallelConfig(), 4),
    "sharded fsdp 4": (ParallelConfig(data=1, fsdp=4), 4),
    "sharded data 2 fsdp 2": (ParallelConfig(data=-1, fsdp=2), 4),
}
PMAP, FSDP = "pmap 4", "sharded data 2 fsdp 2"
DECODER = build_objective(CausalLM(z_loss=1e-2), ModelConfig(13, 1, 8, 2, 16, position=Learned(6)))


@functools.cache
def mapped(
    name: str, *, objective: Any = TOY, microbatches: int = 1, rows: int = ROWS, ema: bool = True
) -> Mapped:
    """Cached, because most of a test's time is compiling."""
    batch = text(rows) if isinstance(objective, CausalLMObjective) else one(batches(1, rows))

    def train(state: Any, stacked: Any, *, reduce: Any, device: Any) -> Any:
        step = functools.partial(
            train_step,
            objective=objective,
            optimizer=OPTIMIZER,
            microbatches=microbatches,
            reduce=reduce,
            device=device,
            ema_decay=0.5 if ema else None,
        )
        return multi_step(step)(state, stacked)

    config, devices = (ParallelConfig(), 1) if name == "one" else MAPPINGS[name]
    program = Program(
        init=lambda: create_state(objective, OPTIMIZER, batch, 0, ema=ema),
        boxed_params=lambda: boxed_params(objective, batch, 0),
        train=train,
        evaluate=functools.partial(evaluate_step, objective=objective),
    )
    return build_mapping(
        config,
        program,
        batch_size=rows,
        microbatches=microbatches,
        devices=jax.devices()[:devices],
    )


def text(rows: int) -> dict[str, np.ndarray]:
    """Row i has i weighted tokens, at most six."""
    tokens = np.random.default_rng(0).integers(0, 13, (rows, 7)).astype(np.int32)
    weights = (np.arange(6) < np.arange(rows)[:, None]).astype(np.float32)
    return {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}


def run(mapping: Mapped, data: Any) -> tuple[Any, Any, Any]:
    """Start and end as saved, and the metrics, on the host."""
    state = mapping.init()
    start = jax.device_get(mapping.to_save(state))
    state, metrics = mapping.train(state, data)
    return start, jax.device_get(mapping.to_save(state)), jax.device_get(metrics)


@functools.cache
def reference() -> tuple[Any, Any, Any]:
    return run(mapped("one"), batches(STEPS, ROWS))


def assert_same(actual: tuple[Any, Any, Any], expected: tuple[Any, Any, Any]) -> None:
    start, end, metrics = expected
    # Two roundings: a compiler may draw a normal number by other instructions on other shardings.
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2.4e-7), actual[0], start)
    assert metrics.keys() == actual[2].keys()
    for name in metrics:
        assert actual[2][name].shape == (STEPS,)
        np.testing.assert_allclose(
            actual[2][name], metrics[name], rtol=LOSS_TOLERANCE, atol=1e-7, err_msg=name
        )
    assert update_error(start.params, end.params, actual[1].params) < UPDATE_TOLERANCE
    assert actual[1].step == end.step == STEPS


@pytest.mark.parametrize(
    ("name", "microbatches"),
    [*itertools.product(["one", *MAPPINGS], [1, 4]), ("one", 2), (PMAP, 2), (FSDP, 2)],
)
def test_every_mapping_equals_one_device(name: str, microbatches: int) -> None:
    actual = run(mapped(name, microbatches=microbatches), batches(STEPS, ROWS))
    assert reference()[2]["tokens"][0] == np.maximum(np.arange(ROWS) - 2, 0).sum()
    assert_same(actual, reference())


@pytest.mark.parametrize("name", [PMAP, FSDP])
def test_the_compiled_program_is_the_one_that_runs(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading it leaves the state alone, and training then has nothing left to compile."""
    mapping = mapped.__wrapped__(name)
    state, data = mapping.init(), mapping.put(batches(STEPS, ROWS))
    with jax.log_compiles():
        text = mapping.compiled_text(state, data)
        assert "Compiling" in caplog.text
        caplog.clear()
        state, _ = mapping.train(state, data)
        assert "Compiling" not in caplog.text
    assert text.startswith("HloModule") and "all-reduce" in text and "/optimizer/" in text
    assert jax.device_get(mapping.to_save(state)).step == STEPS


@pytest.mark.parametrize("name", [PMAP, FSDP])
def test_the_decoder_learns_the_same_on_every_mapping(name: str) -> None:
    data = {k: np.stack([x] * STEPS) for k, x in text(ROWS).items()}
    expected = run(mapped("one", objective=DECODER), data)
    assert_same(run(mapped(name, objective=DECODER, microbatches=2), data), expected)


@pytest.mark.parametrize("name", [PMAP, FSDP])
def test_a_mean_of_local_means_would_fail(name: str) -> None:
    """The tolerance tells the right division from the usual wrong one: each microbatch's (and, by
    pmap, each device's) own mean."""

    class MeanOfMeans(ToyObjective):
        def loss(self, *args: Any, **kwargs: Any) -> dict[str, Term]:
            return {
                k: Term(t.sum / jnp.maximum(t.weight, 1e-9), jnp.ones(()), t.coefficient)
                for k, t in super().loss(*args, **kwargs).items()
            }

    wrong = run(mapped(name, objective=MeanOfMeans(), microbatches=4), batches(STEPS, ROWS))
    start, end, metrics = reference()
    assert update_error(start.params, end.params, wrong[1].params) > 100 * UPDATE_TOLERANCE
    assert abs(wrong[2]["loss"][0] / metrics["loss"][0] - 1) > 100 * LOSS_TOLERANCE


@pytest.mark.parametrize("name", ["one", *MAPPINGS])
def test_evaluation_gives_global_sums(name: str) -> None:
    mapping = mapped(name)
    data = one(batches(1, ROWS))
    state = mapping.init()
    params = jax.device_get(mapping.to_save(state)).params
    result = mapping.evaluate(mapping.params(state), mapping.put_evaluation(data))
    errors = (
        np.tanh(data["x"] @ params["up"]["kernel"] + params["up"]["bias"])
        @ params["down"]["kernel"]
        - data["y"]
    )
    total, weight = result["loss"]
    assert total.shape == weight.shape == ()
    assert weight == data["weights"].sum()
    np.testing.assert_allclose(total, ((errors**2).mean(-1) * data["weights"]).sum(), rtol=1e-5)


@pytest.mark.parametrize("name", ["one", PMAP, FSDP])
def test_several_steps_in_one_dispatch_equal_single_ones(name: str) -> None:
    data = batches(4, ROWS)
    mapping = mapped(name)
    start, end, metrics = run(mapping, data)
    state, losses = mapping.init(), []
    for i in range(4):
        state, single = mapping.train(
            state, mapping.put({k: x[i : i + 1] for k, x in data.items()})
        )
        assert single["loss"].shape == (1,)
        losses.append(float(single["loss"][0]))
    np.testing.assert_allclose(metrics["loss"], losses, rtol=LOSS_TOLERANCE)
    assert len(set(losses)) == 4
    actual = jax.device_get(mapping.to_save(state))
    assert update_error(start.params, end.params, actual.params) < UPDATE_TOLERANCE


def test_dropout_under_jit_does_not_depend_on_the_devices() -> None:
    data = batches(STEPS, ROWS)
    expected = run(mapped("one", objective=DROPPING, microbatches=2), data)
    assert_same(run(mapped(FSDP, objective=DROPPING, microbatches=2), data), expected)
    assert update_error(expected[0].params, expected[1].params, reference()[1].params) > 0.1


def test_dropout_by_pmap_differs_from_device_to_device() -> None:
    """All rows are equal, so with one mask for all devices the devices' sums would be equal too."""

    class Mask(ToyObjective):
        def loss(self, params: Any, batch: Any, rng: Any, *, train: bool) -> dict[str, Term]:
            terms = super().loss(params, batch, rng, train=train)
            draw = jax.random.uniform(rng)
            return {
                **terms,
                "draw": Term(draw, jnp.ones(()), 0.0),
                "square": Term(draw**2, jnp.ones(()), 0.0),
            }

    *_, metrics = run(mapped(PMAP, objective=Mask()), batches(STEPS, ROWS))
    variance = metrics["square"] - metrics["draw"] ** 2
    assert (variance > 1e-3).all()


@pytest.mark.parametrize("name", ["one", PMAP, FSDP])
def test_saved_state_has_the_parameters_own_shapes_and_comes_back(name: str) -> None:
    mapping = mapped(name)
    state, _ = mapping.train(mapping.init(), batches(STEPS, ROWS))
    saved = mapping.to_save(state)
    abstract = mapping.abstract()
    assert jax.tree.structure(saved) == jax.tree.structure(abstract)
    jax.tree.map(
        lambda a, s: (
            (a.shape, a.dtype, a.sharding.is_equivalent_to(s.sharding, a.ndim))
            == (s.shape, s.dtype, True)
            or pytest.fail(f"{a.shape} {a.sharding} is not {s}")
        ),
        saved,
        abstract,
    )
    host = jax.device_get(saved)
    again = mapping.from_saved(
        jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), host, abstract)
    )
    one_on, _ = mapping.train(again, batches(STEPS, ROWS, seed=1))
    assert mapping.to_save(one_on).step == 2 * STEPS
    straight, _ = mapping.train(mapping.from_saved(saved), batches(STEPS, ROWS, seed=1))
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(mapping.to_save(straight)),
        jax.device_get(mapping.to_save(one_on)),
    )


def test_pmap_keeps_its_copies_equal() -> None:
    mapping = mapped(PMAP, objective=DROPPING)
    state, _ = mapping.train(mapping.init(), batches(STEPS, ROWS))
    for leaf in jax.tree.leaves(mapping.to_save(state)):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == 4
        for copy in copies[1:]:
            np.testing.assert_array_equal(copy, copies[0])


def test_fsdp_splits_parameters_moments_and_average() -> None:
    mapping = mapped("sharded fsdp 4")
    state, _ = mapping.train(mapping.init(), batches(STEPS, ROWS))
    momentum = state.opt_state[0].trace
    for tree in (state.params, momentum, state.ema):
        shapes = jax.tree.map(lambda x: x.addressable_shards[0].data.shape, tree)
        assert shapes == {
            "up": {"kernel": (2, 6), "bias": (6,)},
            "down": {"kernel": (6, 2)},
        }
    assert state.step.sharding.is_fully_replicated


@pytest.mark.parametrize("name", ["one", PMAP, FSDP])
def test_a_step_donates_the_state(name: str) -> None:
    mapping = mapped(name)
    state = mapping.init()
    kernel, average = state.params["up"]["kernel"], state.ema["up"]["kernel"]
    mapping.train(state, batches(STEPS, ROWS))
    assert kernel.is_deleted()
    assert average.is_deleted()


def test_evaluation_uses_the_average_where_there_is_one() -> None:
    mapping = mapped(FSDP)
    state, _ = mapping.train(mapping.init(), batches(STEPS, ROWS))
    assert mapping.params(state) is state.ema
    plain = mapped(FSDP, ema=False)
    state = plain.init()
    assert plain.params(state) is state.params


def test_a_batch_that_does_not_divide_names_both_numbers() -> None:
    with pytest.raises(ConfigError, match=r"batch_size=18 is not divisible by 4 devices.*16 or 20"):
        mapped("sharded data 4", rows=18)
    with pytest.raises(
        ConfigError, match=r"batch_size=16 in microbatches=8 is not divisible by 4 devices.*32"
    ):
        mapped(PMAP, microbatches=8)
    mapping = mapped("sharded data 4")
    with pytest.raises(ConfigError, match=r"6 rows .*4 devices"):
        mapping.put_evaluation(one(batches(1, 6)))


def test_pmap_has_no_fsdp() -> None:
    program = Program(lambda: None, lambda: None, None, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"parallel.fsdp=2: mapping 'data_parallel'"):
        build_mapping(ParallelConfig(mapping="data_parallel", fsdp=2), program, batch_size=4)


@pytest.mark.parametrize("scan", [False, True])
def test_every_device_computes_its_own_rows_alone(scan: bool) -> None:
    """However the devices share the parameters: a quarter of the work for each of four."""
    model = ModelConfig(
        vocab_size=16,
        num_layers=2,
        d_model=32,
        num_heads=2,
        d_ff=64,
        position=Learned(16),
        scan_layers=scan,
    )
    objective = build_objective(CausalLM(), model)
    tokens = jax.ShapeDtypeStruct((16, 16), jnp.int32)
    weights = jax.ShapeDtypeStruct((16, 16), jnp.float32)
    batch = {"tokens": tokens, "targets": tokens, "weights": weights}
    boxed = jax.eval_shape(
        lambda: objective.init(
            jax.random.key(0), jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
        )
    )

    def work(data: int, fsdp: int) -> float:
        mesh = make_mesh(ParallelConfig(data=data, fsdp=fsdp))

        def loss(params: Any, batch: Any) -> Any:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return objective.loss(params, batch, None, train=False)["loss"].sum

        places = parameter_shardings(boxed, mesh), batch_sharding(mesh)
        step = jax.jit(jax.grad(loss), in_shardings=places, out_shardings=places[0])
        return step.lower(nn.meta.unbox(boxed), batch).compile().cost_analysis()["flops"]

    whole = work(4, 1)
    assert work(1, 4) < 1.3 * whole
    assert work(2, 2) < 1.3 * whole
