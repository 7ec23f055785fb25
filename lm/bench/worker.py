"""A contestant in a process of its own: `python -m lm.bench.worker MODULE:CLASS ARGUMENTS`.

Reads one word a line from standard input (prepare, round, finish), calls that method, and answers
with one line of JSON: {"value"}, or {"unavailable"} or {"error"} with a message. Whatever else is
printed goes to standard error. The process takes the memory's high-water mark of the rounds apart
from that of the preparation, which compiles; with both goes what it held after the imports.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from lm.bench.harness import Unavailable
from lm.errors import UserError

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Serves one contestant until standard input ends."""
    die_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    target, values = arguments
    contestant: Any = None
    imports: int | None = None
    peak = 0
    for line in sys.stdin:
        word = line.strip()
        try:
            if contestant is None:
                module, _, name = target.partition(":")
                maker = getattr(importlib.import_module(module), name)
                imports = _memory("VmRSS")
                contestant = maker(**json.loads(values))
            value = getattr(contestant, word)()
            if word == "prepare":
                peak = peak_memory()
                forget_peak_memory()
            if word == "finish":
                rounds = peak_memory()
                value = {
                    **value,
                    "peak_memory_rounds": rounds,
                    "peak_memory": max(peak, rounds),
                }
                if imports is not None:
                    value["memory_of_imports"] = imports
            answer = {"value": value}
        except Unavailable as reason:
            answer = {"unavailable": str(reason)}
        except UserError as error:
            answer = {"error": str(error)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)
    # A training loop may still wait in a thread: there is nothing of it to keep.
    os._exit(0)


def die_with_parent() -> None:
    """On Linux the kernel kills this process, even a halted one, when its parent is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def peak_memory() -> int:
    """The most bytes of memory that this process held since the mark was last reset."""
    known = _memory("VmHWM")
    if known is not None:
        return known
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _memory(what: str) -> int | None:
    """Bytes that the kernel says; None where it says nothing (not Linux)."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) * 1024
    return None


def forget_peak_memory() -> None:
    """Sets the mark back to what is held now, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
