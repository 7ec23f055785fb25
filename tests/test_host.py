"""The environment that a computing process gives itself."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from lm.host import MALLOC, TUNABLES, enough_threads, malloc_environment

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")


@glibc
def test_what_else_is_tuned_stays() -> None:
    change = malloc_environment({TUNABLES: "glibc.cpu.x86_shstk=off"})
    first, *ours = change[TUNABLES].split(":")
    assert first == "glibc.cpu.x86_shstk=off"
    assert dict(setting.split("=") for setting in ours) == MALLOC


def test_whoever_set_the_allocator_has_the_last_word() -> None:
    assert malloc_environment({TUNABLES: "glibc.malloc.hugetlb=0"}) == {}


@glibc
def test_the_process_begins_again_once_with_its_arguments(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import os, sys\n"
        "print('begun', os.getpid(), sys.argv[1:], flush=True)\n"
        "from lm.host import restart_with_malloc\n"
        "restart_with_malloc()\n"
        "print('running', os.getpid(), os.environ['GLIBC_TUNABLES'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != TUNABLES}
    done = subprocess.run(
        [sys.executable, "-B", str(script), "a b", "--c"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    begun, again, running = done.stdout.splitlines()
    assert begun == again, "another process, or other arguments"
    assert begun.endswith("['a b', '--c']")
    assert running.split()[1] == begun.split()[1]
    assert "glibc.malloc.hugetlb=1" in running


def test_virtual_devices_get_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    enough_threads()
    assert os.environ["NPROC"] == "12"
