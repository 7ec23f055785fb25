"""One pure step under `jax.jit` over a mesh: the compiler splits the work by the shardings of its
arguments. Gives what a single device gives, to rounding, dropout included."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from lm.host import give_back_memory
from lm.parallel.program import (
    Evaluation,
    Program,
    State,
    check_batch,
    evaluated,
    identity,
    on_host,
)
from lm.parallel.rules import batch_sharding, replicated, state_shardings
from lm.types import Batch, Metrics, Params


class Sharded:
    """`jax.jit` over a mesh with explicit shardings in and out."""

    def __init__(self, program: Program, mesh: Mesh) -> None:
        self.devices = mesh.size
        self._mesh = mesh
        self._compiling: Future[Any] | None = None
        shapes = jax.eval_shape(program.init)
        self._shardings = state_shardings(jax.eval_shape(program.boxed_params), shapes, mesh)
        self._abstract = jax.tree.map(
            lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
            shapes,
            self._shardings,
        )
        self._rows = batch_sharding(mesh)
        self._stacked_rows = batch_sharding(mesh, stacked=True)
        self._init = jax.jit(program.init, out_shardings=self._shardings)

        def train(state: State, batches: Batch) -> tuple[State, Metrics]:
            # While tracing the mesh can be asked for: sizes that depend on the devices use it.
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return program.train(state, batches, reduce=identity, device=None)

        def evaluate(params: Params, batch: Batch) -> Evaluation:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return program.evaluate(params, batch, reduce=identity)

        self._train = jax.jit(
            train,
            in_shardings=(self._shardings, self._stacked_rows),
            out_shardings=(self._shardings, replicated(mesh)),
            donate_argnums=0,
        )
        self._evaluate = jax.jit(
            evaluate,
            in_shardings=(evaluated(self._shardings), self._rows),
            out_shardings=replicated(mesh),
        )

    def abstract(self) -> State:
        return self._abstract

    def init(self) -> State:
        return self._init()

    def prepare(self, batches: Batch) -> None:
        shapes = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._stacked_rows)
            for name, x in batches.items()
        }
        # The call finds what has been lowered and compiled here.
        pool = ThreadPoolExecutor(1, "compile")
        self._compiling = pool.submit(lambda: self._train.lower(self._abstract, shapes).compile())
        pool.shutdown(wait=False)

    def train(self, state: State, batches: Batch) -> tuple[State, Metrics]:
        first, self._compiling = self._compiling, None
        if first is not None:
            first.result()
        result = self._train(state, self.put(batches) if on_host(batches) else batches)
        if first is not None:
            # While the devices work: before it, they would wait.
            give_back_memory()
        return result

    def compiled_text(self, state: State, batches: Batch) -> str:
        batches = self.put(batches) if on_host(batches) else batches
        return self._train.lower(state, batches).compile().as_text() or ""

    def evaluate(self, params: Params, batch: Batch) -> Evaluation:
        return self._evaluate(params, self.put_evaluation(batch) if on_host(batch) else batch)

    def put(self, batches: Batch) -> Batch:
        return self._put(batches, self._stacked_rows, axis=1)

    def put_evaluation(self, batch: Batch) -> Batch:
        return self._put(batch, self._rows, axis=0)

    def _put(self, batch: Batch, sharding: NamedSharding, axis: int) -> Batch:
        check_batch(batch, axis, len(self._mesh.local_devices))
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), dict(batch)
        )

    def params(self, state: State) -> Params:
        return evaluated(state)

    def to_save(self, state: State) -> State:
        return state

    def from_saved(self, state: State) -> State:
        return state
