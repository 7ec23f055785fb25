"""What a checkpoint costs the training loop."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from lm.bench import shapes
from lm.bench.harness import Comparison, Contestant, Sample
from lm.bench.shapes import TrainShape
from lm.bench.suite import Finding, Settings, Suite

NONE, ASYNC, SYNC = "no checkpoint", "asynchronous checkpoint", "synchronous checkpoint"
# Dispatches of a round, so that their median is one without a checkpoint beside it.
_ENOUGH = 12


def contestants(shape: TrainShape, settings: Settings) -> Sequence[Contestant]:
    """The loop with a checkpoint in the middle of every round, written in the background or not,
    and without."""
    # Long enough that most of the writing falls into the round.
    place, steps = settings.place, 2 * shape.round_steps
    found = []
    for name, save_at in ((NONE, None), (ASYNC, steps), (SYNC, steps)):
        if name == ASYNC and not shape.asynchronous:
            continue
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
    """Steps that a checkpoint costs: the loop's standing still and what the writing beside them
    slows the steps of the round; and the standing still alone."""
    step = comparison[NONE].seconds.median
    found = []
    for name in (ASYNC, SYNC):
        if name not in comparison:
            continue
        pairs = zip(comparison[name].seconds.values, comparison[NONE].seconds.values)
        units = comparison[name].facts["units"]
        lost = Sample(tuple(units * (mine - other) / other for mine, other in pairs))
        low, high = lost.quartiles
        late = statistics.median(comparison[name].facts["overtime_seconds"])
        text = (
            f"{name}: a round of {units} steps with one takes {lost.median:+.2f} steps longer, "
            f"slower steps during the writing included (quartiles {low:+.2f} to {high:+.2f}); "
            f"writing ends {1e3 * late:.0f} ms after the round"
        )
        found.append(Finding(f"{name}, steps", lost.median, text))
        if units / comparison[name].facts["steps_per_dispatch"] >= _ENOUGH:
            found.append(_within(name, comparison))
        blocked = statistics.median(comparison[name].facts["save_seconds"])
        text = (
            f"{name}: the loop stands still for {1e3 * blocked:.0f} ms ({blocked / step:.2f} steps)"
        )
        found.append(Finding(f"{name}, steps in save", blocked / step, text))
    return found


def _within(name: str, comparison: Comparison) -> Finding:
    """The same from within the rounds, which leaves out what the machine does between them."""
    one, other = (comparison[n].facts["excess_seconds"] for n in (name, NONE))
    extra = statistics.median(one) - statistics.median(other)
    steps = extra / comparison[NONE].seconds.median
    text = (
        f"{name}: dispatches that take longer than the round's median one add {1e3 * extra:+.0f} "
        f"ms a checkpoint ({steps:+.2f} steps), over those without one"
    )
    return Finding(f"{name}, steps within the round", steps, text)


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
