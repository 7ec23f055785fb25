"""The whole of `lm train`, held at the borders of rounds; and the bare jitted step."""

from __future__ import annotations

import dataclasses
import queue
import statistics
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax

from lm.config import Config, from_dict
from lm.objectives import build_objective
from lm.parallel.mapping import build_mapping
from lm.train import setup
from lm.train.loop import Session
from lm.train.metrics import read_jsonl
from lm.train.plan import durations
from lm.train.throughput import flops_per_token
from lm.train.workdir import METRICS
from lm.types import Batch, Metrics, PyTree


class Gate:
    """A mapping that lets the loop run from border to border and measures what lies between, but
    for the first `lead` steps (see `TrainShape`).

    The first border is before the dispatch that begins at step `warmup`, and there is one every
    `lead + round_steps` after it. There the device finishes its work, still in the round; a
    checkpoint that is still being written is waited for outside it, as nobody who trains waits for
    it.
    """

    def __init__(self, session: Session, warmup: int, round_steps: int, lead: int) -> None:
        self._mapped, self._checkpoints, self._plan = (
            session.mapped, session.checkpoints, session.plan
        )  # fmt: skip
        self._border, self._round_steps, self._lead = warmup, round_steps, lead
        self._step = self._start = 0
        self._began = time.perf_counter()
        # Of every round: how much longer a checkpoint took to write than the round, and how much
        # longer the round took than if all its dispatches had taken as long as the median one.
        self.overtime: list[float] = []
        self.excess: list[float] = []
        self._dispatches = [self._began]
        self.arrived: queue.Queue[float | BaseException] = queue.Queue()
        self.go: queue.Queue[None] = queue.Queue()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mapped, name)

    def train(self, state: PyTree, batches: Batch) -> tuple[PyTree, Metrics]:
        if self._step == self._border:
            jax.block_until_ready(state)
            seconds = time.perf_counter() - self._began
            self._dispatches[-1] = self._began + seconds
            self.excess.append(excess(self._dispatches))
            self._checkpoints.wait()
            self.overtime.append(time.perf_counter() - self._began - seconds)
            self.arrived.put(seconds)
            self.go.get()
            self._start = self._step + self._lead
            self._border = self._start + self._round_steps
        if self._step == self._start:
            jax.block_until_ready(state)
            self._began = time.perf_counter()
            self._dispatches = [self._began]
        self._dispatches.append(time.perf_counter())
        self._step += self._plan.dispatch(self._step)
        return self._mapped.train(state, batches)


def excess(times: Sequence[float]) -> float:
    """Of the times at which a round began, made its dispatches but the last, and ended: how much
    longer it took than that many of its median dispatch. The loop is one dispatch ahead, so the
    first ones follow at once and the end comes late: the median is of those between."""
    lasted = [end - begin for begin, end in pairwise(times)]
    return sum(lasted) - len(lasted) * statistics.median(lasted[2:-1] or lasted)


class Saves:
    """Checkpoints that remember how long the loop stood still for each, in all its calls."""

    def __init__(self, checkpoints: Any) -> None:
        self._checkpoints = checkpoints
        self._copying = 0.0
        self.seconds: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._checkpoints, name)

    def snapshot(self, state: PyTree, params: PyTree) -> Any:
        began = time.perf_counter()
        found = self._checkpoints.snapshot(state, params)
        self._copying = time.perf_counter() - began
        return found

    def save(self, *arguments: Any, **values: Any) -> None:
        began = time.perf_counter()
        self._checkpoints.save(*arguments, **values)
        self.seconds.append(self._copying + time.perf_counter() - began)


