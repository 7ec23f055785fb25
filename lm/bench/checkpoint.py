"""What a checkpoint costs the training loop."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from lm.bench import shapes
from lm.bench.harness import Comparison, Contestant, Sample
from lm.bench.shapes import TrainShape
from lm.bench.suite import Finding, Settings, Suite

NONE, ASYNC, SYNC = "no checkpoint", "asynchronous checkpoint", "synchronous checkpoint"


def contestants(shape: TrainShape, settings: Settings) -> Sequence[Contestant]:
    """The loop with a checkpoint in the middle of every round, written in the background or not,
    and without."""
    place, steps = settings.place, shape.round_steps
    found = []
    for name, save_at in ((NONE, None), (ASYNC, steps), (SYNC, steps)):
        config = shape.config(steps * (settings.rounds + 2), save_at, asynchronous=name != SYNC)
        # Borders half a round before and after the multiples of a round's steps.
        half = steps // 2 // shape.steps_per_dispatch * shape.steps_per_dispatch
        arguments = {
            **place.data(config),
            "workdir": str(place.scratch / name.partition(" ")[0]),
            "warmup": half,
            "round_steps": steps,
        }
        found.append(place.worker(name, "ours.loop:Loop", arguments))
    return found


def findings(shape: TrainShape, comparison: Comparison) -> Sequence[Finding]:
    """Steps that a checkpoint costs: in all, and those the loop stands still in the call itself."""
    step = comparison[NONE].seconds.median
    found = []
    for name in (ASYNC, SYNC):
        pairs = zip(comparison[name].seconds.values, comparison[NONE].seconds.values)
        units = comparison[name].facts["units"]
        lost = Sample(tuple(units * (mine - other) / other for mine, other in pairs))
        low, high = lost.quartiles
        text = (
            f"{name}: {lost.median:+.2f} steps a checkpoint, its background writing included "
            f"(quartiles {low:+.2f} to {high:+.2f})"
        )
        found.append(Finding(f"{name}, steps", lost.median, text))
        blocked = statistics.median(comparison[name].facts["save_seconds"])
        text = f"{name}: the loop waits {1e3 * blocked:.0f} ms ({blocked / step:.2f} steps) in save"
        found.append(Finding(f"{name}, steps in save", blocked / step, text))
    return found


SUITE = Suite(
    name="checkpoint",
    summary="what a checkpoint costs the loop, in steps",
    unit="step",
    base=NONE,
    shapes=shapes.TRAIN,
    default="ii",
    peers=(),
    contestants=contestants,
    findings=findings,
)
