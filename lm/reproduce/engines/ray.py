"""The engine for many machines: Ray Tune decides where and when a cell runs, begins it again where
its worker is lost, and may stop those that fall behind.

Without an address it starts a Ray of its own on this machine. With one, the cells run wherever
that cluster has room (on SLURM, Kubernetes, TPU slices), with `lm` installed on every node, and
the sweep's folder, the experiments and the data at the same paths.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from lm.config.checks import at_least, check
from lm.errors import ConfigError, UserError
from lm.reproduce.cell import FELL_BEHIND
from lm.reproduce.engines.local import SHARED
from lm.reproduce.sweep_cell import ENDS, Job, Running, note, read_record
from lm.reproduce.sweep_results import Evaluations
from lm.train.preemption import StopRequest

for _name, _value in {
    # A Ray on one machine talks to itself.
    "RAY_AUTH_MODE": "disabled",
    # A run is evaluated now and then, not whenever Tune asks how it does.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Our records are what is read.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Workers are not to stand back: all that the machine has to do are they.
    "RAY_worker_niceness": "0",
    # Cells are processes in folders of their own.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}.items():
    os.environ.setdefault(_name, _value)

try:
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, TrialScheduler
    from ray.tune.stopper import Stopper
except ImportError as error:
    raise UserError(
        f"--engine=ray needs Ray ({error}): pip install 'lm[ray]', or use --engine=local"
    ) from error

# Below the sweep's folder: what Tune writes of its own.
STORAGE = ".ray"
# Workers that a cell may lose (to a preempted machine, to the system's memory) before it is given
# up. Not its retries: those are for what goes wrong in the run itself.
_LOST_WORKERS = 20
# The address of a Ray that is started for the sweep alone; what its cells share is a list of them.
_HERE, _STORE = "local", 100 * 2**20
_LOOK_EVERY, _REPORT_EVERY = 0.1, 1.0
# A file below the sweep's folder that asks its cells to stop, and how long they may take to save.
_STOP, _SAVING_SECONDS = ".stop", 300.0
_HANDLED = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving (Li et al. 2020): at `grace` steps, and at each `reduction`
    times as many, a cell goes on only if it is among the best 1/`reduction` of those that came so
    far. `metric` is one of the evaluation on the first of data.validation (None: the config's
    checkpoint.metric), lower is better with `mode` "min"."""

    grace: int
    reduction: int = 4
    metric: str | None = None
    mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        at_least(self, 1, "grace")
        at_least(self, 2, "reduction")
        check(self.mode in ("min", "max"), f"mode is min or max, not {self.mode!r}")


@dataclass(frozen=True)
class Ray:
    """Attributes:
    address: of a running cluster ("auto": the one this machine belongs to); None starts one here.
    jobs: cells at a time; None for as many as there is room for.
    resources: what a cell takes of a machine, by Ray's names: CPU, GPU, TPU or a cluster's own;
      by default 1 CPU, and 1 GPU or TPU where there are any.
    scheduler: which stops cells early.
    """

    address: str | None = None
    jobs: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    scheduler: Asha | None = None

    def __post_init__(self) -> None:
        at_least(self, 1, "jobs")
        check(
            not (self.address or "").startswith("ray://"),
            "the sweep reads its cells' folders: run it on a machine of the cluster, with "
            "--address=auto there",
        )

    def run(self, jobs: Sequence[Job], stop: StopRequest) -> None:
        over = {job.cell.name for job in jobs if self._is_over(job)}
        if len(over) == len(jobs):
            return
        with _connected(self._address):
            resources = self._resources()
            if resources.get("GPU", 1) < 1:
                shared = ({**SHARED, **job.environment} for job in jobs)
                jobs = [dataclasses.replace(j, environment=e) for j, e in zip(jobs, shared)]
            # Those that are over tell the scheduler what the others have to compare with.
            ordered = sorted(jobs, key=lambda job: job.cell.name not in over)
            if self.scheduler is None:
                ordered = [job for job in jobs if job.cell.name not in over]
            self._tune({job.cell.name: job for job in ordered}, over, resources, stop)
        for job in jobs:
            if not stop.requested and read_record(job.workdir)["state"] not in ENDS:
                note(job.workdir, state="failed", why="its worker was lost again and again")

    def _is_over(self, job: Job) -> bool:
        """Whether the cell has nothing to do: it is finished, or its scheduler stopped it."""
        record = read_record(job.workdir)
        behind = record["state"] == "stopped" and record.get("why") == FELL_BEHIND
        return record["state"] == "finished" or (behind and self.scheduler is not None)

    @property
    def _address(self) -> str:
        # Not whatever Ray somebody else has started on this machine.
        return self.address or os.environ.get("RAY_ADDRESS") or _HERE

    def _resources(self) -> dict[str, float]:
        """What a cell takes. Raises ConfigError where this machine never has it."""
        there = ray.cluster_resources()
        defaults = {"CPU": 1.0, **{name: 1.0 for name in ("GPU", "TPU") if there.get(name)}}
        wanted = {**defaults, **self.resources}
        for name, amount in wanted.items():
            if self._address == _HERE and amount > there.get(name, 0):
                raise ConfigError(
                    f"a cell takes {name}={amount:g}, and this machine has {there.get(name, 0):g}"
                )
        return wanted

    def _tune(
        self,
        jobs: Mapping[str, Job],
        over: Collection[str],
        resources: Mapping[str, float],
        stop: StopRequest,
    ) -> None:
        workdir = next(iter(jobs.values())).workdir.parent
        placed = tune.PlacementGroupFactory([{k: v for k, v in resources.items() if v}])
        trainable = tune.with_parameters(
            _Worker, jobs=dict(jobs), over=frozenset(over), asha=self.scheduler
        )
        (workdir / _STOP).unlink(missing_ok=True)
        halving = None if self.scheduler is None else _Halving(self.scheduler)
        tuner = tune.Tuner(
            tune.with_resources(trainable, placed),
            param_space={"cell": tune.grid_search(list(jobs))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=self.jobs,
                scheduler=halving,
                trial_dirname_creator=lambda trial: trial.config["cell"],
            ),
            run_config=tune.RunConfig(
                name=datetime.now().strftime("%Y-%m-%d_%H-%M-%S"),
                storage_path=str(workdir / STORAGE),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=_LOST_WORKERS),
                stop=_OnRequest(stop, workdir, list(jobs)),
                verbose=0,
            ),
        )
        tuner.fit()
        for name in halving.behind if halving is not None else ():
            # Still "running" where Tune, at its own end, did not wait for the run to save.
            if read_record(jobs[name].workdir)["state"] in ("running", "stopped"):
                note(jobs[name].workdir, state="stopped", why=FELL_BEHIND)


