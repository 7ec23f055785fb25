"""A few steps of a run under JAX's profiler: what they spend their time on, as a table and a file.

`Profile` stands around what the training loop works with (see `around` of `lm.train.setup.train`);
the loop itself knows nothing of it, and the run's numbers do not change. The steps themselves take
somewhat longer while they are traced (on a CPU, up to a tenth). How time is accounted is said in
`lm.train.trace`.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from lm.errors import ConfigError
from lm.train.loop import Session
from lm.train.plan import Plan
from lm.train.profile_summary import summarise, table
from lm.train.trace import WINDOW
from lm.train.workdir import write_json
from lm.types import Batch, Metrics, PyTree

FLAG = "--profile_steps"
FOLDER, SUMMARY = "profile", "summary.json"


class Profile:
    """Profiles the steps that `--profile_steps` names, once, in the first of several processes.

    Args:
      steps: "A:B" are the steps after step A up to step B; "N" are N steps after a warm-up.

    Raises:
      ConfigError: it is neither.
    """

    def __init__(self, steps: str) -> None:
        found = re.fullmatch(r"(?:(\d+):)?(\d+)", steps)
        if not found:
            raise ConfigError(
                f"{FLAG}={steps}: write A:B for the steps after step A up to step B, or N for N "
                "steps after the run has warmed up"
            )
        self._text = steps
        self._from = int(found[1]) if found[1] else None
        self._number = int(found[2])
        # Steps done; known from the first state on.
        self._step = -1
        self._running = False
        self._done = False

    def around(self, session: Session) -> Session:
        """The session with this as its mapping.

        Raises:
          ConfigError: the run does not come to these steps, or has passed them.
        """
        saved = session.checkpoints.steps()
        self._plan, self._mapped = session.plan, session.mapped
        self._begin, self._end = self._range(saved[-1] if saved else 0)
        self._workdir = session.workdir
        if jax.process_index() != 0:
            return session
        return dataclasses.replace(session, mapped=self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_mapped"], name)

    def train(self, state: PyTree, batches: Batch) -> tuple[PyTree, Metrics]:
        """The mapping's `train`, traced where it is one of the steps to profile."""
        if self._step < 0:
            self._step = int(np.asarray(jax.device_get(state.step)).flat[0])
        if self._step >= self._begin and not (self._running or self._done):
            self._start(state, batches)
        state, metrics = self._mapped.train(state, batches)
        self._step += self._plan.dispatch(self._step)
        if self._running and self._step >= self._end:
            jax.block_until_ready((state, metrics))
            self._finish()
        return state, metrics

    def close(self) -> None:
        """Stops a trace that the run's end cut short, and says that there is no table."""
        if self._running:
            self._running = False
            self._window.__exit__(None, None, None)
            jax.profiler.stop_trace()
            _note(f"{FLAG}={self._text}: the run ended at step {self._step}: no table")

    # ---------------------------------------------------------------------------- which steps

    def _range(self, start: int) -> tuple[int, int]:
        """The steps of whole dispatches, for a run that goes on from `start`."""
        plan, asked = self._plan, f"{FLAG}={self._text}"
        total, group = plan.total_steps, plan.group
        if self._from is None:
            # Programs are compiled by then, memory is allocated, data is read ahead.
            begin = start + max(2 * group, 5)
            end = begin + self._number
            fits = f"they would be steps {begin} to {end}, but "
        else:
            begin, end, fits = self._from, self._number, ""
        if end <= begin:
            raise ConfigError(f"{asked}: there is no step in it; the second number is the larger")
        if start >= total:
            raise ConfigError(
                f"{asked}: the run is finished, at step {start}; a longer train.duration "
                "continues it, another --workdir starts anew"
            )
        if end > total:
            raise ConfigError(
                f"{asked}: {fits}the run ends at step {total}: ask for steps before that, or "
                "make train.duration longer"
            )
        if begin < start:
            raise ConfigError(
                f"{asked}: the run goes on from step {start}, these are done: ask for later ones, "
                f"{FLAG}={end - begin} for the next ones, or start in a new --workdir"
            )
        whole = max(start, begin // group * group), min(total, -(-end // group) * group)
        _check_dispatches(plan, whole, asked)
        if whole != (begin, end):
            _note(
                f"{asked}: profiling steps {whole[0]} to {whole[1]}: {group} steps are one "
                "dispatch, which is profiled as a whole"
            )
        if any(plan.evaluates(s) or plan.saves(s) for s in range(whole[0] + 1, whole[1])):
            _note(f"{asked}: an evaluation or a checkpoint is among these steps, and in the times")
        return whole

    # ------------------------------------------------------------------------------- the trace

    def _start(self, state: PyTree, batches: Batch) -> None:
        """Begins the trace, with nothing in flight and the step compiled."""
        self._program = self._mapped.compiled_text(state, batches)
        # What else would trace programs beside the steps.
        self._mapped.settle()
        jax.block_until_ready(state)
        options = jax.profiler.ProfileOptions()
        # Python's own calls would slow it down and drown the rest.
        options.python_tracer_level = 0
        jax.profiler.start_trace(self._workdir / FOLDER, profiler_options=options)
        self._window = jax.profiler.TraceAnnotation(WINDOW)
        self._window.__enter__()
        self._running, self._first = True, self._step

    def _finish(self) -> None:
        """Ends the trace, writes the summary, prints the table."""
        self._running, self._done = False, True
        self._window.__exit__(None, None, None)
        folder = self._workdir / FOLDER
        # A run goes on without a table that cannot be made.
        try:
            jax.profiler.stop_trace()
            path = max(folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
            values = summarise(path, self._program, self._first, self._step)
            values["trace"] = str(path.relative_to(self._workdir))
            write_json(folder / SUMMARY, values)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            reason = str(error) if isinstance(error, ValueError) else repr(error)
            _note(f"{FLAG}={self._text}: no table: {reason}")
            return
        _note(f"{table(values)}\nwritten to {folder / SUMMARY}; the trace: {path}")


def _check_dispatches(plan: Plan, whole: tuple[int, int], asked: str) -> None:
    """Refuses dispatches of several sizes: each is another program, compiled while it is traced."""
    step, end = whole
    first = plan.dispatch(step)
    while step < end:
        if plan.dispatch(step) != first:
            raise ConfigError(
                f"{asked}: the dispatch after step {step} has {plan.dispatch(step)} steps, the "
                f"ones before have {first}, and compiling it would be in the profile: ask for "
                f"steps up to {step}, or from there on"
            )
        step += first


def _note(text: str) -> None:
    """Prints to stderr, above a progress bar where there is one."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()
