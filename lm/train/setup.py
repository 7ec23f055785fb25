"""From a config to a running loop: data, model, optimiser, devices, and where to start."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from lm.config import Config, TaskBase
from lm.data.examples import prepare_examples
from lm.data.functions import prepare_functions
from lm.data.pipeline import Dataset, prepare_dataset
from lm.data.tokenizer import Tokenizer, load_tokenizer
from lm.errors import ConfigError, UserError, did_you_mean
from lm.objectives import build_objective
from lm.objectives.adapted import Adapted
from lm.objectives.base import ExampleObjective, Objective, TextObjective
from lm.objectives.in_context import InContextRegressionObjective
from lm.parallel.kept import Kept
from lm.parallel.mapping import Program, build_mapping
from lm.train import loop
from lm.train.checkpoint import Checkpoints
from lm.train.early_stopping import Stopper, kept, metric_names, ranking
from lm.train.metrics import read_jsonl
from lm.train.optimizer import build_optimizer, frozen, learning_rate
from lm.train.plan import InSteps, durations, make_plan
from lm.train.plot import plot_loss
from lm.train.preemption import StopRequest
from lm.train.restoring import Restored
from lm.train.state import TrainState, boxed_params, create_state
from lm.train.step import evaluate_step, multi_step, train_step
from lm.train.throughput import flops_per_token
from lm.train.warm_start import warm_started
from lm.train.workdir import (
    CHECKPOINTS,
    METRICS,
    TOKENIZER,
    begun,
    check_config,
    check_not_converted,
    locked,
    write_config,
    write_manifest,
)
from lm.types import Batch, Params, PyTree


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def open_dataset(
    config: Config,
    objective: Objective,
    data_root: Path,
    cache_dir: Path,
    tokenizer: Tokenizer | None,
) -> Dataset:
    """The run's data; `tokenizer` is the one of a run that has begun, None builds it."""
    if isinstance(objective, ExampleObjective):
        assert isinstance(config.objective, TaskBase)
        return prepare_examples(
            config.data,
            vocab_size=config.model.vocab_size,
            roles=config.objective.roles,
            make_rows=lambda tokenizer, training: objective.example_maker(
                tokenizer, config.data, training
            ),
            seed=config.seed,
            data_root=data_root,
            cache_dir=cache_dir,
            tokenizer=tokenizer,
        )
    if isinstance(objective, InContextRegressionObjective):
        return prepare_functions(config.data, seed=config.seed, tokenizer=tokenizer)
    assert isinstance(objective, TextObjective)
    return prepare_dataset(
        config.data,
        vocab_size=config.model.vocab_size,
        make_rows=lambda tokenizer: objective.row_maker(tokenizer, config.data.sequence_length),
        seed=config.seed,
        data_root=data_root,
        cache_dir=cache_dir,
        tokenizer=tokenizer,
    )


def train(
    config: Config,
    workdir: Path,
    *,
    data_root: Path,
    cache_dir: Path,
    command: list[str],
    around: Callable[[loop.Session], loop.Session] = lambda session: session,
    programs: Kept | None = None,
) -> int:
    """Trains, or goes on training, the run in `workdir`; returns the exit status. `around` puts
    something around what the loop works with: a benchmark its clock. `programs` are the compiled
    ones of earlier starts, to be given by a process that runs nothing but the code on disk.

    Raises:
      UserError: bad data, a damaged workdir, a full disk, a loss that is not finite.
      ConfigError: a config that cannot be meant, or another one than the run began with.
    """
    workdir = workdir.expanduser().absolute()
    check_not_converted(workdir)
    if config.objective is None:
        raise ConfigError("objective is None: it says what is learned, so set config.objective")
    with locked(workdir), StopRequest() as stop, contextlib.ExitStack() as at_the_end:
        tokenizer = None
        if begun(workdir):
            check_config(workdir, config, note)
            tokenizer = load_tokenizer(workdir / TOKENIZER)
        objective = build_objective(config.objective, config.model)
        dataset = open_dataset(config, objective, data_root, cache_dir, tokenizer)
        # Tracing makes much and leaves no garbage worth the half second of looking for it; the
        # loop turns this on again after its first step.
        gc.disable()
        at_the_end.callback(gc.enable)
        session = around(_session(config, workdir, objective, dataset, programs))
        at_the_end.enter_context(_suspicious(session))
        # Everything that can be wrong with the config or the data has been by now.
        write_config(workdir, config)
        if tokenizer is None:
            dataset.tokenizer.save(workdir / TOKENIZER)
        state, start, origin = starting_point(session, note)
        write_manifest(
            workdir,
            data={
                "fingerprint": dataset.fingerprint,
                "validation_fingerprints": dict(dataset.validation_fingerprints),
                **dataset.report,
            },
            data_root=data_root,
            command=command,
            from_step=start,
            **origin,
        )
        if start >= session.plan.total_steps and not session.stopper.stopped:
            note(
                f"{workdir} is finished: step {start} of {session.plan.total_steps}; a longer "
                "train.duration continues it, another --workdir starts anew"
            )
        status = loop.run(session, state, start, stop)
        session.checkpoints.close()
        if jax.process_index() == 0:
            _draw(workdir)
        return status


