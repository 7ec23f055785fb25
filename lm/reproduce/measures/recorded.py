"""Numbers that take more than this library does by itself yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lm.config.checks import check
from lm.errors import UserError
from lm.reproduce.measures.base import Found, Inputs, MeasureBase


@dataclass(frozen=True)
class Recorded(MeasureBase):
    """What a paper reports of `runs` and lm does not measure by itself: `names` are the numbers,
    `how` says what a person would do after training. A claim about it is kept and shown as not
    run; asked for it, lm says so and trains nothing."""

    names: tuple[str, ...] = ()
    how: str = ""
    kind: Literal["recorded"] = "recorded"

    def __post_init__(self) -> None:
        check(len(self.names) > 0, "recorded needs names, of the published numbers")
        check(bool(self.how), "recorded needs how: what is done after training")

    @property
    def quantities(self) -> tuple[str, ...]:
        return self.names

    @property
    def by_hand(self) -> str:
        return f"{', '.join(self.names)}: not measured by lm reproduce; {self.how}"

    def measure(self, inputs: Inputs) -> Found:
        raise UserError(self.by_hand)
