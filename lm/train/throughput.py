"""How fast a run is: tokens/s and model-FLOPs utilisation (MFU), by two conventions."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from lm.config import ModelConfig
from lm.types import Params, PyTree

# Dense bfloat16 peak of one device in TFLOP/s, by a part of its `device_kind`; vendors' figures.
PEAK_TFLOPS = {
    "H100": 989.0,
    "H200": 989.0,
    "A100": 312.0,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5e": 197.0,
    "TPU v5p": 459.0,
    "TPU v5": 459.0,
    "TPU v6": 918.0,
}


@dataclass(frozen=True)
class FlopsPerToken:
    """Training FLOPs of one token, recomputation not counted.

    `palm`: 6 N + 12 L d T (Chowdhery et al. 2022, appendix B); `causal`: 6 N + 6 L d T, which
    counts only the scores that the causal mask keeps. N is the parameters that are multiplied
    with every token: no position or type table, and no input table unless the head shares it.
    """

    palm: float
    causal: float


def flops_per_token(
    config: ModelConfig, params: Params, sequence_length: int, frozen: PyTree | None = None
) -> FlopsPerToken:
    """FLOPs a token of a model at `sequence_length`; `params` may be abstract. Those that are True
    in `frozen`, a tree like them, have no gradient of their own: of their 6 a token there are 4."""
    tables = {"position_embedding", "token_type_embedding"}
    skipped = tables | (set() if config.tie_embeddings else {"token_embedding"})
    still = jax.tree.leaves(frozen) if frozen is not None else itertools.repeat(False)
    flops = sum(
        (4.0 if fixed else 6.0) * math.prod(leaf.shape)
        for (path, leaf), fixed in zip(jax.tree_util.tree_leaves_with_path(params), still)
        if not skipped & {getattr(entry, "key", None) for entry in path}
    )
    width = config.num_heads * config.width_of_head
    attention = config.num_layers * width * sequence_length
    return FlopsPerToken(palm=flops + 12.0 * attention, causal=flops + 6.0 * attention)


def peak_flops() -> float:
    """FLOP/s of all devices together: the vendor's peak, or on the CPU a measured matmul."""
    device = jax.devices()[0]
    for name, tflops in PEAK_TFLOPS.items():
        if name in device.device_kind:
            return tflops * 1e12 * jax.device_count()
    return _measured_matmul()


def _measured_matmul(size: int = 1024, repeats: int = 5) -> float:
    """The best float32 matmul rate of the machine, which all virtual CPU devices share."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda x: x @ x)
    product(a).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        product(a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