@contextlib.contextmanager
def _suspicious(session: loop.Session) -> Iterator[None]:
    """Whatever fails may be the work of a kept program that has not been proven yet."""
    try:
        yield
    except Exception:
        session.mapped.distrust()
        raise


def _draw(workdir: Path) -> None:
    try:
        picture = plot_loss(workdir)
    except OSError as error:
        note(f"the loss curve could not be drawn: {error}")
    else:
        if picture is not None:
            note(f"loss curve: {picture}")


def _session(
    config: Config,
    workdir: Path,
    objective: Objective,
    dataset: Dataset,
    programs: Kept | None = None,
) -> loop.Session:
    in_steps = durations(config, dataset.rows_per_epoch)
    plan = make_plan(config, in_steps)
    batch = dataset.batch(0, config.train.batch_size)
    program = build_program(config, objective, batch, in_steps, plan.total_steps)
    if programs is not None:
        programs.details = [dataset.fingerprint, dataset.rows_per_epoch, plan.total_steps]
    mapped = build_mapping(
        config.parallel,
        program,
        batch_size=config.train.batch_size,
        microbatches=config.train.microbatches,
        kept=programs,
    )
    sampler = None
    if config.evaluation.samples is not None:
        # All of generation: nothing for a start to wait for where it is not asked for.
        from lm.train.samples import Sampler

        sampler = Sampler(config, objective, dataset.tokenizer)
    params = mapped.abstract().params
    _check_evaluation(config, program, params, batch, mapped.devices)
    _check_split(config, params)
    return loop.Session(
        workdir=workdir,
        config=config,
        plan=plan,
        dataset=dataset,
        mapped=mapped,
        checkpoints=Checkpoints(workdir / CHECKPOINTS, kept(config), note),
        flops=flops_per_token(
            config.model,
            params,
            config.data.sequence_length,
            frozen(config.optimizer, params, config.train.lora),
        ),
        stopper=Stopper(config),
        sampler=sampler,
    )


def _check_evaluation(
    config: Config, program: Program, params: Params, batch: Batch, devices: int
) -> None:
    """What would otherwise fail at the first evaluation, hours in."""
    rows = config.evaluation.batch_size
    if config.data.validation and rows is not None and rows % devices:
        raise ConfigError(f"evaluation.batch_size={rows} is not divisible by {devices} devices")
    if kept(config).keep_best:
        metric = ranking(config).metric
        evaluate = partial(program.evaluate, reduce=lambda tree: tree)
        known = metric_names(list(jax.eval_shape(evaluate, params, batch)), config)
        if metric not in known:
            early = config.evaluation.early_stopping is not None
            place = "evaluation.early_stopping" if early else "checkpoint"
            raise ConfigError(
                f"{place}.metric={metric!r} is not a metric of the evaluation"
                f"{did_you_mean(metric, known)}"
            )


