"""The inner side of `sandbox`: run as a script, by path, in a process of its own.

    sandbox_child.py confine '{settings}'   gives up rights, starts the next, waits for it
    sandbox_child.py run '{settings}'       sets limits, and imports ./program.py

Nothing but the standard library: what `lm` imports is neither needed nor wanted here.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

# From <sched.h>, <sys/mount.h>, <linux/mount.h>, <sys/prctl.h>: Python 3.11 names none of them.
_NEW_MOUNTS, _NEW_IPC, _NEW_USER, _NEW_PIDS, _NEW_NET = (
    0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_BIND, _RECURSIVE, _PRIVATE = 1 << 12, 1 << 14, 1 << 18
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _READ_ONLY = 442, -100, 0x8000, 1
_DIE_WITH_PARENT, _NO_NEW_PRIVILEGES = 1, 38
# Room to report in, above the program's memory limit.
_SPARE = 32 << 20


def confine(settings: dict[str, Any]) -> None:
    """Cuts this process off as far as the system permits, runs the program, and writes to the
    descriptor `status` what was cut off and how the program ended."""
    libc = ctypes.CDLL(None, use_errno=True)
    isolated = _isolate(libc, settings["folder"]) if settings["isolate"] else []
    _process_control(libc, _DIE_WITH_PARENT, signal.SIGKILL)
    if "processes" in isolated:
        # The first process of the new space: with it end all others, whatever they did to flee.
        first = os.fork()
        if first:
            os.waitpid(first, 0)
            os._exit(0)
        _process_control(libc, _DIE_WITH_PARENT, signal.SIGKILL)
    program = os.fork()
    if not program:
        os.close(settings["status"])
        _process_control(libc, _NO_NEW_PRIVILEGES, 1)
        # A new executable: the rights that came with the new spaces end here.
        flags = ["-s", "-P", "-B", "-u"]
        known = json.dumps({**settings, "isolated": isolated})
        os.execv(sys.executable, [sys.executable, *flags, __file__, "run", known])
    while True:
        ended, status, usage = os.wait3(0)
        if ended == program:
            break
    code = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    found = {"isolated": isolated, "exit": code, "cpu_seconds": cpu}
    os.write(settings["status"], json.dumps(found).encode())
    os._exit(0)


def _isolate(libc: ctypes.CDLL, folder: str) -> list[str]:
    """Which of network, processes and files could be cut off (Linux, where users may)."""
    spaces = _NEW_USER | _NEW_NET | _NEW_PIDS | _NEW_MOUNTS | _NEW_IPC
    if not hasattr(libc, "unshare") or libc.unshare(spaces):
        return []
    return ["network", "processes", *(["files"] if _read_only(libc, folder) else [])]


def _read_only(libc: ctypes.CDLL, folder: str) -> bool:
    """Makes all files read-only but those in `folder`."""
    here = os.fsencode(folder)
    done = (
        libc.mount(None, b"/", None, _PRIVATE | _RECURSIVE, None) == 0
        and libc.mount(here, here, None, _BIND, None) == 0
        and _set_attributes(libc, b"/", _AT_RECURSIVE, _READ_ONLY, 0)
        and _set_attributes(libc, here, 0, 0, _READ_ONLY)
    )
    # Into the folder as it is mounted now.
    os.chdir(folder)
    return done


def _set_attributes(libc: ctypes.CDLL, path: bytes, flags: int, add: int, remove: int) -> bool:
    attributes = (ctypes.c_uint64 * 4)(add, remove, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    call = ctypes.c_long(_MOUNT_SETATTR)
    return not libc.syscall(
        call, _AT_FDCWD, ctypes.c_char_p(path), flags, ctypes.byref(attributes), size
    )


def _process_control(libc: ctypes.CDLL, option: int, value: int) -> None:
    if hasattr(libc, "prctl"):
        libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def run(settings: dict[str, Any]) -> None:
    """Imports program.py, and writes to the descriptor `report` what came of it."""
    report, memory, cpu = (settings[n] for n in ("report", "memory_bytes", "cpu_seconds"))
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, settings["file_bytes"])
    _limit(resource.RLIMIT_CPU, cpu, spare=1)
    # Elsewhere it counts all that the user runs, not the program's own.
    if settings["isolated"]:
        _limit(resource.RLIMIT_NPROC, settings["tasks"])
    if sys.platform != "darwin":
        _limit(resource.RLIMIT_AS, memory, spare=_SPARE)
    sys.path.insert(0, os.getcwd())
    sys.argv[:] = ["program.py"]
    own = os.getpid()
    reason, detail = "passed", ""
    try:
        __import__("program")
    except MemoryError:
        _limit(resource.RLIMIT_AS, memory + _SPARE)
        reason = "memory"
    except AssertionError as error:
        reason, detail = "failed", _words(error)
    except SystemExit as error:
        reason, detail = "error", f"left by sys.exit({error.code!r}) before its tests had ended"
    except BaseException as error:
        reason, detail = "error", _words(error)
    # A fork of the program that came this far too has nothing to say.
    if os.getpid() == own:
        os.write(report, json.dumps({"reason": reason, "detail": detail[:500]}).encode())
    # Neither threads nor exit handlers have anything to add.
    os._exit(0)


def _limit(which: int, value: int, spare: int = 0) -> None:
    """Sets a limit, which the program can raise by `spare`; a lower one that holds stays."""
    hard = resource.getrlimit(which)[1]
    most = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(which, (min(value, most), min(value + spare, most)))


def _words(error: BaseException) -> str:
    """The exception in words; its own __str__ may raise anything."""
    try:
        words = f"{type(error).__name__}: {error}".removesuffix(": ")
        return words.encode("utf-8", "backslashreplace").decode()
    except BaseException:
        return type(error).__name__


if __name__ == "__main__":
    {"confine": confine, "run": run}[sys.argv[1]](json.loads(sys.argv[2]))
