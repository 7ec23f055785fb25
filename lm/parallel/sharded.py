"""One pure step under `jax.jit` over a mesh: the compiler splits the work by the shardings of its
arguments. Gives what a single device gives, to rounding, dropout included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from lm.errors import UserError
from lm.host import give_back_memory
from lm.parallel.kept import Flat, Kept
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

# The dispatch after which kept programs are proven. The loop is one ahead: the first one, for which
# the user waits, is done by then.
_PROVE_AT = 3


Lower = Callable[[], jax.stages.Lowered]


class _Step(NamedTuple):
    """The kept step, what its arguments look like, the structure of its results, and how to make
    anew what it was compiled from."""

    program: Flat
    described: Any
    results: Any
    lower: Lower


class Sharded:
    """`jax.jit` over a mesh with explicit shardings in and out.

    With programs that an earlier start has `kept` nothing is lowered before the first step.
    """

    def __init__(self, program: Program, mesh: Mesh, kept: Kept | None = None) -> None:
        self.devices = mesh.size
        self._mesh = mesh
        self._compiling: Future[_Step | None] | None = None
        # They come back on all devices, in their order.
        whole = tuple(mesh.devices.flat) == tuple(jax.devices())
        self._kept = kept if whole else None
        self._step: _Step | None = None
        # Kept programs that have been run, and what is being done to prove them.
        self._unproven: list[tuple[str, Lower]] = []
        self._proofs: list[Future[None]] = []
        self._used: set[str] = set()
        self._dispatches = 0
        shapes = jax.eval_shape(program.init)
        self._shardings = state_shardings(jax.eval_shape(program.boxed_params), shapes, mesh)
        self._abstract = jax.tree.map(
            lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
            shapes,
            self._shardings,
        )
        # Sorted names and values of what a state's leaves are, and how the devices are arranged.
        self._state_described = [
            [jax.tree_util.keystr(path), list(leaf.shape), str(leaf.dtype), str(leaf.sharding)]
            for path, leaf in jax.tree_util.tree_leaves_with_path(self._abstract)
        ]
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
        if self._kept is None:
            state = self._init()
            # Of a program that runs once nothing is kept.
            self._init.clear_cache()  # type: ignore[attr-defined]
            return state
        described = self._described({})
        found = self._kept.find("init", described)
        program = None if found is None else found.program.result()
        if program is None:
            return self._kept.compile("init", described, self._init.lower())()
        self._unproven.append(("init", self._init.lower))
        self._used.add("init")
        return jax.tree.unflatten(jax.tree.structure(self._abstract), program())

    def prepare(self, batches: Batch) -> None:
        shapes = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._stacked_rows)
            for name, x in batches.items()
        }
        pool = ThreadPoolExecutor(1, "compile")
        self._compiling = pool.submit(self._get_ready, shapes)
        pool.shutdown(wait=False)

    def _get_ready(self, shapes: Batch) -> _Step | None:
        """The kept step for such batches; or lowers and compiles it, for the call to find."""

        def lower() -> jax.stages.Lowered:
            return self._train.lower(self._abstract, shapes)

        if self._kept is None:
            lower().compile()
            return None
        described = self._described(shapes)
        found = self._kept.find("train", described)
        program = None if found is None else found.program.result()
        if found is None or program is None:
            lowered = lower()
            _, metrics = lowered.out_info
            self._kept.compile("train", described, lowered, note=sorted(metrics))
            return None
        results = jax.tree.structure((self._abstract, dict.fromkeys(found.note, 0)))
        return _Step(program, described, results, lower)

    def train(self, state: State, batches: Batch) -> tuple[State, Metrics]:
        first, self._compiling = self._compiling, None
        if first is not None:
            self._step = first.result()
            if self._step is not None:
                self._unproven.append(("train", self._step.lower))
                self._used.add("train")
        for proof in self._proofs:
            if proof.done():
                proof.result()
        result = self._run(state, self.put(batches) if on_host(batches) else batches)
        if first is not None:
            # While the devices work: before it, they would wait.
            give_back_memory()
        self._dispatches += 1
        if self._dispatches == _PROVE_AT:
            self._begin_proof()
        return result

    def settle(self) -> None:
        self._begin_proof()
        for proof in self._proofs:
            proof.result()

    def _run(self, state: State, batches: Batch) -> tuple[State, Metrics]:
        step = self._step
        if step is None or step.described != self._described(batches):
            return self._train(state, batches)
        return jax.tree.unflatten(step.results, step.program(*jax.tree.leaves((state, batches))))

    def _begin_proof(self) -> None:
        unproven, self._unproven = self._unproven, []
        if unproven:
            pool = ThreadPoolExecutor(1, "prove")
            self._proofs.append(pool.submit(self._prove, unproven))
            pool.shutdown(wait=False)

    def _prove(self, unproven: Sequence[tuple[str, Lower]]) -> None:
        """Lowers what has been run without it, and compares."""
        assert self._kept is not None
        # Before anything is made of it: every wrong one is to be forgotten.
        proven = [self._kept.proves(name, lower()) for name, lower in unproven]
        if not all(proven):
            raise UserError(
                "the compiled program that an earlier start of this run kept is not what this code "
                "makes of this config; it has been removed, and no checkpoint was written of what "
                "it computed: start the same command again"
            )
        self._used -= {name for name, _ in unproven}

    def distrust(self) -> None:
        # What fails before the proof may fail because of them.
        for name in tuple(self._used):
            assert self._kept is not None
            self._kept.forget(name)

    def _described(self, batches: Batch) -> Any:
        """What the programs' arguments and results look like, for batches like these: JSON."""
        shapes = {name: [list(x.shape), str(x.dtype)] for name, x in batches.items()}
        return [self._state_described, shapes]

    def compiled_text(self, state: State, batches: Batch) -> str:
        if self._compiling is not None:
            # Of two threads that compile the same one would not know where it came from.
            self._compiling.result()
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
