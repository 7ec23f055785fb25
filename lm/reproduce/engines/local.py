"""The engine that needs nothing: processes on this machine, one by one or a few at a time."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from lm.config.checks import at_least
from lm.reproduce.sweep_cell import Job, Running, read_record
from lm.train.preemption import StopRequest

_LOOK_EVERY = 0.1
# Of several runs on one accelerator none may take all of its memory in advance.
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@dataclass(frozen=True)
class Local:
    """`jobs` cells at a time, on the devices that JAX finds."""

    jobs: int = 1

    def __post_init__(self) -> None:
        at_least(self, 1, "jobs")

    def run(self, jobs: Sequence[Job], stop: StopRequest) -> None:
        waiting = deque(job for job in jobs if read_record(job.workdir)["state"] != "finished")
        running: list[Running] = []
        asked = False
        try:
            while waiting or running:
                if stop.requested and not asked:
                    asked = True
                    waiting.clear()
                    for run in running:
                        run.stop()
                while waiting and len(running) < self.jobs:
                    running.append(Running(self._shared(waiting.popleft())))
                time.sleep(_LOOK_EVERY)
                running = [run for run in running if run.poll() is None]
        finally:
            for run in running:
                run.kill()

    def _shared(self, job: Job) -> Job:
        if self.jobs == 1:
            return job
        return dataclasses.replace(job, environment={**SHARED, **job.environment})
