"""Errors that are the user's to mend: the command line prints their message, never a traceback.

A message says what was wrong, where, and what to do. Anything else that is raised is a bug and
keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_FAILED = 1
EXIT_USAGE = 2
# A run that was asked to stop (SIGTERM, SIGINT), saved, and wants to be started again: EX_TEMPFAIL.
EXIT_PREEMPTED = 75


class UserError(Exception):
    """Something the user can mend: a missing file, data that does not fit, a damaged checkpoint."""

    exit_code = EXIT_FAILED


class ConfigError(UserError):
    """A config or command line that cannot be meant: unknown key, wrong type, impossible pair."""

    exit_code = EXIT_USAGE


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, or the list of names where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
