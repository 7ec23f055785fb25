"""What every figure has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FigureBase:
    """The measure that is shown, a title, and what the figure says, for those who cannot see it."""

    measure: str
    title: str
    message: str = ""
