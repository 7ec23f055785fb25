"""What the process around JAX needs, set in the environment before anything heavy is imported."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import MutableMapping

# Of glibc's allocator, which reads it once, when a process starts. A step allocates its temporary
# memory anew each time; by default that is thousands of fresh 4 KB pages to fault in and to clear,
# a fifth of a step with a large vocabulary on a CPU.
# hugetlb=1: allocations above the threshold are 2 MB pages, where the system hands them out.
# The thresholds, and one arena: those below it are reused, and not given back after every step.
MALLOC = {
    "glibc.malloc.hugetlb": "1",
    "glibc.malloc.arena_max": "1",
    "glibc.malloc.mmap_threshold": str(32 * 2**20),
    "glibc.malloc.trim_threshold": str(2**30),
}
TUNABLES = "GLIBC_TUNABLES"


def malloc_environment(environment: MutableMapping[str, str] | None = None) -> dict[str, str]:
    """The change of an environment that a computing process wants; none where the allocator is
    another one, or whoever started us has set it."""
    given = (os.environ if environment is None else environment).get(TUNABLES, "")
    if platform.libc_ver()[0] != "glibc" or "glibc.malloc." in given:
        return {}
    settings = [f"{name}={value}" for name, value in MALLOC.items()]
    return {TUNABLES: ":".join([given, *settings] if given else settings)}


def restart_with_malloc() -> None:
    """Begins this process again, as the same process, under `malloc_environment`; returns where
    there is nothing to change. For the entry of a program: what has been done so far is lost."""
    change = malloc_environment()
    if change and sys.executable:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **change})


def enough_threads() -> None:
    """XLA's threads for virtual CPU devices, unless the environment says how many."""
    devices = re.search(r"host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    if devices:
        # A device that waits for the others holds a thread for each collective: with as many
        # threads as devices, XLA's default, they can all be waiting for good.
        os.environ.setdefault("NPROC", str(4 * int(devices.group(1))))


def give_back_memory() -> None:
    """Gives the system the pages that the allocator keeps though nothing is on them: what
    compiling leaves behind, a hundred MB for a small model."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
