"""The machine that was measured: what it is, and the fastest matrix product it was seen to make."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import lm
from lm.host import cores

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "transformers")
_VARIABLES = (
    "XLA_FLAGS", "JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "NPROC", "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
)  # fmt: skip
# Sizes of the products; an accelerator needs larger ones to be at its best.
_SIZES = {"cpu": (1024, 2048)}
_LARGE = (4096, 8192)


def description() -> dict[str, Any]:
    """What can be known without JAX."""
    return {
        "processor": processor(),
        "cores": cores(),
        "memory_bytes": _memory(),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "lm": lm.__version__,
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "load_average": [round(x, 2) for x in os.getloadavg()],
    }


def processor() -> str:
    """The processor's name."""
    info = _lines(Path("/proc/cpuinfo"))
    return info.get("model name") or platform.processor() or platform.machine()


def is_amd() -> bool:
    """Whether torch's MKL would take the slow path that it has for others' processors."""
    return _lines(Path("/proc/cpuinfo")).get("vendor_id") == "AuthenticAMD"


def _lines(path: Path) -> dict[str, str]:
    """The first value of every `key : value` line; {} where there is no such file."""
    found: dict[str, str] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    return found


def _memory() -> int | None:
    kilobytes = _lines(Path("/proc/meminfo")).get("MemTotal")
    return int(kilobytes.split()[0]) * 1024 if kilobytes else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class Ceiling:
    """In a process of its own: JAX's devices and its best matrix product. float32 on a CPU,
    bfloat16 elsewhere."""

    def prepare(self) -> dict[str, Any]:
        import jax
        import jax.numpy as jnp

        backend = jax.default_backend()
        dtype = jnp.float32 if backend == "cpu" else jnp.bfloat16
        product = jax.jit(lambda x: x @ x)
        rates = {}
        for size in _SIZES.get(backend, _LARGE):
            x = jnp.ones((size, size), dtype)
            rates[str(size)] = matmul_rate(partial(_finished, product, x), size)
        return {
            "backend": backend,
            "devices": [device.device_kind for device in jax.devices()],
            "dtype": jnp.dtype(dtype).name,
            "matmul_flops": rates,
        }


def _finished(product: Any, x: Any) -> None:
    product(x).block_until_ready()


def matmul_rate(product: Any, size: int, seconds: float = 1.0) -> float:
    """The best rate in FLOP/s that `product`, of two matrices of that size, reached."""
    product()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best
