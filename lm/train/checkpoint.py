"""Checkpoints (orbax): state, data position and metadata together, verified before trusted.

`<directory>/<step>/` holds the items `state`, `data` and `meta`, committed by a rename once every
byte is written; `<step>/checksums.json` follows in the background. A step whose files do not match
their checksums, or that orbax cannot read, is reported, moved to `damaged/` and the one before it
is used.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from lm.config import CheckpointConfig
from lm.errors import UserError
from lm.train.integrity import damage_of, write_checksums
from lm.train.orbax_errors import explained, quieten_orbax
from lm.types import PyTree


class Restored(NamedTuple):
    """What a checkpoint holds: the state, the data position, and metadata (both JSON values)."""

    step: int
    state: PyTree
    data: dict[str, Any]
    meta: dict[str, Any]


class Checkpoints:
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
        self.directory = Path(directory).absolute()
        self._report = report
        self._writable = config is not None
        self._threads: list[threading.Thread] = []
        quieten_orbax()
        if config is None:
            if not self.directory.is_dir():
                raise UserError(
                    f"no checkpoints in {self.directory.parent}: train a run there first"
                )
            options = ocp.CheckpointManagerOptions(read_only=True)
        else:
            self._report_unfinished()
            options = ocp.CheckpointManagerOptions(
                preservation_policy=_preservation(config),
                # Without it orbax forgets the metrics of earlier sessions, and their best step.
                best_fn=(lambda metrics: metrics[config.metric]) if config.keep_best else None,
                best_mode="min",
                enable_async_checkpointing=config.asynchronous,
                cleanup_tmp_directories=True,
                create=True,
            )
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_names=("state", "data", "meta")
        )
        self._handler = ocp.PyTreeCheckpointHandler()

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        return sorted(self._manager.all_steps(read=True))

    # ------------------------------------------------------------------------------------ saving

    def save(
        self,
        step: int,
        state: PyTree,
        data: Mapping[str, Any],
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts writing step `step`; the caller may overwrite `state` as soon as this returns.

        Raises:
          UserError: the disk is full, or an earlier write failed.
        """
        with explained(self.directory):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=ocp.args.JsonSave(dict(data)),
                    meta=ocp.args.JsonSave(dict(meta)),
                ),
                metrics=dict(metrics) if metrics else None,
                force=True,
            )
        if jax.process_index() == 0:
            self._threads = [t for t in self._threads if t.is_alive()]
            thread = threading.Thread(target=self._write_checksums, args=(step,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def wait(self) -> None:
        """Returns when everything is committed. Raises UserError where a write failed."""
        with explained(self.directory):
            self._manager.wait_until_finished()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def close(self) -> None:
        self.wait()
        self._manager.close()

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

    # --------------------------------------------------------------------------------- restoring

    def restore(self, abstract: PyTree, step: int | None = None) -> Restored | None:
        """The newest sound checkpoint, or exactly step `step`; None where there is none.

        Args:
          abstract: the state's structure as `jax.ShapeDtypeStruct`s with shardings.

        Raises:
          UserError: `step` does not exist or is damaged; every checkpoint is damaged; or the
            checkpoint is of another model, naming the first leaves that differ.
        """

        def read(candidate: int) -> Restored:
            self._check_same_model(candidate, abstract)
            items = self._manager.restore(
                candidate,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract),
                    data=ocp.args.JsonRestore(),
                    meta=ocp.args.JsonRestore(),
                ),
            )
            return Restored(candidate, items["state"], items["data"], items["meta"])

        return self._newest_sound(read, step)

    def restore_parts(self, parts: Sequence[str], step: int | None = None) -> Restored:
        """Like `restore`, but only the named fields of the state, on the default device, without
        knowing the model. `state` is a dict; a field the run does not keep is None.

        Raises:
          UserError: as `restore`; also where there is no checkpoint at all.
        """
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

        def read(candidate: int) -> Restored:
            saved = self._saved_structure(candidate)
            wanted = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
                {name: saved.get(name) for name in parts},
            )
            present = {name: tree for name, tree in wanted.items() if tree is not None}
            tree = self._restore_tree(candidate, present) if present else {}
            items = self._manager.restore(
                candidate,
                args=ocp.args.Composite(data=ocp.args.JsonRestore(), meta=ocp.args.JsonRestore()),
            )
            state = {name: tree.get(name) for name in parts}
            return Restored(candidate, state, items["data"], items["meta"])

        restored = self._newest_sound(read, step)
        if restored is None:
            raise UserError(f"no checkpoint in {self.directory}; train the run there first")
        return restored

    def find(self, step: int | None = None) -> Restored:
        """The newest sound checkpoint (or that of `step`) with `state` its structure alone: nested
        dicts of array metadata (shape, dtype). `read_leaf` reads what is wanted of it.

        Raises:
          UserError: as `restore_parts`.
        """

        def read(candidate: int) -> Restored:
            return Restored(candidate, self._saved_structure(candidate), {}, {})

        found = self._newest_sound(read, step)
        if found is None:
            raise UserError(f"no checkpoint in {self.directory}; train the run there first")
        return found

    def read_leaf(self, step: int, path: Sequence[str]) -> np.ndarray:
        """One array of a saved state, by the keys that lead to it.

        Raises:
          UserError: it cannot be read, or is not there any more.
        """
        wanted: Any = jax.ShapeDtypeStruct((), np.float32)
        arguments: Any = ocp.RestoreArgs(restore_type=np.ndarray)
        for key in reversed(path):
            wanted, arguments = {key: wanted}, {key: arguments}
        try:
            found = self._handler.restore(
                self.directory / str(step) / "state",
                args=ocp.args.PyTreeRestore(wanted, restore_args=arguments, partial_restore=True),
            )
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"could not read {'/'.join(path)} from {self.directory / str(step)}: "
                f"{str(error).splitlines()[0][:200]}"
            ) from error
        for key in path:
            found = found[key]
        return np.asarray(found)

    def _newest_sound(self, read: Callable[[int], Restored], step: int | None) -> Restored | None:
        available = self.steps()
        if step is not None:
            if step not in available:
                listed = ", ".join(map(str, available)) or "none"
                raise UserError(
                    f"no checkpoint of step {step} in {self.directory}; there are: {listed}"
                )
            damage = damage_of(self.directory / str(step))
            if damage:
                raise UserError(f"checkpoint {self.directory / str(step)} is damaged: {damage}")
            return read(step)
        damaged: list[tuple[int, str]] = []
        for candidate in reversed(available):
            damage = damage_of(self.directory / str(candidate))
            if not damage:
                try:
                    found = read(candidate)
                    self._set_aside(damaged)
                    return found
                except UserError:
                    raise
                except (OSError, ValueError, KeyError) as error:  # orbax on damaged files
                    damage = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            damaged.append((candidate, damage))
        if damaged:
            listed = "\n".join(f"  {step}: {damage}" for step, damage in damaged)
            raise UserError(
                f"every checkpoint in {self.directory} is damaged; start again in a new workdir:\n"
                f"{listed}"
            )
        return None

    def _check_same_model(self, step: int, abstract: PyTree) -> None:
        metadata = self._saved_structure(step)
        saved, wanted = named_shapes(metadata), named_shapes(abstract)
        lines = []
        # Parameters first: the optimiser's state only repeats what is wrong with them.
        for name in sorted({*saved, *wanted}, key=lambda n: (not n.startswith("params/"), n)):
            if saved.get(name) != wanted.get(name):
                have, want = saved.get(name, "absent"), wanted.get(name, "absent")
                lines.append(f"  {name}: checkpoint {have}, config {want}")
        if lines:
            more = f"\n  ... and {len(lines) - 5} more" if len(lines) > 5 else ""
            raise UserError(
                f"checkpoint {self.directory / str(step)} is of another model or optimiser than "
                "the config describes; the first leaves that differ:\n"
                + "\n".join(lines[:5])
                + more
            )

    def _restore_tree(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        return self._handler.restore(
            self.directory / str(step) / "state",
            args=ocp.args.PyTreeRestore(
                wanted,
                restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                partial_restore=True,
            ),
        )

    def _saved_structure(self, step: int) -> dict[str, Any]:
        """The saved state as nested dicts of array metadata (shape, dtype)."""
        return dict(self._handler.metadata(self.directory / str(step) / "state").tree)

    def _set_aside(self, damaged: Sequence[tuple[int, str]]) -> None:
        """Reports damaged steps, newer than the sound one in use, and takes them out of its way."""
        for step, damage in damaged:
            self._report(
                f"checkpoint of step {step} is damaged ({damage}); using the one before it"
            )
            if not self._writable:
                continue
            target = self.directory.parent / "damaged" / str(step)
            target.parent.mkdir(exist_ok=True)
            if target.exists():
                shutil.rmtree(target)
            shutil.move(str(self.directory / str(step)), str(target))
            self._report(f"the damaged checkpoint was moved to {target}")
        if damaged and self._writable:
            self._manager.reload()

    def _report_unfinished(self) -> None:
        if not self.directory.exists():
            return
        if not self.directory.is_dir():
            raise UserError(f"{self.directory} is not a folder: it is where checkpoints go")
        names = sorted(path.name for path in self.directory.iterdir())
        finished = any(name.isdigit() for name in names)
        for name in names:
            if "orbax-checkpoint-tmp" in name:
                self._report(
                    f"the checkpoint of step {name.split('.')[0]} was not finished when the run "
                    f"stopped{'; using the one before it' if finished else ''}"
                )


def _preservation(config: CheckpointConfig) -> managers.PreservationPolicy:
    policies: list[managers.PreservationPolicy] = [managers.LatestN(config.keep_last)]
    if config.keep_best:
        policies.append(
            managers.BestN(
                get_metric_fn=lambda metrics: metrics[config.metric],
                reverse=True,
                n=config.keep_best,
                keep_checkpoints_without_metrics=False,
            )
        )
    return managers.AnyPreservationPolicy(policies)


def named_shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Shapes of the leaves by path, with the same names for a state and for orbax's metadata."""
    shapes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if hasattr(leaf, "shape"):
            names = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path]
            shapes["/".join(names)] = tuple(leaf.shape)
    return shapes
