"""What contestants have in common: where they work, the text, how they are started."""

from __future__ import annotations

import contextlib
import platform
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from lm.bench import process
from lm.bench.harness import Facts
from lm.bench.process import Environment, Worker
from lm.bench.shapes import CHARACTERS, TEXT
from lm.config import Config, to_dict
from lm.data import embedded
from lm.data.cache import build_folder
from lm.errors import UserError
from lm.host import malloc_environment

# What a peer gets of ours: initial parameters by path, and tokens and targets [steps, B, T].
PARAMETERS, BATCHES = "parameters.npz", "batches.npz"


@dataclass(frozen=True)
class Place:
    """Where a benchmark works: `scratch` is its own and is removed, `cache` is what `lm train` has
    between runs, `text` the folder of the text below it."""

    scratch: Path
    cache: Path
    text: Path

    def folder(self, name: str) -> Path:
        """An empty folder below the scratch folder."""
        path = self.scratch / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[Place]:
        """The same with a scratch folder below this one, which is removed when the part ends."""
        path = self.folder(name)
        try:
            yield replace(self, scratch=path)
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def log(self, name: str) -> Path:
        plain = "".join(c if c.isalnum() else "-" for c in name)
        return self.scratch / f"{plain}.log"

    def worker(
        self, name: str, target: str, arguments: Mapping[str, Any], env: Environment | None = None
    ) -> Worker:
        """A contestant of `lm.bench`: `target` is "ours.loop:Loop". Ours get the environment that
        `lm` gives itself."""
        if target.startswith("ours."):
            env = {**malloc_environment(), **(env or {})}
        return Worker(name, f"lm.bench.{target}", arguments, log=self.log(name), env=env)

    def call(
        self, target: str, arguments: Mapping[str, Any], env: Environment | None = None
    ) -> Facts:
        """What `target`'s prepare() returns, done once."""
        return process.call(f"lm.bench.{target}", arguments, log=self.log(target), env=env)

    def data(self, config: Config) -> dict[str, Any]:
        """The arguments of every contestant that reads the run's data."""
        return {
            "config": to_dict(config),
            "data_root": str(self.text),
            "cache_dir": str(self.cache),
        }


@contextlib.contextmanager
def place(scratch: Path | None, cache: Path) -> Iterator[Place]:
    """A new folder below `scratch` (the system's place for such), and the text.

    Raises:
      UserError: `scratch` is no folder that can be written.
    """
    try:
        own = Path(tempfile.mkdtemp(prefix="lm-bench-", dir=scratch))
    except OSError as error:
        raise UserError(f"--scratch={scratch}: {error.strerror}") from error
    try:
        with _terminable():
            # The standard library's texts are others in another Python.
            text = cache / f"bench-{embedded.VERSION}-python-{platform.python_version()}"
            build_folder(text, _write_text)
            yield Place(own, cache, text)
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the program as an exception does: what has begun is put away."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _write_text(folder: Path) -> None:
    """The embedded text in the alphabet of its most frequent characters; others are left out."""
    text = "".join(embedded.texts())
    alphabet = {character for character, _ in Counter(text).most_common(CHARACTERS)}
    kept = "".join(character for character in text if character in alphabet)
    (folder / TEXT).write_text(kept, encoding="utf-8")
