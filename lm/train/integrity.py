"""Checksums of a folder of files, kept in it: what was written is what is read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

CHECKSUMS = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Writes the SHA-256 of every file below `folder` to `checksums.json` there, atomically.

    Raises:
      OSError: a file went away meanwhile, or the disk is full.
    """
    sums = {name: _digest(path) for name, path in _files(folder)}
    temporary = folder / f".{CHECKSUMS}"
    temporary.write_text(json.dumps(sums))
    os.replace(temporary, folder / CHECKSUMS)


def damage_of(folder: Path) -> str | None:
    """What is wrong with a folder's files, in words; None where they match or have no checksums."""
    path = folder / CHECKSUMS
    if not path.exists():
        return None
    try:
        sums = dict(json.loads(path.read_text()))
    except (ValueError, TypeError):
        return f"{path.name} is not readable"
    for name, digest in sums.items():
        if not (folder / name).is_file():
            return f"file {name} is missing"
        if _digest(folder / name) != digest:
            return f"file {name} does not match its checksum"
    return None


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (CHECKSUMS, f".{CHECKSUMS}"):
            yield path.relative_to(folder).as_posix(), path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
