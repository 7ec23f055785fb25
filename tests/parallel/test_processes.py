"""Two processes with two devices each give what one process gives."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def start(kind: str, port: int, index: int, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.parallel.two_processes",
            kind,
            *map(str, (port, index, count)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process: subprocess.Popen[str]) -> Any:
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, err
    # The collectives' library writes to stdout too.
    return json.loads(next(line for line in out.splitlines() if line.startswith("{")))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sharded", "data_parallel"])
def test_two_processes_equal_one(kind: str) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    pair = [start(kind, port, i, 2) for i in range(2)]
    first, second = map(result, pair)
    alone = result(start(kind, 0, 0, 1))
    assert (first["devices"], alone["devices"]) == (4, 2)
    assert first == second
    for name, values in alone["metrics"].items():
        np.testing.assert_allclose(first["metrics"][name], values, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(first["evaluation"], alone["evaluation"], rtol=1e-5)
    np.testing.assert_allclose(first["bias"], alone["bias"], rtol=1e-4, atol=1e-6)
