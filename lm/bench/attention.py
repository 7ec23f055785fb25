"""Attention alone, forward and backward: ours in blocks and plain, JAX's, cuDNN's, torch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm.bench import shapes, torch_peers
from lm.bench.harness import Comparison, Contestant
from lm.bench.process import one_device
from lm.bench.shapes import TrainShape
from lm.bench.suite import Finding, Settings, Suite

BLOCKWISE = "lm, blocks of queries"
OURS = {
    BLOCKWISE: "blockwise",
    "lm, plain": "plain",
    "jax.nn.dot_product_attention": "jax",
    "jax.nn.dot_product_attention, cuDNN": "cudnn",
}
WAYS = ("eager", "eager-mkl")
# Roughly as many scores a round, whatever the shape: tenths of a second on a CPU.
_SCORES = 30_000_000


def contestants(shape: TrainShape, settings: Settings) -> Sequence[Contestant]:
    """Causal self-attention of the shape's batch on one device."""
    place, model = settings.place, shape.model()
    scores = shape.batch_size * model.num_heads * shape.sequence_length**2
    values: dict[str, Any] = {
        "batch": shape.batch_size,
        "length": shape.sequence_length,
        "heads": model.num_heads,
        "width": model.width_of_head,
        "dtype": model.compute_dtype,
        "calls": max(1, _SCORES // scores),
    }
    ours = [
        place.worker(name, "ours.attention:Attention", {**values, "kind": kind}, one_device())
        for name, kind in OURS.items()
    ]
    theirs = torch_peers.workers(
        settings,
        "peers.torch_attention:Attention",
        lambda compiled: values,
        ways=WAYS,
        name=lambda peer: torch_peers.title(peer).replace("torch eager", "torch SDPA"),
    )
    return [*ours, *theirs]


def findings(shape: TrainShape, comparison: Comparison) -> Sequence[Finding]:
    """The fastest."""
    best = min(comparison.results, key=lambda result: result.seconds.median)
    seconds = best.seconds.median
    return [Finding("fastest, seconds", seconds, f"fastest: {best.name}, {1e3 * seconds:.2f} ms")]


SUITE = Suite(
    name="attention",
    summary="attention alone, forward and backward",
    unit="call",
    base=BLOCKWISE,
    shapes=shapes.TRAIN,
    default="ii",
    peers=WAYS,
    contestants=contestants,
    findings=findings,
)
