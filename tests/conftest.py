"""What every test gets: a CPU with four virtual devices, a shared compilation cache, the fixtures.

Everything goes through os.environ, and before JAX is imported, so that subprocesses inherit it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

os.environ["JAX_PLATFORMS"] = "cpu"
# Programs of tests run once or twice: unoptimised, fused by the older emitter and not cut up for
# threads of the compiler, they compile in a third of the time.
_XLA = {
    "--xla_force_host_platform_device_count": "4",
    "--xla_backend_optimization_level": "0",
}
# XLA ends a process that has a flag it does not know, and drops flags between its versions.
if version("jaxlib").startswith("0.10."):
    _XLA["--xla_cpu_use_fusion_emitters"] = "false"
    _XLA["--xla_cpu_parallel_codegen_split_count"] = "1"
for _FLAG, _VALUE in _XLA.items():
    _FLAGS = os.environ.get("XLA_FLAGS", "")
    if _FLAG not in _FLAGS:
        os.environ["XLA_FLAGS"] = f"{_FLAGS} {_FLAG}={_VALUE}".strip()
# Threads for XLA. A virtual device that waits for the others holds one for each collective; with as
# many threads as devices they can all be waiting, and the run stops for good.
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import pytest  # noqa: E402  (the environment above comes first: plugins may import JAX)

RunLm = Callable[..., "subprocess.CompletedProcess[str]"]


def _data_root() -> Path:
    return Path(os.environ.get("LM_DATA") or ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Prepared data and trained tokenizers go to a folder of this session, not to ~/.cache."""
    path = tmp_path_factory.mktemp("lm_cache")
    before = os.environ.get("LM_CACHE")
    os.environ["LM_CACHE"] = str(path)
    yield path
    if before is None:
        del os.environ["LM_CACHE"]
    else:
        os.environ["LM_CACHE"] = before


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real data (`LM_DATA`, else ../shared/data); skips where there is none."""
    path = _data_root()
    if not path.is_dir():
        pytest.skip(f"no data at {path} (set LM_DATA)")
    return path


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """An empty place for one run; the run makes the folder itself."""
    return tmp_path / "run"


@pytest.fixture
def run_lm() -> RunLm:
    """`run_lm("train", "--config=...", env={...})`: the command line in a process of its own."""

    def run(
        *arguments: str | Path, env: dict[str, str] | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        return subprocess.run(
            [sys.executable, "-m", "lm.cli.main", *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run
