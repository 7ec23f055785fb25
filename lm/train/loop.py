"""The training loop: dispatch step n + 1, then log step n; checkpoint; evaluate; stop well.

After the first dispatch the loop never waits for the device: metrics are read one dispatch late,
batches are put on the device ahead of time, and a checkpoint is a copy on the device, written in
the background once the metrics up to it are on disk.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from lm import config as configs
from lm.config import Config
from lm.data.pipeline import Dataset
from lm.errors import EXIT_PREEMPTED, UserError
from lm.host import give_back_memory
from lm.train.checkpoint import Checkpoints
from lm.train.early_stopping import Stopper, ranking
from lm.train.evaluation import evaluate_all
from lm.train.metrics import MetricsWriter
from lm.train.plan import Plan
from lm.train.preemption import StopRequest
from lm.train.progress import Progress
from lm.train.snapshot import Snapshot
from lm.train.throughput import FlopsPerToken, peak_flops
from lm.train.trace import DATA
from lm.types import PyTree

if TYPE_CHECKING:
    from lm.train.samples import Sampler


@dataclass(frozen=True)
class Session:
    """All that a run needs once it is set up (see `lm.train.setup`)."""

    workdir: Path
    config: Config
    plan: Plan
    dataset: Dataset
    mapped: Any
    checkpoints: Checkpoints
    flops: FlopsPerToken
    stopper: Stopper
    sampler: Sampler | None = None


class _Pending(NamedTuple):
    """A dispatch whose metrics have not been read yet, and the state after it where that is to be
    saved once they have been."""

    first: int
    steps: int
    metrics: PyTree
    snapshot: Snapshot | None = None

    @property
    def last(self) -> int:
        return self.first + self.steps


def run(session: Session, state: PyTree, start: int, stop: StopRequest) -> int:
    """Trains from step `start` to the end of the plan, or to where it stops early, and returns the
    exit status.

    Raises:
      UserError: a loss or gradient that is not finite; a full disk.
    """
    stop.defer()
    writer = MetricsWriter(session.workdir, start) if jax.process_index() == 0 else None
    progress = Progress(session.plan.total_steps, start)
    try:
        step = _Loop(session, writer, progress).run(state, start, stop)
        if writer is not None:
            writer.flush()
        session.checkpoints.wait()
    finally:
        progress.close()
        if writer is not None:
            writer.close()
    if session.stopper.stopped:
        print(session.stopper.message(step), file=sys.stderr)
    elif step < session.plan.total_steps:
        print(
            f"stopped by {stop.signal_name}: saved at step {step} of {session.plan.total_steps}; "
            "the same command continues from there",
            file=sys.stderr,
        )
        return EXIT_PREEMPTED
    return 0


class _Loop:
    """The mutable part of a running loop: the clock, and what is still to be read or put."""

    def __init__(self, session: Session, writer: MetricsWriter | None, progress: Progress) -> None:
        self.session, self.writer, self.progress = session, writer, progress
        self._tokens_per_step = (
            session.config.train.batch_size * session.config.data.sequence_length
        )
        # Steps and seconds since the clock was last set; None until the first dispatch is done,
        # so that compilation does not count.
        self._clock: float | None = None
        self._timed_steps = 0
        self._peak_flops = float("nan")

    def run(self, state: PyTree, start: int, stop: StopRequest) -> int:
        plan, mapped = self.session.plan, self.session.mapped
        checkpoints = self.session.checkpoints
        batches = self._batches(start)
        pending: _Pending | None = None
        step = start
        if self.session.stopper.stopped:
            return step
        upcoming = self._next(batches) if step < plan.total_steps else None
        while step < plan.total_steps:
            first, count = step == start, plan.dispatch(step)
            state, metrics = mapped.train(state, upcoming)
            if not first and step + count < plan.total_steps:
                upcoming = self._next(batches)
            if pending is not None:
                self._finish(pending)
            pending = _Pending(step, count, metrics)
            step = pending.last
            if plan.evaluates(step) or stop.requested or self._saves_at_rest(step):
                self._finish(pending)
                pending = None
                if self._at_rest(state, step, stop):
                    break
            elif plan.saves(step):
                pending = pending._replace(snapshot=take_snapshot(self.session, state))
            if first and step < plan.total_steps:
                # At once, and not when the next one has been dispatched: whoever has started the
                # run waits for its first line.
                if pending is not None:
                    self._finish(pending)
                    pending = None
                self._after_the_first_line(state, step)
                upcoming = self._next(batches)
                self._clock, self._timed_steps = time.perf_counter(), 0
            checkpoints.check()
        return step

    def _after_the_first_line(self, state: PyTree, step: int) -> None:
        """What a run needs, but nobody has to wait for; the devices stand still."""
        mapped, checkpoints = self.session.mapped, self.session.checkpoints
        gc.enable()
        # What was imported and compiled for the first line, as after the first step.
        give_back_memory()
        # Before threads read ahead: what the machine can do while it does nothing else.
        self._peak_flops = peak_flops()
        if not self.session.plan.saves(step):
            checkpoints.prepare(mapped.to_save(state), mapped.params(state))

    def _next(self, batches: Iterator[dict[str, np.ndarray]]) -> Any:
        # Named in profiles: the device waits for nothing else here.
        with jax.profiler.TraceAnnotation(DATA):
            return self.session.mapped.put(next(batches))

    def _saves_at_rest(self, step: int) -> bool:
        """Whether a checkpoint is due that the next step would overwrite."""
        return self.session.plan.saves(step) and not self.session.checkpoints.in_background

    def _finish(self, pending: _Pending) -> None:
        """Reads a dispatch's metrics, and has the state after it saved where that is due."""
        self._record(pending)
        if pending.snapshot is not None:
            self._save(pending.last, pending.snapshot, {})

    def _save(self, step: int, snapshot: Snapshot, results: dict[str, dict[str, float]]) -> None:
        # The metrics first, which the disk may keep waiting: a checkpoint never is ahead of them.
        flush = None if self.writer is None else self.writer.flush
        save_checkpoint(self.session, snapshot, step, results, first=flush)

    def _batches(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches stacked by dispatch: arrays [K, B, ...]."""
        plan, step = self.session.plan, start
        rows = self.session.dataset.train_batches(
            start,
            self.session.config.train.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            # What reads ahead starts after the first line.
            at_once=plan.dispatch(step) if step < plan.total_steps else 0,
        )
        while step < plan.total_steps:
            group = [next(rows) for _ in range(plan.dispatch(step))]
            yield {name: np.stack([batch[name] for batch in group]) for name in group[0]}
            step += len(group)

    # ------------------------------------------------------------------------- reading the metrics

    def _record(self, pending: _Pending) -> None:
        """Waits for a dispatch, checks it, and writes its lines."""
        values = {
            name: np.asarray(column) for name, column in jax.device_get(pending.metrics).items()
        }
        rate = self._tick(pending.steps)
        for i in range(pending.steps):
            step = pending.first + i + 1
            line = {name: column[i] for name, column in values.items()}
            if not (np.isfinite(line["total_loss"]) and np.isfinite(line["gradient_norm"])):
                self._stop_not_finite(step, line)
            if self.writer is not None and self._logs(step):
                self.writer.write(step, "train", _tidy(line))
        if self.writer is not None and rate is not None and self._logs(pending.last):
            flops = self.session.flops
            share = rate / self._peak_flops
            self.writer.write_timing(
                pending.last,
                {
                    "tokens_per_second": round(rate, 1),
                    "mfu_palm": round(flops.palm * share, 4),
                    "mfu_causal": round(flops.causal * share, 4),
                },
            )
        loss = float(np.mean(values.get("loss", values["total_loss"])))
        self.progress.update(pending.steps, loss, rate)

    def _logs(self, step: int) -> bool:
        every = self.session.config.train.log_every
        return step == 1 or step % every == 0 or step == self.session.plan.total_steps

    def _tick(self, steps: int) -> float | None:
        """Tokens/s since the clock was set, over the last fifty or more steps; None before."""
        now = time.perf_counter()
        if self._clock is None:
            self._clock, self._timed_steps = now, 0
            return None
        self._timed_steps += steps
        rate = self._timed_steps * self._tokens_per_step / (now - self._clock)
        if self._timed_steps >= 50 and now - self._clock > 1.0:
            self._clock, self._timed_steps = now, 0
        return rate

    def _stop_not_finite(self, step: int, line: dict[str, Any]) -> None:
        session = self.session
        saved = session.workdir / f"not_finite_step_{step}.npz"
        batch = session.dataset.batch(step - 1, session.config.train.batch_size)
        np.savez(saved, allow_pickle=False, **batch)
        session.checkpoints.wait()
        good = session.checkpoints.steps()
        shown = ", ".join(f"{k}={float(v):g}" for k, v in _tidy(line).items())
        last = f"step {good[-1]}" if good else "none"
        raise UserError(
            f"step {step}: the loss or the gradient is not finite ({shown}); training stopped. "
            f"The last good checkpoint is {last}; the batch that did it is in {saved}. The same "
            "command would stop here again: a lower learning rate, more warm-up or clip_norm "
            "usually helps"
        )

    # ------------------------------------------------------------------- evaluating and saving

    def _at_rest(self, state: PyTree, step: int, stop: StopRequest) -> bool:
        """What is done between dispatches, with nothing in flight: evaluate, then save. True where
        the run is to stop here, saved."""
        results: dict[str, dict[str, float]] = {}
        best = False
        if self.session.plan.evaluates(step):
            results = self._evaluate(state, step)
            self._sample(state, step)
            best = self.session.stopper.see(step, results)
        # Read once, after what takes long: a later signal waits for the next dispatch.
        stopping = stop.requested or self.session.stopper.stopped
        if self.session.plan.saves(step) or stopping or best:
            self._save(step, take_snapshot(self.session, state), results)
        self._clock, self._timed_steps = time.perf_counter(), 0
        return stopping

    def _evaluate(self, state: PyTree, step: int) -> dict[str, dict[str, float]]:
        session = self.session
        settings, objective = session.config.evaluation, session.config.objective
        assert objective is not None
        rows = settings.batch_size
        results = evaluate_all(
            session.mapped,
            session.mapped.params(state),
            session.dataset,
            batch_size=session.config.train.batch_size if rows is None else rows,
            limit=settings.batches,
            ratios=objective.ratios,
        )
        for name, metrics in results.items():
            shown = ", ".join(f"{k} {v:.4f}" for k, v in metrics.items() if k != "tokens")
            if not np.isfinite(list(metrics.values())).all():
                raise UserError(f"step {step}: the evaluation on {name} is not finite: {shown}")
            if self.writer is not None:
                self.writer.write(step, name, metrics)
            self.progress.note(f"step {step}: {name}: {shown}")
        return results

    def _sample(self, state: PyTree, step: int) -> None:
        mapped, sampler = self.session.mapped, self.session.sampler
        if sampler is not None and self.writer is not None:
            params = mapped.params(mapped.to_save(state))
            self.writer.write_samples(step, sampler.take(params, step))


def take_snapshot(session: Session, state: PyTree) -> Snapshot:
    """What `save_checkpoint` saves of a state."""
    mapped = session.mapped
    return session.checkpoints.snapshot(mapped.to_save(state), mapped.params(state))


def save_checkpoint(
    session: Session,
    snapshot: Snapshot,
    step: int,
    results: dict[str, dict[str, float]],
    first: Callable[[], None] | None = None,
) -> None:
    """Starts writing the checkpoint of `step`, with its evaluation `results` where there are any,
    when `first` is done.

    Raises:
      UserError: as `Checkpoints.save`, and `Mapped.settle`.
    """
    session.mapped.settle()
    session.checkpoints.save(
        step,
        snapshot,
        data=data_position(session.config, session.dataset, step),
        meta={
            "config": configs.fingerprint(session.config),
            "evaluation": results,
            "early_stopping": session.stopper.state(),
        },
        metrics=ranking(session.config).metrics(results),
        first=first,
    )


def data_position(config: Config, dataset: Dataset, step: int) -> dict[str, Any]:
    """Where the data stands before `step`: batches are a function of (seed, step) alone."""
    return {
        "next_step": step,
        "rows_read": step * config.train.batch_size,
        "seed": config.seed,
        "fingerprint": dataset.fingerprint,
        "validation": dict(dataset.validation_fingerprints),
    }


def _tidy(line: dict[str, Any]) -> dict[str, Any]:
    """Without the total where it only repeats the loss."""
    if "loss" in line and line["loss"] == line["total_loss"]:
        return {name: value for name, value in line.items() if name != "total_loss"}
    return line
