"""The parent's side of contestants that are processes.

A process is halted (SIGSTOP) whenever it is not its turn, threads that read ahead or spin
included: contestants never run at the same time.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm.bench.harness import Facts, Unavailable
from lm.errors import UserError

Environment = Mapping[str, str | None]

# Several contestants share one accelerator, so JAX must not take its memory in advance.
_SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_TAIL = 2000
_LOOK_EVERY = 0.002
_GIVE_UP = 600.0


class Worker:
    """A contestant that `lm.bench.worker` serves in a process of its own.

    Args:
      target: "module:Class", made in the process with `arguments` (JSON values).
      log: what the process prints.
      env: changes of the environment; None takes a variable away.
    """

    def __init__(
        self,
        name: str,
        target: str,
        arguments: Mapping[str, Any],
        *,
        log: Path,
        env: Environment | None = None,
    ) -> None:
        self.name = name
        self._command = [
            sys.executable, "-m", "lm.bench.worker", target, json.dumps(dict(arguments))
        ]  # fmt: skip
        self._env, self._log = environment(env or {}), log
        self._process: subprocess.Popen[str] | None = None

    def prepare(self) -> Facts:
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                self._command, env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        return self._ask("prepare")

    def round(self) -> float:
        return self._ask("round")

    def finish(self) -> Facts:
        return self._ask("finish")

    def close(self) -> None:
        if self._process is not None:
            _kill(self._process)
            self._process.communicate()
            self._process = None

    def _ask(self, word: str) -> Any:
        process = self._process
        assert process is not None and process.stdin and process.stdout
        try:
            process.send_signal(signal.SIGCONT)
            process.stdin.write(f"{word}\n")
            process.stdin.flush()
            line = process.stdout.readline()
            _halt(process)
        except BrokenPipeError:
            line = ""
        if not line:
            raise UserError(
                f"{self.name}: the process ended during {word!r} (exit status {process.wait()}); "
                f"its last words:\n{tail(self._log)}"
            )
        answer = json.loads(line)
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"])
        if "error" in answer:
            raise UserError(f"{self.name}: {word!r} failed: {answer['error']}")
        return answer["value"]


def _kill(process: subprocess.Popen[Any]) -> None:
    """Ends the process and what it has started (torch's compiler starts helpers)."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _halt(process: subprocess.Popen[str]) -> None:
    """Stops every thread of the process, and returns when they stand still."""
    process.send_signal(signal.SIGSTOP)
    if process.returncode is None:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            process.returncode = os.waitstatus_to_exitcode(status)


class Start:
    """A contestant whose round is a whole new process, timed until a file has something in it.

    Args:
      command: for round number `n`, the command line and the file that tells of its first step.
      rehearsals: starts before the first round, which fill caches.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[int], tuple[Sequence[str], Path]],
        *,
        log: Path,
        env: Environment | None = None,
        rehearsals: int = 1,
    ) -> None:
        self.name = name
        self._command, self._log = command, log
        self._env = environment(env or {})
        self._rehearsals, self._number, self._peak = rehearsals, 0, 0

    def prepare(self) -> Facts:
        first = [self.round() for _ in range(self._rehearsals)]
        self._peak = 0
        return {"first_starts": first}

    def round(self) -> float:
        command, sign = self._command(self._number)
        self._number += 1
        with self._log.open("w", encoding="utf-8") as log:
            began = time.perf_counter()
            process = subprocess.Popen(
                command, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            while not (sign.exists() and sign.stat().st_size):
                if process.poll() is not None or time.perf_counter() - began > _GIVE_UP:
                    raise UserError(
                        f"{self.name}: the process made no step (exit status {process.poll()}); "
                        f"its last words:\n{tail(self._log)}"
                    )
                time.sleep(_LOOK_EVERY)
            return time.perf_counter() - began
        finally:
            if process.poll() is None:
                _kill(process)
                _, _, usage = os.wait4(process.pid, 0)
                process.returncode = -signal.SIGKILL
                scale = 1 if sys.platform == "darwin" else 1024
                self._peak = max(self._peak, usage.ru_maxrss * scale)

    def finish(self) -> Facts:
        return {"peak_memory": self._peak} if self._peak else {}

    def close(self) -> None:
        """Nothing outlives a round."""


def call(
    target: str, arguments: Mapping[str, Any], *, log: Path, env: Environment | None = None
) -> Facts:
    """What `prepare` of a contestant returns, from a process that is gone afterwards."""
    worker = Worker(target, target, arguments, log=log, env=env)
    try:
        return worker.prepare()
    finally:
        worker.close()


def environment(changes: Environment) -> dict[str, str]:
    """This process's environment with changes; None takes a variable away.

    Of several NVIDIA GPUs only the first visible one is left: torch's contestants use no more, and
    utilisation is that of one device.
    """
    visible = os.environ.get(_VISIBLE, "0").split(",")[0]
    merged: dict[str, str | None] = {**_SHARED, **os.environ, _VISIBLE: visible, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def one_device() -> dict[str, str | None]:
    """The change that leaves JAX one CPU device, which uses every core."""
    flags = os.environ.get("XLA_FLAGS", "")
    rest = re.sub(r"--xla_force_host_platform_device_count=\d+", "", flags).strip()
    return {"XLA_FLAGS": rest or None, "JAX_NUM_CPU_DEVICES": None}


def with_flags(flags: str) -> dict[str, str | None]:
    """The change that gives XLA further flags."""
    given = os.environ.get("XLA_FLAGS", "")
    return {"XLA_FLAGS": f"{given} {flags}".strip()} if flags else {}


def several_devices() -> bool:
    """Whether `one_device` changes anything."""
    return any(os.environ.get(name) != value for name, value in one_device().items())


def tail(log: Path) -> str:
    """The end of what a process printed."""
    return log.read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip() or "(nothing)"
