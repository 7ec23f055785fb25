"""Checkpoints (orbax): state, data position and metadata together, verified before trusted.

`<directory>/<step>/` holds the items `state`, `data` and `meta`, committed by a rename once every
byte is written; `<step>/checksums.json` follows. A step whose files do not match their checksums,
or that orbax cannot read, is reported, moved to `damaged/` and the one before it is used.

A run of one process saves in a thread of its own, from a copy of the state: all that the loop does
is to dispatch the copy. Of several processes each has to meet the others in the same order, in the
programs they run as in orbax's barriers, which two threads of each would mix up: there the loop
itself calls orbax, which returns when it has the state on the host and writes in the background.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from lm.config import CheckpointConfig
from lm.errors import UserError
from lm.host import give_back_memory
from lm.train.background import Background
from lm.train.integrity import write_checksums
from lm.train.orbax_errors import explained, quieten_orbax
from lm.train.restoring import Restoring, entries
from lm.train.snapshot import Snapshot, Snapshots, all_finite
from lm.types import PyTree

# Imported where it is used: a run that starts anew needs it only when the first step is done.
if TYPE_CHECKING:
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers as managers


class Checkpoints(Restoring):
    """The checkpoints of one run, which has one writer; asynchronous where the config says so.

    Args:
      directory: `<workdir>/checkpoints`.
      config: what to keep, and whether to write in the background; None opens for reading only.
      report: called with a line of text about damaged or unfinished checkpoints.
    """

    def __init__(
        self,
        directory: Path,
        config: CheckpointConfig | None = None,
        report: Callable[[str], None] = print,
    ) -> None:
        super().__init__(directory, report, writable=config is not None)
        self._config = config
        self._threads: list[threading.Thread] = []
        self.in_background = config is not None and config.asynchronous and jax.process_count() == 1
        """Whether a snapshot survives the steps after it: else it is to be saved before them."""
        self._background = Background("checkpoint")
        self._snapshots = Snapshots()
        quieten_orbax()
        if config is not None:
            self._report_unfinished()
        elif not self.directory.is_dir():
            raise UserError(f"no checkpoints in {self.directory.parent}: train a run there first")

    @cached_property
    def _manager(self) -> ocp.CheckpointManager:
        import orbax.checkpoint as ocp

        config = self._config
        if config is None:
            options = ocp.CheckpointManagerOptions(read_only=True)
        else:
            options = ocp.CheckpointManagerOptions(
                preservation_policy=_preservation(config),
                # Without it orbax forgets the metrics of earlier sessions, and their best step.
                best_fn=(lambda metrics: metrics[config.metric]) if config.keep_best else None,
                best_mode=config.mode,
                enable_async_checkpointing=config.asynchronous and not self.in_background,
                cleanup_tmp_directories=True,
                create=True,
            )
        handlers = {
            # float32 numbers in training hardly get smaller: compressing them takes longer than
            # all the rest, and from the steps beside it.
            "state": ocp.PyTreeCheckpointHandler(use_compression=False),
            "data": ocp.JsonCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
        }
        return ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    # ------------------------------------------------------------------------------------ saving

    def prepare(self, state: PyTree, params: PyTree) -> None:
        """Gets ready what the first save would else wait for; `state` is only looked at."""
        if self.in_background:
            self._snapshots.prepare(state, params)
            self._background.start(self._open)

    def snapshot(self, state: PyTree, params: PyTree) -> Snapshot:
        """A state to save, and whether its `params`, those to evaluate, are finite. Where saving is
        `in_background` it is a copy, and `state` may be overwritten once this returns."""
        if self.in_background:
            return self._snapshots.take(state, params)
        return Snapshot(state, _all_finite(params))

    def save(
        self,
        step: int,
        state: PyTree,
        data: Mapping[str, Any],
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        first: Callable[[], None] | None = None,
    ) -> None:
        """Starts writing step `step`, when the write before it is done: one at a time. The caller
        may overwrite what it got the state from as soon as this returns.

        Args:
          state: a `Snapshot`; or a state, which is saved unchecked.
          first: called where the writing is done, before it: what the checkpoint must not be ahead
            of is made durable there.

        Raises:
          UserError: the disk is full, a parameter is not finite (of this step, where it is not
            saved in the background), or an earlier write failed.
        """
        if not isinstance(state, Snapshot):
            state = self.snapshot(state, [])
        if self.in_background:
            self._background.start(lambda: self._write(step, state, data, meta, metrics, first))
            return
        self._write(step, state, data, meta, metrics, first)

    def check(self) -> None:
        """Raises UserError where a write in the background has failed; does not wait for one."""
        self._background.check()

    def wait(self) -> None:
        """Returns when everything is committed. Raises UserError where a write failed."""
        self._background.wait()
        if "_manager" in self.__dict__:
            with explained(self.directory):
                self._manager.wait_until_finished()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def close(self) -> None:
        self.wait()
        if "_manager" in self.__dict__:
            self._manager.close()

    def _open(self) -> None:
        with explained(self.directory):
            self._manager.all_steps()

    def _write(
        self,
        step: int,
        snapshot: Snapshot,
        data: Mapping[str, Any],
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None,
        first: Callable[[], None] | None,
    ) -> None:
        snapshot.check(step)
        if first is not None:
            first()
        import orbax.checkpoint as ocp

        with explained(self.directory):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(snapshot.state),
                    data=ocp.args.JsonSave(dict(data)),
                    meta=ocp.args.JsonSave(dict(meta)),
                ),
                metrics=dict(metrics) if metrics else None,
                force=True,
            )
        if not self.in_background:
            # Else the steps that follow would have what writing took beside all that they take.
            give_back_memory()
        if jax.process_index() == 0:
            if self.in_background:
                self._write_checksums(step)
                return
            self._threads = [t for t in self._threads if t.is_alive()]
            thread = threading.Thread(target=self._write_checksums, args=(step,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _write_checksums(self, step: int) -> None:
        folder = self.directory / str(step)
        while not folder.is_dir():
            if not self._manager.is_saving_in_progress() and not folder.is_dir():
                return  # The write failed; `wait` or the next `save` says why.
            time.sleep(0.02)
        # The retention policy may have deleted the step meanwhile, or the disk be full: a step
        # without checksums is still checked by orbax when it is read.
        with suppress(OSError):
            write_checksums(folder)

    def _report_unfinished(self) -> None:
        if not self.directory.exists():
            return
        if not self.directory.is_dir():
            raise UserError(f"{self.directory} is not a folder: it is where checkpoints go")
        names = sorted(path.name for path in entries(self.directory))
        finished = any(name.isdigit() for name in names)
        for name in names:
            if "orbax-checkpoint-tmp" in name:
                self._report(
                    f"the checkpoint of step {name.split('.')[0]} was not finished when the run "
                    f"stopped{'; using the one before it' if finished else ''}"
                )


_all_finite = jax.jit(all_finite)


def _preservation(config: CheckpointConfig) -> managers.PreservationPolicy:
    from orbax.checkpoint import checkpoint_managers as managers

    class FirstBest(managers.BestN):
        """Of equals the first: orbax would keep the last, and lose the one that early stopping and
        --step=best mean."""

        def should_preserve(self, checkpoints: Any, *, context: Any) -> Any:
            return super().should_preserve(checkpoints[::-1], context=context)[::-1]

    policies: list[managers.PreservationPolicy] = [managers.LatestN(config.keep_last)]
    if config.keep_best:
        policies.append(
            FirstBest(
                get_metric_fn=lambda metrics: metrics[config.metric],
                reverse=config.mode == "min",
                n=config.keep_best,
                keep_checkpoints_without_metrics=False,
            )
        )
    return managers.AnyPreservationPolicy(policies)
