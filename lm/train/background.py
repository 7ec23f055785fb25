"""One job at a time in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """Runs a job in a thread while the owner goes on. What a job raises is raised, once, where the
    owner looks next: at `check`, `wait` or the start of another job."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Starts `job`, after the one that is running."""
        self.wait()
        # Not a daemon: a program that ends lets it finish.
        self._thread = threading.Thread(target=self._run, args=(job,), name=self._name)
        self._thread.start()

    def check(self) -> None:
        """Raises what the last job raised, if it has by now."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def wait(self) -> None:
        """Returns when nothing is running. Raises what the last job raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self._failure = error
