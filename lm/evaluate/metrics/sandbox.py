"""Runs a program that nobody has read, with limits, in a process of its own.

What holds everywhere: limits of wall time, processor time, memory of each process (not on macOS),
size of each file, and output kept; a private folder as working directory and home, deleted
afterwards; an environment without the caller's variables; no input; whatever is left of its
process group is killed.

What holds on Linux where users may make namespaces (`Outcome.isolated` says which did):
  network    there is none, not even to this machine
  processes  none but its own can be signalled; all end with it, also those that left its group
  files      nothing can be written outside its folder

What it does NOT protect from: reading every file the user may read (keys, data), which without a
network can go to its output only, or to services that listen on a socket among the files (a Docker
daemon, which may obey); holes in the kernel; exhausting memory with many processes (root may start
any number), or the disk with many files; and, where a part of the isolation is missing, all that
the user may do to network, processes and files. A program out to deceive can also report that it
passed. To run what may be hostile, start the whole evaluation in a virtual machine.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lm.errors import ConfigError, UserError

Reason = Literal["passed", "failed", "timed out", "memory", "error"]
_CHILD = Path(__file__).with_name("sandbox_child.py")
# More than a child ever writes of its end.
_MESSAGE = 1 << 16


@dataclass(frozen=True)
class Limits:
    """Of one program. Memory is address space, of each process, the interpreter's own included.
    `tasks` are processes and threads, where those are isolated and the user is not root."""

    wall_seconds: float = 10.0
    cpu_seconds: int = 10
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 24
    output_bytes: int = 1 << 16
    tasks: int = 64


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    reason: "passed" (it ran to its end), "failed" (an AssertionError), "timed out" (wall or
      processor time), "memory" (a MemoryError), "error" (anything else: another exception, a
      crash, an early exit).
    detail: the exception, or the signal.
    output: what it wrote to stdout and stderr, the first `Limits.output_bytes`; `cut` if more.
    isolated: which of "network", "processes" and "files" were cut off.
    """

    reason: Reason
    detail: str
    output: str
    cut: bool
    seconds: float
    isolated: frozenset[str]


def run_program(program: str, limits: Limits = Limits(), *, isolate: bool = True) -> Outcome:
    """Runs Python source, tests included, with the interpreter and packages of this one.

    It is imported as the module `program`: what stands under `if __name__ == "__main__"` does not
    run. PYTHONHASHSEED is 0, so that sets have the same order every time.

    Args:
      isolate: whether to ask for the isolation described above.

    Raises:
      ConfigError: a limit that is not positive; a system that is not POSIX.
      UserError: the process or its folder cannot be made.
    """
    _check(limits)
    try:
        with tempfile.TemporaryDirectory(
            prefix="lm-program-",
            # Where processes cannot be isolated, one that fled may be writing there still.
            ignore_cleanup_errors=True,
        ) as folder:
            # What cannot be encoded is a SyntaxError of the program, not ours.
            source = program.encode("utf-8", "surrogatepass")
            Path(folder, "program.py").write_bytes(source)
            return _run(folder, limits, isolate)
    except OSError as error:
        raise UserError(f"cannot run a program in a process of its own: {error}") from error


def run_programs(
    programs: Sequence[str],
    limits: Limits = Limits(),
    *,
    isolate: bool = True,
    workers: int | None = None,
) -> list[Outcome]:
    """`run_program` of each, so many at a time (None is the number of processors)."""
    _check(limits)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        return list(pool.map(lambda p: run_program(p, limits, isolate=isolate), programs))


def _check(limits: Limits) -> None:
    if os.name != "posix":
        raise ConfigError("programs are run with POSIX's limits, which this system does not have")
    for name, value in asdict(limits).items():
        if value <= 0:
            raise ConfigError(f"the limit {name} must be positive, not {value}")


def _run(folder: str, limits: Limits, isolate: bool) -> Outcome:
    begin = time.monotonic()
    reading, writing = zip(os.pipe(), os.pipe(), os.pipe())
    status, report, output = writing
    settings = {
        **asdict(limits), "folder": folder, "isolate": isolate, "status": status, "report": report,
    }  # fmt: skip
    try:
        process = subprocess.Popen(
            [sys.executable, "-S", "-s", "-P", "-B", _CHILD, "confine", json.dumps(settings)],
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(status, report),
            start_new_session=True,
        )
    finally:
        for descriptor in writing:
            os.close(descriptor)
    try:
        kept = _Kept(limits.output_bytes)
        try:
            ended = _wait(reading, kept, begin + limits.wall_seconds)
        finally:
            # Its leader is not waited for yet, so the number is still the group's.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        seconds = time.monotonic() - begin
        said = _message(_to_end(reading[1], 1.0))
        found = _message(_to_end(reading[0], 0.0))
        while not kept.cut and (chunk := _read(reading[2])):
            kept.add(chunk)
    finally:
        for descriptor in reading:
            os.close(descriptor)
    reason, detail = _reason(ended, found, said, limits)
    return Outcome(
        reason,
        detail,
        kept.data.decode("utf-8", "replace"),
        kept.cut,
        seconds,
        frozenset(found.get("isolated", ())),
    )


def _environment(folder: str) -> dict[str, str]:
    return {
        "HOME": folder,
        "TMPDIR": folder,
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        # Numerical libraries else start a thread for each processor, all of which need memory.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


class _Kept:
    """The beginning of the output."""

    def __init__(self, size: int) -> None:
        self.data, self.cut, self._size = b"", False, size

    def add(self, chunk: bytes) -> None:
        room = self._size - len(self.data)
        self.data += chunk[:room]
        self.cut = self.cut or len(chunk) > room


def _wait(reading: Sequence[int], kept: _Kept, deadline: float) -> bool:
    """Reads output until the status' writers have ended (True), or time is up."""
    status, _, output = reading
    for descriptor in reading:
        os.set_blocking(descriptor, False)
    with selectors.DefaultSelector() as selector:
        selector.register(status, selectors.EVENT_READ)
        selector.register(output, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            ready = {key.fd for key, _ in selector.select(left)}
            if status in ready:
                return True
            if output in ready:
                chunk = _read(output)
                kept.add(chunk)
                if not chunk:
                    selector.unregister(output)
    return False


def _to_end(descriptor: int, seconds: float) -> bytes:
    """All that is written until no process holds the pipe any more: those killed end in their own
    time, but one that fled may live on, so that there is a limit."""
    data, deadline = b"", time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            chunk = os.read(descriptor, 1 << 16)
            if not chunk or len(data) > _MESSAGE:
                break
            data += chunk
    return data


def _read(descriptor: int) -> bytes:
    """What is there to be read now; nothing at the end, and where there is nothing yet."""
    try:
        return os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return b""


def _message(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data) if data else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _reason(
    ended: bool, found: dict[str, Any], said: dict[str, Any], limits: Limits
) -> tuple[Reason, str]:
    if not ended:
        return "timed out", f"{limits.wall_seconds} s of wall time"
    if not found:
        return "error", "all killed, by itself or for want of the machine's memory"
    code, cpu = found["exit"], found["cpu_seconds"]
    if code < 0:
        if -code == signal.SIGXCPU or cpu >= limits.cpu_seconds:
            return "timed out", f"{limits.cpu_seconds} s of processor time"
        return "error", f"killed by {signal.Signals(-code).name}"
    if said.get("reason") in ("passed", "failed", "memory", "error"):
        return said["reason"], str(said.get("detail", ""))
    return "error", f"ended with exit status {code} before its tests had"
