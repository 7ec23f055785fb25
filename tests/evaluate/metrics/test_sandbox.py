"""Programs run in a process of their own: how they end, and what they cannot do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lm.errors import ConfigError
from lm.evaluate.metrics.sandbox import Limits, Outcome, run_program, run_programs

LIMITS = Limits(wall_seconds=30.0, cpu_seconds=20, output_bytes=1000)
ALL = {"network", "processes", "files"}


def endings(programs: dict[str, str], limits: Limits = LIMITS, **more: bool) -> dict[str, Outcome]:
    return dict(zip(programs, run_programs(list(programs.values()), limits, workers=4, **more)))


@pytest.mark.parametrize("isolate", [True, False])
def test_how_programs_end(isolate: bool) -> None:
    found = endings(
        {
            "passed": "print('first'); assert 1 + 1 == 2",
            "failed": "assert 1 == 2, 'no\\ud800'",
            "error": "1 / 0",
            "syntax": "def f(:",
            "surrogate": "\ud800",
            "exit": "import sys; sys.exit(0)",
            "quick exit": "import os; os._exit(0)",
            "crash": "import ctypes; ctypes.string_at(0)",
            "memory": "x = [0] * 10**10",
            "long": "print('é' * 10**6)",
            # A fork that gets to the end while its parent fails says nothing.
            "fork": "import os\nif os.fork():\n    os.wait()\n    assert False",
            "main": "if __name__ == '__main__':\n    assert False",
        },
        isolate=isolate,
    )
    reasons = {name: (outcome.reason, outcome.detail) for name, outcome in found.items()}
    assert reasons["passed"] == ("passed", "") and found["passed"].output == "first\n"
    assert reasons["failed"] == ("failed", "AssertionError: no\\ud800")
    assert reasons["error"] == ("error", "ZeroDivisionError: division by zero")
    assert reasons["syntax"][0] == "error" and "SyntaxError" in reasons["syntax"][1]
    assert reasons["surrogate"][0] == "error" and "SyntaxError" in reasons["surrogate"][1]
    assert reasons["exit"] == ("error", "left by sys.exit(0) before its tests had ended")
    assert reasons["quick exit"] == ("error", "ended with exit status 0 before its tests had")
    assert reasons["crash"] == ("error", "killed by SIGSEGV")
    assert reasons["memory"] == ("memory", "")
    assert reasons["long"] == ("passed", "") and found["long"].cut
    assert len(found["long"].output.encode()) <= 1002
    assert reasons["fork"] == ("failed", "AssertionError")
    assert reasons["main"] == ("passed", "")
    assert not found["passed"].cut and (isolate or not found["passed"].isolated)


def test_time() -> None:
    idle = run_program("import time; time.sleep(600)", Limits(wall_seconds=0.5))
    assert idle.reason == "timed out" and "wall" in idle.detail
    busy = run_program("while True: pass", Limits(wall_seconds=60.0, cpu_seconds=1))
    assert busy.reason == "timed out" and "processor" in busy.detail


def test_the_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "key")
    program = """
import os, sys, tempfile
assert "SECRET" not in os.environ
assert os.getcwd() == os.environ["HOME"] == tempfile.gettempdir()
assert os.listdir() == ["program.py"]
open("here", "w").write("x")
assert sys.stdin.read() == ""
print(os.getcwd())
"""
    outcome = run_program(program, LIMITS)
    assert outcome.reason == "passed", outcome
    assert not Path(outcome.output.strip()).exists()
    large = "with open('large', 'wb') as file:\n    file.write(bytes(2000))"
    big = run_program(large, Limits(file_bytes=1000, wall_seconds=30.0))
    assert big.reason == "error" and "File too large" in big.detail


def test_isolation(tmp_path: Path) -> None:
    """Of what the system lets us cut off, a program has none."""
    outside = tmp_path / "outside"
    programs = {
        "network": "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
        "processes": f"import os; os.kill({os.getpid()}, 0)",
        "files": f"open({str(outside)!r}, 'w').write('x')",
        # The rights that came with the namespaces do not reach the program.
        "rights": "import os; os.chroot('.')",
    }
    found = endings(programs)
    isolated = found["network"].isolated
    if not isolated:
        pytest.skip("this system lets users make no namespaces")
    assert "unreachable" in found["network"].detail
    assert "ProcessLookupError" in found["processes"].detail
    assert "PermissionError" in found["rights"].detail
    assert ("files" in isolated) == (found["files"].reason == "error") == (not outside.exists())


def test_those_that_flee_end_too(tmp_path: Path) -> None:
    """A process that leaves its group lives no longer than the program, where they are isolated."""
    program = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            time.sleep(0.01)
            os.utime(".")
    os._exit(0)
print(os.getcwd())
"""
    outcome = run_program(program, LIMITS)
    assert outcome.reason == "passed"
    if "processes" not in outcome.isolated:
        pytest.skip("this system lets users make no namespaces")
    # Had it lived, the pipe of its report would have been waited for.
    assert outcome.seconds < LIMITS.wall_seconds
    commands = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                commands.append((entry / "cmdline").read_bytes().decode(errors="replace"))
            except OSError:
                continue
    assert not any(outcome.output.strip() in command for command in commands)


def test_limits_are_positive() -> None:
    with pytest.raises(ConfigError, match="wall_seconds must be positive, not 0.0"):
        run_program("pass", Limits(wall_seconds=0.0))