class _Worker(tune.Trainable):
    """The actor that has one cell run on its machine, and tells Tune of its evaluations."""

    def setup(
        self,
        config: dict[str, Any],
        jobs: Mapping[str, Job],
        over: Collection[str],
        asha: Asha | None,
    ) -> None:
        job = jobs[config["cell"]]
        # Ray gives its workers one thread each of numeric libraries, which may round differently.
        if "OMP_NUM_THREADS" not in job.environment:
            os.environ.pop("OMP_NUM_THREADS", None)
        self._job = job
        self._evaluations = Evaluations(job.workdir, None if asha is None else asha.metric)
        # A worker may be lost after its cell's end, too.
        finished = read_record(job.workdir)["state"] == "finished"
        self._stop = job.workdir.parent / _STOP
        idle = finished or job.cell.name in over or self._stop.exists()
        self._running = None if idle else Running(job)

    def step(self) -> dict[str, Any]:
        """Returns at a new evaluation, at the end, and now and then, so that it can be stopped."""
        until = time.monotonic() + _REPORT_EVERY
        while time.monotonic() < until:
            if self._running is not None and self._stop.exists():
                self.cleanup()
            ended = self._running is None or self._running.poll() is not None
            try:
                found = self._evaluations.next()
            except UserError as error:
                self.cleanup()
                note(self._job.workdir, state="failed", why=str(error))
                return {"done": True}
            if found is not None:
                return {"step": found[0], "value": found[1]}
            if ended:
                return {"done": True}
            time.sleep(_LOOK_EVERY)
        return {}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Nothing: the run has checkpoints of its own, and goes on from them."""
        return {}

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""

    def cleanup(self) -> None:
        """The run saves, and stops; nothing of it where it has ended."""
        if self._running is None:
            return
        self._running.stop()
        while self._running.poll() is None:
            time.sleep(_LOOK_EVERY)


class _OnRequest(Stopper):
    """Stops all, as soon as the sweep is asked to and its cells have saved: Tune itself would give
    them five seconds. The workers see a file, wherever they are."""

    def __init__(self, stop: StopRequest, workdir: Path, names: Sequence[str]) -> None:
        self._stop, self._workdir, self._names = stop, workdir, names
        self._asked: float | None = None

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if not self._stop.requested:
            return False
        if self._asked is None:
            self._asked = time.monotonic()
            (self._workdir / _STOP).touch()
        if time.monotonic() - self._asked > _SAVING_SECONDS:
            return True
        states = [read_record(self._workdir / name)["state"] for name in self._names]
        return "running" not in states


class _Halving(ASHAScheduler):
    """Tune's, that remembers which cells it stopped."""

    def __init__(self, settings: Asha) -> None:
        super().__init__(
            time_attr="step",
            metric="value",
            mode=settings.mode,
            grace_period=settings.grace,
            reduction_factor=settings.reduction,
            # No cell comes to it: what has trained to the end is to end by itself.
            max_t=2**40,
        )
        self.behind: set[str] = set()

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        action = super().on_trial_result(controller, trial, result)
        if action == TrialScheduler.STOP:
            self.behind.add(trial.config["cell"])
        return action


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """While Ray is there: the cluster at `address`, one of our own, or the one that our caller has
    connected to."""
    if ray.is_initialized():
        yield
        return
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in _HANDLED} if main else {}
    here = {"include_dashboard": False, "object_store_memory": _STORE} if address == _HERE else {}
    group = os.getpgrp()
    try:
        # What Ray starts gets a group of processes to itself: a signal to ours (from a terminal,
        # from timeout) is for us to act upon, and not to take Ray away from under its cells.
        with suppress(PermissionError):
            os.setpgid(0, 0)
        ray.init(address=address, log_to_driver=False, logging_level="warning", **here)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"Ray at --address={address} cannot be reached: {error}") from error
    finally:
        with suppress(PermissionError):
            os.setpgid(0, group)
    # Ray takes SIGTERM for itself, and would leave at once.
    for number, handler in handlers.items():
        signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()
