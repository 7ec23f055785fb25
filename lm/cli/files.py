"""JSON lines in, files out: what commands on lists of texts share."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lm.errors import ConfigError, UserError


def read_objects(path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, JSON object) of each line of --input; where is "file:line".

    Raises:
      ConfigError: no path.
      UserError: the file cannot be read or is empty, or a line is no JSON object.
    """
    if not path:
        raise ConfigError("--input= names no file: give one of JSON lines, or - (standard input)")
    try:
        name = "standard input" if path == "-" else path
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"could not read --input={path}: {error.strerror}") from error
    if not data:
        raise UserError(f"{name} is empty: give at least one line")
    # Split at newlines only: a string may hold other line separators.
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        where = f"{name}:{number}"
        if not line.strip():
            raise UserError(f"{where}: the line is blank; every line must be a JSON object")
        try:
            value = json.loads(line.decode("utf-8"), object_pairs_hook=_unique)
        except ValueError as error:
            raise UserError(f"{where}: not a JSON line in UTF-8: {error}") from error
        except RecursionError:
            raise UserError(f"{where}: not a JSON line: nested too deeply") from None
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected a JSON object, got {type(value).__name__}")
        yield where, value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError where a key comes twice: only one could count."""
    value = dict(pairs)
    if len(value) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice!r} is given more than once")
    return value


def string_field(value: Mapping[str, Any], name: str, where: str) -> str:
    """The string under a key of a line's object. Raises UserError where it is something else."""
    found = value[name]
    if not isinstance(found, str):
        nested = isinstance(found, (list, dict))
        got = type(found).__name__ if nested else json.dumps(found)
        raise UserError(f'{where}: "{name}" must be a string, not {got}')
    return found


def check_output(path: str | None, flag: str = "--output") -> None:
    """What can be known to be wrong with an output's `flag` before anything is computed.

    Raises:
      ConfigError: no path.
      UserError: a folder, or in a folder that is not there or where nothing can be written.
    """
    if path is None:
        return
    if not path:
        raise ConfigError(f"{flag}= names no file; leave it out for standard output")
    try:
        if Path(path).is_dir():
            raise UserError(f"could not write {flag}={path}: it is a folder")
        if not Path(path).parent.is_dir():
            raise UserError(f"could not write {flag}={path}: {Path(path).parent} is no folder")
        temporary = _temporary(path)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise UserError(f"could not write {flag}={path}: {error.strerror}") from error


def write_output(path: str, write: Callable[[BinaryIO], object], flag: str = "--output") -> None:
    """A file, whole or not at all.

    Raises:
      UserError: it cannot be written.
    """
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            write(file)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"could not write {flag}={path}: {error.strerror}") from error
    finally:
        # Whatever `write` came upon, it leaves nothing behind.
        temporary.unlink(missing_ok=True)


def _temporary(path: str) -> Path:
    """What a file is called until it is whole."""
    target = Path(path)
    return target.with_name(f".{target.name}.{os.getpid()}.tmp")
