"""torch at full speed on AMD processors.

MKL, torch's matrix library, asks whether it runs on an Intel processor and takes a slower path
elsewhere. A library of two functions that say yes, loaded before it, gives it its full speed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from lm.bench.harness import Unavailable
from lm.bench.machine import is_amd
from lm.bench.process import Environment

_SOURCE = """
int mkl_serv_intel_cpu_true(void) { return 1; }
int mkl_serv_intel_cpu(void) { return 1; }
"""


def full_speed(folder: Path) -> Environment:
    """The change of a process's environment, with the library built into `folder`.

    Raises:
      Unavailable: MKL is at full speed as it is, or there is no C compiler.
    """
    if sys.platform != "linux" or not is_amd():
        raise Unavailable("the processor is not AMD's: MKL is at full speed as it is")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Unavailable("there is no C compiler (cc) to build the library that frees MKL")
    source, library = folder / "intel.c", folder / "intel.so"
    source.write_text(_SOURCE, encoding="utf-8")
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise Unavailable(f"{compiler} failed: {done.stderr.strip()[:200]}")
    others = os.environ.get("LD_PRELOAD")
    return {"LD_PRELOAD": f"{library}:{others}" if others else str(library)}
