"""Folders that are there whole or not at all: the cache's, and a saved tokenizer's.

A folder is built under another name and renamed when whole, so a build that was killed leaves
nothing that could be read, and of two processes that build the same one, the second finds the
first's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lm.errors import UserError

_DAY = 24 * 60 * 60
# Libraries that write through code of their own raise other classes, with these words.
_FULL = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def build_folder(folder: Path, build: Callable[[Path], None]) -> None:
    """Makes `folder`, unless it exists, by calling `build` on an empty folder beside it.

    UserError where the cache cannot be written, or its disk is full.
    """
    if folder.is_dir():
        return
    _remove_leftovers(folder)
    try:
        partial = new_beside(folder)
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        build(partial)
        sync(partial)
        try:
            os.rename(partial, folder)
        except OSError as error:
            # Another process may have been first, with the same contents.
            if not folder.is_dir():
                raise _unwritable(folder, error) from None
    except UserError:
        raise
    except Exception as error:
        if any(words in str(error) for words in _FULL):
            raise UserError(
                f"no space left for the cache {folder.parent}; free some, or set LM_CACHE to a "
                "folder on a larger disk"
            ) from None
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write the cache {folder.parent}: {error.strerror}; set LM_CACHE to a folder "
        "that can be written"
    )


def _remove_leftovers(folder: Path) -> None:
    """What builds of `folder` left that were killed more than a day ago."""
    for partial in folder.parent.glob(f".{folder.name}-*"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _DAY:
                shutil.rmtree(partial, ignore_errors=True)


def new_beside(folder: Path) -> Path:
    """A new empty folder, hidden, on the same disk as `folder`; its parents are made too."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", error.filename) from None
    # Not tempfile's, which nobody else may read even once it is renamed.
    new = folder.parent / f".{folder.name}-{secrets.token_hex(6)}"
    new.mkdir()
    return new


def sync(folder: Path) -> None:
    """Puts the files below `folder` on the disk: a rename may survive a power cut that what it
    renamed does not."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def opening(folder: Path) -> Iterator[None]:
    """Turns what goes wrong on reading a store into a UserError that says to delete it."""
    try:
        yield
    except (UserError, MemoryError, ImportError):
        raise
    # Which exceptions a damaged file raises is up to the format's library.
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"the cached data in {folder} is damaged ({reason}): delete that folder, and it is "
            "made again"
        ) from None
