"""Compiled programs of an earlier start: read while this one still imports and reads its data.

JAX's own cache of compiled programs knows each by its text, which is there only once the program
has been traced and lowered: a second of Python for six layers, on the way to the first step. Here a
program is found by what it is made from (`origin`: the config, lm's sources, the versions and flags
of all that compiles it, the processor), and so before anything is traced.

A key that leaves something out would be another program's, so it is not trusted: `Sharded` lowers
the program all the same, while the devices are at the first steps, and compares its text with that
of the program it runs. No checkpoint is written before they are known to be equal.

Below JAX's folder of compiled programs, and to be trusted as that: `<origin>-<name>.json` names the
text, `<text>.program` holds a SHA-256 and the executable as `jax.experimental.serialize_executable`
writes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

# In the thread that starts everything: two that import the same modules wait for each other.
from jax.experimental import serialize_executable

from lm.host import cores

_FOLDER = "starts"
# Of all that is kept: what was used longest ago is removed.
_MOST_BYTES = 2**30
# To be raised where entries of before are to be read no more.
_FORMAT = 1
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "ml_dtypes")
_HIT = "/jax/compilation_cache/cache_hits"
_DIGEST = hashlib.sha256().digest_size

# A program with its arguments and results as flat lists of arrays.
Flat = Callable[..., Sequence[jax.Array]]


@dataclass(frozen=True)
class Found:
    """A program that is being read, None where it turns out that it cannot be; and the note that
    was left with it (JSON)."""

    program: Future[Flat | None]
    note: Any


class Kept:
    """The programs that an earlier start of the same run has left, and where this one leaves its.

    Args:
      folder: JAX's of compiled programs.
      values: what the programs are made from, as JSON; `details` follow when they are known.
      names: the programs that this start needs, in that order: read in a thread from now on.
    """

    def __init__(self, folder: Path, values: Any, names: Sequence[str]) -> None:
        self._folder = folder / _FOLDER
        self.details: Any = None
        """What else the programs are made from, which takes the data to know."""
        _listen()
        self._pool = ThreadPoolExecutor(1, "kept")
        # Read once: a process may be moved to other cores meanwhile.
        self._environment = self._pool.submit(environment)
        self._place: Future[str] = self._pool.submit(
            lambda: origin(values, self._environment.result())
        )
        self._entries = {name: self._pool.submit(self._entry, name) for name in names}
        self._programs = {name: self._pool.submit(self._read, name) for name in names}

    def find(self, name: str, shapes: Any) -> Found | None:
        """The program `name`, of arguments with `shapes` (JSON); None where there is none. It is
        unproven: see `proves`."""
        entry = self._entries[name].result() if name in self._programs else None
        if entry is None or entry["details"] != self._detailed(shapes):
            return None
        # Given away: what draws the first parameters is not needed again, and large.
        return Found(self._programs.pop(name), entry["note"])

    def proves(self, name: str, lowered: jax.stages.Lowered) -> bool:
        """Whether what `find` found is this program. Else it is forgotten."""
        entry = self._entries[name].result()
        text = text_digest(lowered, self._environment.result())
        proven = entry is not None and entry["text"] == text
        if not proven:
            self.forget(name)
        return proven

    def forget(self, name: str) -> None:
        """Removes the program `name`; says so where it cannot, for it would be used again."""
        entry = self._entries[name].result()
        paths = [self._pointer(name)]
        if entry is not None:
            paths.append(self._program(entry["text"]))
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                _note(f"{path} is not to be used again, and could not be removed: {error.strerror}")

    def compile(
        self, name: str, shapes: Any, lowered: jax.stages.Lowered, note: Any = None
    ) -> jax.stages.Compiled:
        """Compiles, and keeps what came of it for later starts, in the background."""
        before = _hits()
        compiled = lowered.compile()
        # XLA for CPUs does not write completely what it has itself read: "Function ... not found"
        # when that runs.
        fresh = _hits() == before
        about = {"details": self._detailed(shapes), "note": note}
        self._pool.submit(self._keep, name, about, lowered, compiled, fresh)
        return compiled

    def close(self) -> None:
        """Returns when all that there is to keep has been written."""
        self._pool.shutdown()

    # ------------------------------------------------------------------------ in the thread

    def _entry(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self._pointer(name).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _read(self, name: str) -> Flat | None:
        entry = self._entries[name].result()
        if entry is None:
            return None
        path = self._program(entry["text"])
        try:
            content = path.read_bytes()
            with contextlib.suppress(OSError):
                # As used now: see `_prune`.
                os.utime(path)
                os.utime(self._pointer(name))
            digest, payload = content[:_DIGEST], content[_DIGEST:]
            if hashlib.sha256(payload).digest() != digest:
                raise ValueError("its checksum is another")
            arguments, results = ((0,) * entry[count] for count in ("arguments", "results"))
            return serialize_executable.deserialize_and_load(
                payload, jax.tree.structure((arguments, {})), jax.tree.structure(results)
            )
        # Whatever is wrong with it, the program can be compiled.
        except Exception as error:
            _note(f"the compiled program {path} cannot be used ({error}): it is compiled again")
            self.forget(name)
            return None

    def _keep(
        self,
        name: str,
        about: dict[str, Any],
        lowered: jax.stages.Lowered,
        compiled: jax.stages.Compiled,
        fresh: bool,
    ) -> None:
        text = text_digest(lowered, self._environment.result())
        path = self._program(text)
        try:
            if not path.exists():
                if not fresh:
                    return
                payload, _, _ = serialize_executable.serialize(compiled)
                _write(path, hashlib.sha256(payload).digest() + payload)
            entry = {
                **about,
                "text": text,
                "arguments": len(jax.tree.leaves(compiled.args_info)),
                "results": len(jax.tree.leaves(compiled.out_info)),
            }
            _write(self._pointer(name), json.dumps(entry).encode())
            _prune(self._folder, _MOST_BYTES)
        # The run goes on without: a full disk, a program that cannot be written.
        except Exception as error:
            _note(f"the compiled program {name!r} is not kept for the next start: {error}")

    def _detailed(self, shapes: Any) -> str:
        return _digest(self.details, shapes)

    def _pointer(self, name: str) -> Path:
        return self._folder / f"{self._place.result()}-{name}.json"

    def _program(self, text: str) -> Path:
        return self._folder / f"{text}.program"


def folder_of_compiled() -> Path | None:
    """JAX's folder of compiled programs; None where it keeps none, where programs are not known to
    come back as they were (measured on CPUs alone), where JAX is asked to look into them, or a run
    has several processes."""
    settings = jax.config.values
    folder = settings["jax_compilation_cache_dir"]
    if not folder or "://" in folder or not settings["jax_enable_compilation_cache"]:
        return None
    if any(settings[f"jax_{name}"] for name in ("disable_jit", "debug_nans", "debug_infs")):
        return None
    # An accelerator is not to be taken before the run is known to be this process's.
    if not _on_cpu_for_certain(settings["jax_platforms"]):
        return None
    if jax.default_backend() != "cpu" or jax.process_count() > 1:
        return None
    return Path(folder)


def _on_cpu_for_certain(platforms: str | None) -> bool:
    if platforms:
        return platforms == "cpu"
    found = metadata.entry_points(group="jax_plugins")
    return not found and importlib.util.find_spec("libtpu") is None


def origin(values: Any, surroundings: Any = None) -> str:
    """Digest of all that decides on a run's programs and is known before its data: `values`, lm's
    sources, and `environment`."""
    package = Path(__file__).parents[1]
    return _digest(_FORMAT, values, sources(package), surroundings or environment())


def sources(package: Path) -> str:
    """SHA-256 of every Python file below a package, with its name."""
    state = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        state.update(f"{path.relative_to(package)} {len(content)}\n".encode())
        state.update(content)
    return state.hexdigest()


def environment() -> dict[str, Any]:
    """What else decides on what a text is compiled to: versions, flags, processor, devices."""
    return {
        "python": sys.version,
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("JAX_", "XLA_")) or name == "NPROC"
        },
        "jax": {name: repr(value) for name, value in sorted(jax.config.values.items())},
        "processor": _processor(),
        "cores": cores(),
        "devices": [f"{d.id} {d.platform} {d.device_kind}" for d in jax.devices()],
    }


def text_digest(lowered: jax.stages.Lowered, surroundings: Any) -> str:
    """Digest of a program's text, and of the `environment` that decides on how it is compiled."""
    return _digest(_FORMAT, lowered.as_text(), surroundings)


def _processor() -> list[str]:
    """Kind and instruction sets, for which XLA writes its code."""
    found = {platform.machine(), platform.processor()}
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        found |= {x for x in lines if x.startswith(("model name", "flags", "Features", "CPU part"))}
    return sorted(found)


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def _write(path: Path, content: bytes) -> None:
    """Whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _prune(folder: Path, most_bytes: int) -> None:
    """Removes files, the one used longest ago first, until the others have no more bytes."""
    total = 0
    found = [(path, path.stat()) for path in folder.iterdir()]
    for path, about in sorted(found, key=lambda one: one[1].st_mtime, reverse=True):
        total += about.st_size
        if total > most_bytes:
            path.unlink(missing_ok=True)


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


# Programs that this thread has read from JAX's cache: JAX reports it where it compiles.
_read_here = threading.local()
_listening = threading.Lock()


def _listen() -> None:
    # A listener cannot be taken away again, so there is one.
    if _listening.acquire(blocking=False):
        jax.monitoring.register_event_listener(_count)


def _count(event: str, **_: Any) -> None:
    if event == _HIT:
        _read_here.hits = _hits() + 1


def _hits() -> int:
    return int(getattr(_read_here, "hits", 0))
