"""Engines: where and when the cells of a sweep run, and nothing else about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from lm.errors import ConfigError, did_you_mean
from lm.train.preemption import StopRequest

if TYPE_CHECKING:
    from lm.reproduce.sweep_cell import Job

ENGINES = ("local", "ray")


class Engine(Protocol):
    """What `lm.reproduce.sweep.run_sweep` asks of an engine."""

    def run(self, jobs: Sequence[Job], stop: StopRequest) -> None:
        """Runs those of the jobs that are not finished, by `lm.reproduce.sweep_cell.Running`, until
        each has one of its ENDS in its record; or until `stop.requested`: then those that run are
        stopped, and have saved."""


def build_engine(name: str, **settings: Any) -> Engine:
    """The engine `name`, one of ENGINES, with its settings.

    Raises:
      ConfigError: no such engine; settings that cannot be meant.
      UserError: it is not installed.
    """
    if name == "local":
        from lm.reproduce.engines.local import Local

        return Local(**settings)
    if name == "ray":
        # Optional, and seconds to import.
        from lm.reproduce.engines.ray import Ray

        return Ray(**settings)
    raise ConfigError(f"no engine {name!r}{did_you_mean(name, ENGINES)}")