def _check_split(config: Config, params: Params) -> None:
    """Refuses an fsdp axis that would split nothing and save no memory."""
    axes = {axis for leaf in jax.tree.leaves(params) for axis in leaf.sharding.spec}
    if config.parallel.fsdp > 1 and "fsdp" not in axes:
        raise ConfigError(
            f"parallel.fsdp={config.parallel.fsdp} splits no parameter: "
            f"d_model={config.model.d_model} is not divisible by it"
        )


def build_program(
    config: Config, objective: Objective, batch: Batch, in_steps: InSteps, total_steps: int
) -> Program:
    """The pure functions of a run; of `batch` only the shapes matter."""
    if config.train.lora is not None:
        objective = Adapted(objective, config.train.lora)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(batch))

    def boxed() -> PyTree:
        return boxed_params(objective, zeros_like(shapes), config.seed)

    params = nn.meta.unbox(jax.eval_shape(boxed))
    optimizer = build_optimizer(
        config.optimizer,
        total_steps=total_steps,
        in_steps=in_steps,
        params=params,
        lora=config.train.lora,
    )
    still = frozen(config.optimizer, params, config.train.lora)
    schedule = learning_rate(config.optimizer, total_steps=total_steps, in_steps=in_steps)
    ema_decay = config.train.ema_decay

    def init() -> TrainState:
        return create_state(
            objective, optimizer, zeros_like(shapes), config.seed, ema=ema_decay is not None
        )

    def train(state: TrainState, batches: Batch, *, reduce: Any, device: Any) -> Any:
        step = partial(
            train_step,
            objective=objective,
            optimizer=optimizer,
            microbatches=config.train.microbatches,
            reduce=reduce,
            device=device,
            ema_decay=ema_decay,
            learning_rate=schedule,
            frozen=still if any(jax.tree.leaves(still)) else None,
        )
        return multi_step(step)(state, batches)

    return Program(init, boxed, train, partial(evaluate_step, objective=objective))


def zeros_like(shapes: PyTree) -> PyTree:
    return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)


def starting_point(
    session: loop.Session, report: Callable[[str], None]
) -> tuple[TrainState, int, dict[str, Any]]:
    """Where training starts, in this order: 1. resume, 2. warm start, 3. from scratch.

    Returns the state, its step, and what the manifest should say of it.
    """
    mapped, config = session.mapped, session.config
    restored = session.checkpoints.restore(mapped.abstract())
    if restored is not None:
        _check_same_data(session, restored)
        report(f"resuming from step {restored.step}")
        session.stopper.restore(restored.meta.get("early_stopping"))
        if not session.stopper.stopped:
            _prepare(session, restored.step)
        return mapped.from_saved(restored.state), restored.step, {}
    dropped = len(read_jsonl(session.workdir / METRICS))
    if dropped:
        report(
            "there is no checkpoint yet: starting from the beginning, without the "
            f"{dropped} lines of {METRICS}"
        )
    _prepare(session, 0)
    state = mapped.init()
    if config.train.warm_start is None:
        return state, 0, {}
    state, origin = warm_started(mapped.to_save(state), config, report)
    state = mapped.from_saved(state)
    # The source may go on training: from here on the run depends on its own folder alone.
    loop.save_checkpoint(session, loop.take_snapshot(session, state), 0, {})
    session.checkpoints.wait()
    return state, 0, {"warm_start": origin}


def _prepare(session: loop.Session, start: int) -> None:
    """Has the steps compiled while the state is made and the first batches are read."""
    plan, rows = session.plan, session.config.train.batch_size
    if start >= plan.total_steps:
        return
    count = plan.dispatch(start)
    batch = session.dataset.batch(0, rows)
    session.mapped.prepare(
        {k: jax.ShapeDtypeStruct((count, *x.shape), x.dtype) for k, x in batch.items()}
    )


def _check_same_data(session: loop.Session, restored: Restored) -> None:
    now = loop.data_position(session.config, session.dataset, restored.step)
    for what, key in (("training", "fingerprint"), ("validation", "validation")):
        if restored.data[key] != now[key]:
            raise UserError(
                f"the {what} data changed since the run in {session.workdir} began (fingerprint "
                f"{restored.data[key]}, now {now[key]}): restore the files, or start in a new "
                "--workdir"
            )
