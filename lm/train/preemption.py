"""SIGTERM and SIGINT ask a run to save and stop; a second one stops it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from lm.errors import EXIT_PREEMPTED, UserError


class Stopped(UserError):  # noqa: N818 (not an error)
    """A signal came before there was anything to save."""

    exit_code = EXIT_PREEMPTED


class StopRequest:
    """While active, catches the first SIGTERM or SIGINT; after it both act as usual.

    Until `defer` is called the signal raises `Stopped` wherever the program is; from then on it
    only sets `requested`, and whoever trains stops at the next point where it can save.
    """

    def __init__(self) -> None:
        self.requested = False
        self.signal_name = ""
        self._deferred = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # Python gives signals to the main thread only; a run in another one is not interrupted.
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def defer(self) -> None:
        """From now on there is something to save before stopping."""
        self._deferred = True

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.requested = True
        self.signal_name = signal.Signals(number).name
        self._restore()
        if not self._deferred:
            raise Stopped(
                f"stopped by {self.signal_name} before training began, with nothing to save; the "
                "same command starts again"
            )

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
