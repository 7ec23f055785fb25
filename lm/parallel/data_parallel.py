"""One pure step under `jax.pmap`: every device runs it on its rows, and the step's `reduce` sums
over devices. Gives what a single device gives, to rounding; dropout draws other masks on each."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lm.parallel.program import Evaluation, Program, State, check_batch, evaluated, on_host
from lm.parallel.rules import replicated
from lm.types import Batch, Metrics, Params, PyTree


class DataParallel:
    """`jax.pmap` over the axis "data": a leading axis of devices on the state and on batches."""

    def __init__(self, program: Program, mesh: Mesh) -> None:
        self.devices = mesh.size
        self._replicated = replicated(mesh)
        self._local = mesh.local_devices
        # Arrays given to pmap span this process's devices only.
        local_mesh = Mesh(np.array(self._local), ("data",))
        self._stacked = NamedSharding(local_mesh, PartitionSpec("data"))
        self._abstract = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=self._replicated),
            jax.eval_shape(program.init),
        )
        self._init = jax.jit(program.init, out_shardings=self._replicated)

        def add(tree: PyTree) -> PyTree:
            return jax.lax.psum(tree, "data")

        def train(state: State, batches: Batch) -> tuple[State, Metrics]:
            return program.train(state, batches, reduce=add, device=jax.lax.axis_index("data"))

        def evaluate(params: Params, batch: Batch) -> Evaluation:
            return program.evaluate(params, batch, reduce=add)

        pmap = functools.partial(jax.pmap, axis_name="data", devices=list(mesh.devices.flat))
        self._train = pmap(train, out_axes=(0, None), donate_argnums=0)
        self._evaluate = pmap(evaluate, out_axes=None)

    def abstract(self) -> State:
        return self._abstract

    def init(self) -> State:
        return self.from_saved(self._init())

    def prepare(self, batches: Batch) -> None:
        """Nothing: what `jax.pmap` compiles ahead of a call is not used by the call."""

    def train(self, state: State, batches: Batch) -> tuple[State, Metrics]:
        return self._train(state, self.put(batches) if on_host(batches) else batches)

    def settle(self) -> None:
        """Nothing is run that has not been traced."""

    def distrust(self) -> None:
        """See `settle`."""

    def compiled_text(self, state: State, batches: Batch) -> str:
        batches = self.put(batches) if on_host(batches) else batches
        return self._train.lower(state, batches).compile().as_text() or ""

    def evaluate(self, params: Params, batch: Batch) -> Evaluation:
        return self._evaluate(params, self.put_evaluation(batch) if on_host(batch) else batch)

    def put(self, batches: Batch) -> Batch:
        return self._put(batches, axis=1)

    def put_evaluation(self, batch: Batch) -> Batch:
        return self._put(batch, axis=0)

    def _put(self, batch: Batch, axis: int) -> Batch:
        """[K, B, ...] (axis 1) or [B, ...] (axis 0) to a leading axis of devices."""
        count = len(self._local)
        check_batch(batch, axis, count)

        def put(x: np.ndarray) -> jax.Array:
            shape = (*x.shape[:axis], count, x.shape[axis] // count, *x.shape[axis + 1 :])
            return jax.device_put(np.moveaxis(x.reshape(shape), axis, 0), self._stacked)

        return jax.tree.map(lambda x: put(np.asarray(x)), dict(batch))

    def params(self, state: State) -> Params:
        return evaluated(state)

    def to_save(self, state: State) -> State:
        return self._each_device(state, _drop_leading, lambda shape: shape[1:], self._replicated)

    def from_saved(self, state: State) -> State:
        count = len(self._local)
        return self._each_device(state, _add_leading, lambda shape: (count, *shape), self._stacked)

    def _each_device(
        self,
        state: State,
        function: Callable[[list[jax.Array]], list[jax.Array]],
        shape: Callable[[tuple[int, ...]], tuple[int, ...]],
        sharding: NamedSharding,
    ) -> State:
        """Applies `function` to every device's copies where they lie; nothing moves."""
        leaves, structure = jax.tree.flatten(state)
        copies = [{s.device: s.data for s in leaf.addressable_shards} for leaf in leaves]
        done = [function([copy[device] for copy in copies]) for device in self._local]
        arrays = [
            jax.make_array_from_single_device_arrays(shape(leaf.shape), sharding, list(parts))
            for leaf, parts in zip(leaves, zip(*done, strict=True), strict=True)
        ]
        return jax.tree.unflatten(structure, arrays)


@jax.jit
def _drop_leading(leaves: list[jax.Array]) -> list[jax.Array]:
    return [leaf[0] for leaf in leaves]


@jax.jit
def _add_leading(leaves: list[jax.Array]) -> list[jax.Array]:
    return [jnp.expand_dims(leaf, 0) for leaf in leaves]
