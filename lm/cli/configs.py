"""`--config.a.b=VALUE` on a command line; what `--config=FILE.py[:ARGUMENT]` names is read by
`lm.train.experiment`."""

from __future__ import annotations

from collections.abc import Sequence

from lm.errors import ConfigError
from lm.train.experiment import experiment_values, load_config

__all__ = ["experiment_values", "extract_overrides", "load_config"]


def extract_overrides(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes `--config.a.b=v` (or `--config.a.b v`) out of a command line: (rest, [(key, value)]).

    Raises:
      ConfigError: an override without a value.
    """
    rest: list[str] = []
    overrides: list[tuple[str, str]] = []
    items = iter(arguments)
    for item in items:
        name = item.lstrip("-")
        if not (item.startswith("-") and name.startswith("config.")):
            rest.append(item)
            continue
        key, equals, value = name.removeprefix("config.").partition("=")
        if not equals:
            value = next(items, "")
            if not value or value.startswith("--"):
                raise ConfigError(f"{item}: no value given; write {item}=VALUE")
        overrides.append((key, value))
    return rest, overrides
