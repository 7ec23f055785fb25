"""The words of range checks, shared by the dataclasses of this package. None always passes."""

from __future__ import annotations

from typing import Any

from lm.errors import ConfigError


def check(condition: bool, message: str) -> None:
    """Raises ConfigError(message) unless `condition`."""
    if not condition:
        raise ConfigError(message)


def at_least(owner: Any, low: float, *names: str) -> None:
    """Each named field is at least `low`."""
    for name in names:
        value = getattr(owner, name)
        check(value is None or value >= low, f"{name} must be at least {low}, not {value}")


def positive(owner: Any, *names: str) -> None:
    """Each named field is above 0."""
    for name in names:
        value = getattr(owner, name)
        check(value is None or value > 0, f"{name} must be above 0, not {value}")


def share(owner: Any, *names: str) -> None:
    """Each named field is in [0, 1)."""
    for name in names:
        value = getattr(owner, name)
        check(value is None or 0 <= value < 1, f"{name} must be in [0, 1), not {value}")