class Loop:
    """A live run of `lm train`: data, metrics, logging and checkpoints as ever."""

    def __init__(
        self,
        config: dict[str, Any],
        data_root: str,
        cache_dir: str,
        workdir: str,
        warmup: int,
        round_steps: int,
        lead: int = 0,
    ) -> None:
        self._config = from_dict(Config, config)
        self._data_root, self._cache_dir = Path(data_root), Path(cache_dir)
        self._workdir = Path(workdir)
        self._warmup, self._round_steps, self._lead = warmup, round_steps, lead
        self._gates: queue.Queue[Gate | BaseException] = queue.Queue()

    def prepare(self) -> dict[str, Any]:
        threading.Thread(target=self._train, daemon=True).start()
        _get(self._gates)
        warmup = _get(self._gate.arrived)
        flops, tokens = self._session.flops, _tokens_per_step(self._config)
        return {
            "units": self._round_steps,
            "tokens_per_unit": tokens,
            "flops_per_unit": {"palm": flops.palm * tokens, "causal": flops.causal * tokens},
            "devices": self._session.mapped.devices,
            "steps_per_dispatch": self._session.plan.group,
            "warmup_seconds": warmup,
        }

    def round(self) -> float:
        self._gate.go.put(None)
        return _get(self._gate.arrived)

    def finish(self) -> dict[str, Any]:
        rows = read_jsonl(self._workdir / METRICS)
        return {
            "losses": {str(row["step"]): row["loss"] for row in rows},
            "save_seconds": self._saves.seconds,
            "overtime_seconds": self._gate.overtime[1:],
            "excess_seconds": self._gate.excess[1:],
            **device_memory(),
        }

    def _train(self) -> None:
        try:
            setup.train(
                self._config,
                self._workdir,
                data_root=self._data_root,
                cache_dir=self._cache_dir,
                command=["lm", "bench"],
                around=self._around,
            )
            raise RuntimeError("the run ended before the rounds did")
        # Whatever it is, the other thread waits for it.
        except BaseException as error:
            self._gates.put(error)
            if hasattr(self, "_gate"):
                self._gate.arrived.put(error)

    def _around(self, session: Session) -> Session:
        self._saves = Saves(session.checkpoints)
        session = dataclasses.replace(session, checkpoints=self._saves)  # type: ignore[arg-type]
        gate = Gate(session, self._warmup, self._round_steps, self._lead)
        self._session = dataclasses.replace(session, mapped=gate)
        # First: an error after this is looked for there.
        self._gate = gate
        self._gates.put(gate)
        return self._session


class BareStep:
    """The same jitted step and mapping on batches that lie on the devices: no loop around it, no
    data, no metrics read, nothing logged or saved."""

    def __init__(
        self,
        config: dict[str, Any],
        data_root: str,
        cache_dir: str,
        warmup: int,
        round_steps: int,
        lead: int,
    ) -> None:
        self._config = from_dict(Config, config)
        self._places = Path(data_root), Path(cache_dir)
        self._warmup, self._round_steps, self._lead = warmup, round_steps, lead

    def prepare(self) -> dict[str, Any]:
        config = self._config
        assert config.objective is not None
        objective = build_objective(config.objective, config.model)
        dataset = setup.open_dataset(config, objective, *self._places, None)
        rows, group = config.train.batch_size, config.train.steps_per_dispatch
        in_steps = durations(config, dataset.rows_per_epoch)
        program = setup.build_program(
            config, objective, dataset.batch(0, rows), in_steps, in_steps(config.train.duration)
        )
        mapped = build_mapping(config.parallel, program, batch_size=rows)
        self._mapped, self._group = mapped, group
        batches = [dataset.batch(step, rows) for step in range(2 * group)]
        self._batches = [
            mapped.put(stacked(batches[:group])), mapped.put(stacked(batches[group:]))
        ]  # fmt: skip
        self._state = mapped.init()
        self._run(self._warmup)
        tokens = _tokens_per_step(config)
        params = mapped.abstract().params
        flops = flops_per_token(config.model, params, config.data.sequence_length)
        return {
            "units": self._round_steps,
            "tokens_per_unit": tokens,
            "flops_per_unit": {"palm": flops.palm * tokens, "causal": flops.causal * tokens},
            "devices": mapped.devices,
            "steps_per_dispatch": group,
        }

    def round(self) -> float:
        self._run(self._lead)
        began = time.perf_counter()
        self._run(self._round_steps)
        return time.perf_counter() - began

    def finish(self) -> dict[str, Any]:
        return device_memory()

    def _run(self, steps: int) -> None:
        metrics: Metrics | None = None
        for dispatch in range(steps // self._group):
            self._state, metrics = self._mapped.train(self._state, self._batches[dispatch % 2])
        jax.block_until_ready((self._state, metrics))


def stacked(batches: list[Any]) -> Any:
    """Batches [B, ...] as one [K, B, ...]."""
    import numpy as np

    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def device_memory() -> dict[str, int]:
    """The most bytes in use on an accelerator; {} on a CPU, whose memory is the process's."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.devices()]
    known = [peak for peak in peaks if peak is not None]
    return {"peak_device_memory": max(known)} if known else {}


def _tokens_per_step(config: Config) -> int:
    return config.train.batch_size * config.data.sequence_length


def _get(channel: queue.Queue[Any]) -> Any:
    """The next thing; raised if it is an error."""
    found = channel.get()
    if isinstance(found, BaseException):
        raise found
    return found
