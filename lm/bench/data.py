"""The data pipeline, beside what training consumes."""

from __future__ import annotations

from collections.abc import Sequence

from lm.bench import shapes
from lm.bench.harness import Comparison, Contestant
from lm.bench.shapes import TrainShape
from lm.bench.suite import Finding, Settings, Suite
from lm.bench.train import LOOP

BATCHES, TOKENISE = "packed batches, tokens cached", "reading and tokenising new text"
# Tokens of a round of batches: a fraction of a second.
_TOKENS = 2_000_000


def contestants(shape: TrainShape, settings: Settings) -> Sequence[Contestant]:
    """Batches from cached tokens, tokenising, and the training loop that consumes them."""
    place, steps = settings.place, shape.round_steps
    data = place.data(shape.config(steps * (settings.rounds + 2)))
    count = max(1, _TOKENS // shape.tokens_per_step)
    folder = str(place.scratch / "tokenised")
    workdir = str(place.scratch / "run")
    loop = {**data, "workdir": workdir, "warmup": steps, "round_steps": steps}
    return [
        place.worker(BATCHES, "ours.pipeline:Batches", {**data, "batches": count}),
        place.worker(TOKENISE, "ours.pipeline:Tokenise", {**data, "folder": folder}),
        _PerToken(place.worker(LOOP, "ours.loop:Loop", loop), shape),
    ]


class _PerToken:
    """A contestant whose units are steps, as one whose units are tokens."""

    def __init__(self, steps: Contestant, shape: TrainShape) -> None:
        self.name, self._steps = steps.name, steps
        self._tokens = shape.tokens_per_step
        self.round, self.finish, self.close = steps.round, steps.finish, steps.close

    def prepare(self) -> dict[str, object]:
        facts = dict(self._steps.prepare())
        return {"units": facts["units"] * self._tokens, "tokens_per_unit": 1}


def findings(shape: TrainShape, comparison: Comparison) -> Sequence[Finding]:
    """How many times what training consumes each part makes, and both one after the other."""
    training = comparison[LOOP].seconds.median
    batches, tokenise = (comparison[name].seconds.median for name in (BATCHES, TOKENISE))
    found = []
    for name, seconds in (
        (BATCHES, batches), (TOKENISE, tokenise), ("text to packed batches", batches + tokenise)
    ):  # fmt: skip
        times = training / seconds
        text = f"{name}: {1 / seconds:,.0f} tokens/s, {times:,.0f}x what training consumes"
        found.append(Finding(name, times, text))
    return found


SUITE = Suite(
    name="data",
    summary="the data pipeline, beside what training consumes",
    unit="token",
    base=BATCHES,
    shapes=shapes.TRAIN,
    default="ii",
    peers=(),
    contestants=contestants,
    findings=findings,
)
