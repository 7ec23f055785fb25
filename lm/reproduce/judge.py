"""Verdicts: what was measured beside what was published."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lm.errors import UserError
from lm.reproduce.claims import Claim, Ordered, Reported

Verdict = Literal[
    "reproduced",
    "not reproduced",
    "inconclusive",
    "reported",
    "not run at this scale",
    "not run yet",
]
# From so many seeds on, an interval of the mean says something.
SEEDS_FOR_AN_INTERVAL = 3
# Decimal rounding of a bound must not decide: 1.93 is within 1.88 +- 0.05.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Judgement:
    """A verdict and what it rests on: one number a seed, their mean, the 95 % interval of the mean
    (None below three seeds), and the band they had to be in (None at an open end)."""

    verdict: Verdict
    reason: str
    values: tuple[float | None, ...] = ()
    mean: float | None = None
    interval: tuple[float, float] | None = None
    band: tuple[float | None, float | None] | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(claim: Claim, quantities: Mapping[str, Sequence[float | None]]) -> Judgement:
    """The verdict on a claim whose measure gave `quantities`.

    With three seeds or more the interval of the mean is judged: reproduced if it lies in the band,
    not reproduced if wholly outside, else inconclusive; with fewer the mean. A seed that gave no
    number (a loss that was never reached) decides against the claim.

    Raises:
      UserError: the measure did not give the claim's quantities, or to be ordered, of unequally
        many seeds.
    """
    missing = [name for name in claim.quantities if name not in quantities]
    if missing:
        raise UserError(f"claim {claim.id}: the record has no quantity {missing[0]!r}")
    values = _values(claim, quantities)
    low, high = claim.check.band(0.0 if claim.published is None else claim.published)
    band = (low if math.isfinite(low) else None, high if math.isfinite(high) else None)
    if not values or None in values:
        lacking = sum(value is None for value in values)
        return Judgement(
            "reported" if isinstance(claim.check, Reported) else "not reproduced",
            f"{lacking} of {len(values)} seeds gave no number",
            values,
            band=band,
        )
    numbers = [value for value in values if value is not None]
    mean = math.fsum(numbers) / len(numbers)
    interval = _interval(numbers, mean)
    if isinstance(claim.check, Reported):
        return Judgement("reported", "not judged", values, mean, interval, band)
    slack = _ROUNDING * max(abs(x) for x in (*numbers, *(b for b in band if b is not None)))
    below, above = interval or (mean, mean)
    verdict: Verdict = "inconclusive"
    if low - slack <= below and above <= high + slack:
        verdict = "reproduced"
    elif above < low - slack or below > high + slack:
        verdict = "not reproduced"
    return Judgement(verdict, _reason(verdict, len(numbers)), values, mean, interval, band)


def _values(
    claim: Claim, quantities: Mapping[str, Sequence[float | None]]
) -> tuple[float | None, ...]:
    """One number a seed: the quantity, or the smallest step between quantities in order."""
    if not isinstance(claim.check, Ordered):
        return tuple(quantities[claim.quantities[0]])
    lengths = {name: len(quantities[name]) for name in claim.quantities}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise UserError(
            f"claim {claim.id}: seed by seed its quantities are compared, and there are unequally "
            f"many numbers: {told}; give their runs the same seeds"
        )
    sign = 1.0 if claim.check.direction == "rising" else -1.0
    rows = zip(*(quantities[name] for name in claim.quantities), strict=True)
    steps: list[float | None] = []
    for row in rows:
        known = [value for value in row if value is not None]
        if len(known) < len(row):
            steps.append(None)
            continue
        steps.append(min(sign * (b - a) for a, b in zip(known, known[1:])))
    return tuple(steps)


def _interval(values: Sequence[float], mean: float) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean."""
    count = len(values)
    if count < SEEDS_FOR_AN_INTERVAL:
        return None
    from scipy.stats import t

    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = float(t.ppf(0.975, count - 1)) * math.sqrt(variance / count)
    return mean - half, mean + half


def _reason(verdict: Verdict, seeds: int) -> str:
    if seeds < SEEDS_FOR_AN_INTERVAL:
        what = "the number" if seeds == 1 else f"the mean of {seeds} seeds, without an interval,"
    else:
        what = f"the 95 % interval over {seeds} seeds"
    return {
        "reproduced": f"{what} is in the band",
        "not reproduced": f"{what} is outside the band",
        "inconclusive": f"{what} crosses the band's edge",
    }[verdict]
