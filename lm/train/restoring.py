"""Checkpoints read: the newest sound one, all of it or parts; damaged ones out of the way."""

from __future__ import annotations

import functools
import operator
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from lm.errors import UserError
from lm.train.integrity import damage_of
from lm.types import PyTree

# Imported where it is used: a run that starts anew needs it only when the first step is done.
if TYPE_CHECKING:
    import orbax.checkpoint as ocp


class Restored(NamedTuple):
    """What a checkpoint holds: the state, the data position, and metadata (both JSON values)."""

    step: int
    state: PyTree
    data: dict[str, Any]
    meta: dict[str, Any]


class Restoring:
    """The reading half of `lm.train.checkpoint.Checkpoints`, which says how `_manager` is made."""

    def __init__(self, directory: Path, report: Callable[[str], None], *, writable: bool) -> None:
        self.directory = Path(directory).absolute()
        self._report = report
        self._writable = writable

    @cached_property
    def _manager(self) -> ocp.CheckpointManager:
        raise NotImplementedError

    @cached_property
    def _handler(self) -> ocp.PyTreeCheckpointHandler:
        import orbax.checkpoint as ocp

        return ocp.PyTreeCheckpointHandler()

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        if not any(path.name.isdigit() for path in entries(self.directory)):
            return []
        return sorted(self._manager.all_steps(read=True))

    def restore(self, abstract: PyTree, step: int | None = None) -> Restored | None:
        """The newest sound checkpoint, or exactly step `step`; None where there is none.

        Args:
          abstract: the state's structure as `jax.ShapeDtypeStruct`s with shardings.

        Raises:
          UserError: `step` does not exist or is damaged; every checkpoint is damaged; or the
            checkpoint is of another model, naming the first leaves that differ.
        """

        def read(candidate: int) -> Restored:
            import orbax.checkpoint as ocp

            self._check_same_model(candidate, abstract)
            items = self._manager.restore(
                candidate,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(
                        abstract,
                        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                    ),
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
            import orbax.checkpoint as ocp

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
        dicts of array metadata (shape, dtype). `read_leaves` reads what is wanted of it.

        Raises:
          UserError: as `restore_parts`.
        """

        def read(candidate: int) -> Restored:
            return Restored(candidate, self._saved_structure(candidate), {}, {})

        found = self._newest_sound(read, step)
        if found is None:
            raise UserError(f"no checkpoint in {self.directory}; train the run there first")
        return found

    def read_leaves(self, step: int, paths: Iterable[str]) -> dict[str, np.ndarray]:
        """Arrays of a saved state, by the keys that lead to each ("params/layer_0/...").

        Raises:
          UserError: one cannot be read, or is not there any more.
        """
        import orbax.checkpoint as ocp

        names = list(paths)
        wanted: Any = nested(dict.fromkeys(names, jax.ShapeDtypeStruct((), np.float32)))
        arguments: Any = nested(dict.fromkeys(names, ocp.RestoreArgs(restore_type=np.ndarray)))
        try:
            found = self._handler.restore(
                self.directory / str(step) / "state",
                args=ocp.args.PyTreeRestore(wanted, restore_args=arguments, partial_restore=True),
            )
            return {
                name: np.asarray(functools.reduce(operator.getitem, name.split("/"), found))
                for name in names
            }
        except (OSError, ValueError, KeyError) as error:
            what = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
            raise UserError(
                f"could not read {what} from {self.directory / str(step)}: "
                f"{str(error).splitlines()[0][:200]}"
            ) from error

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
        import orbax.checkpoint as ocp

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


def entries(directory: Path) -> list[Path]:
    """What is in a folder; nothing where there is none."""
    return list(directory.iterdir()) if directory.is_dir() else []


def named_shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Shapes of the leaves by path, with the same names for a state and for orbax's metadata."""
    shapes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if hasattr(leaf, "shape"):
            names = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path]
            shapes["/".join(names)] = tuple(leaf.shape)
    return shapes


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} as {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        place = tree
        for name in parents:
            place = place.setdefault(name, {})
        place[last] = leaf
    return tree
