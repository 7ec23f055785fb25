"""What orbax raises and logs, as messages for the user."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lm.errors import UserError


@contextmanager
def explained(directory: Path) -> Iterator[None]:
    """Turns a failed write into a UserError that names the folder and what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = str(error)
        if "No space left" in text or "Disk quota" in text:
            free = shutil.disk_usage(directory).free / 1e6
            raise UserError(
                f"disk full while writing a checkpoint to {directory} ({free:.1f} MB free): free "
                "some space (or lower checkpoint.keep_last) and run the same command to continue"
            ) from error
        if isinstance(error, OSError) or "tensorstore" in text.lower():
            raise UserError(f"could not write a checkpoint to {directory}: {text[:500]}") from error
        raise


def quieten_orbax() -> None:
    """Orbax logs what it raises, and its writers' leftovers of a failed write complain of a closed
    event loop: every failure reaches the user once, as the message of the error that is raised."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if getattr(sys.unraisablehook, "hides_closed_loops", False):
        return
    default = sys.unraisablehook

    def hook(ignored: sys.UnraisableHookArgs) -> None:
        error = ignored.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            default(ignored)

    hook.hides_closed_loops = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook
