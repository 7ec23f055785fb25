"""Where parameters, and what follows them, lie."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

from lm.config import CausalLM, Learned, ModelConfig, ParallelConfig
from lm.objectives import build_objective
from lm.parallel.mesh import make_mesh
from lm.parallel.rules import batch_sharding, parameter_shardings, state_shardings


def boxed(shape: tuple[int, ...], *names: str | None) -> Any:
    return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return make_mesh(ParallelConfig(data=2, fsdp=2))


@pytest.mark.parametrize(
    ("leaf", "spec"),
    [
        (boxed((8, 2, 4), "embed", "heads", "head"), ("fsdp",)),
        (boxed((16, 8), "mlp", "embed"), (None, "fsdp")),
        (boxed((7, 2), "embed", "mlp"), ()),
        (boxed((8, 8), "embed", "embed"), ("fsdp",)),
        (boxed((8, 8), None, "vocab"), ()),
        (jax.ShapeDtypeStruct((8, 8), jnp.float32), ()),
    ],
    ids=["first", "last", "odd size", "twice", "other axes", "no names"],
)
def test_specs(leaf: Any, spec: tuple[str | None, ...], mesh: Mesh) -> None:
    sharding = parameter_shardings({"x": leaf}, mesh)["x"]
    expected = jax.sharding.NamedSharding(mesh, PartitionSpec(*spec))
    assert sharding.is_equivalent_to(expected, len(nn.meta.unbox(leaf).shape))


def test_moments_follow_their_parameter_and_the_rest_is_replicated(mesh: Mesh) -> None:
    """Also where a parameter's path is the end of another's, and where only shapes are equal."""
    params = {
        "kernel": boxed((4, 8), "mlp", "embed"),
        "layer_0": {"kernel": boxed((4, 8), "embed", "mlp"), "bias": boxed((8,), "mlp")},
    }
    shapes = nn.meta.unbox(params)
    state = {
        "params": shapes,
        "adam": jax.eval_shape(optax.adam(0.1).init, shapes),
        "factored": jax.eval_shape(
            optax.scale_by_factored_rms(min_dim_size_to_factor=4).init, shapes
        ),
        "elsewhere": {"other": jax.ShapeDtypeStruct((4, 8), jnp.float32)},
    }
    got = jax.tree.map(lambda s: s.spec, state_shardings(params, state, mesh))
    first, last, whole = PartitionSpec("fsdp", None), PartitionSpec(None, "fsdp"), PartitionSpec()
    expected = {"kernel": last, "layer_0": {"kernel": first, "bias": PartitionSpec(None)}}
    assert got["params"] == got["adam"][0].mu == got["adam"][0].nu == expected
    assert got["adam"][0].count == whole
    assert got["factored"].v_row["kernel"] == whole
    assert got["elsewhere"]["other"] == whole


def test_rows_are_split_over_all_devices(mesh: Mesh) -> None:
    assert batch_sharding(mesh).shard_shape((8, 3)) == (2, 3)
    assert batch_sharding(mesh, stacked=True).shard_shape((5, 8, 3)) == (5, 2, 3)


def test_the_models_matrices_are_split(mesh: Mesh) -> None:
    """The model names axes that the rules know: every matrix lies in parts."""
    objective = build_objective(
        CausalLM(), ModelConfig(13, 1, 8, 2, 16, position=Learned(6), tie_embeddings=False)
    )
    tokens = jnp.zeros((2, 6), jnp.int32)
    batch = {"tokens": tokens, "targets": tokens, "weights": jnp.ones((2, 6))}
    params = jax.eval_shape(lambda: objective.init(jax.random.key(0), batch))
    shardings = parameter_shardings(params, mesh)

    def check(path: Any, leaf: Any, sharding: Any) -> None:
        if leaf.ndim > 1 and jax.tree_util.keystr(path[-1:], simple=True) != "bias":
            assert sharding.shard_shape(leaf.shape) != leaf.shape, jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(check, nn.meta.unbox(params), shardings)
