"""A run that begins with the parameters of another: all of them, or all but the heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lm.config import Config, TaskBase
from lm.errors import ConfigError
from lm.model.heads import head_modules
from lm.model.lora import rebased, without_adapters
from lm.train.digest import tree_digest
from lm.train.restoring import named_shapes
from lm.train.state import TrainState
from lm.train.workdir import load_params, model_params, read_config
from lm.types import Params


def warm_started(
    state: TrainState, config: Config, report: Callable[[str], None]
) -> tuple[TrainState, dict[str, Any]]:
    """`state` with the parameters of `train.warm_start`, on which the optimiser starts afresh; and
    what the manifest should say of them.

    A task takes what both models have: heads of the source that it does not use are left out, and
    its own that the source lacks (or has for other labels) keep their initial values; `report` says
    which. Anything else needs all parameters.

    Raises:
      ConfigError: the source is of another model; it names the first parameters that differ.
      UserError: no sound checkpoint there.
    """
    assert config.train.warm_start is not None
    source = Path(config.train.warm_start).expanduser().absolute()
    found = load_params(source, report=report)
    report(f"warm start: parameters of {source}, step {found.step}")
    params = found.state
    if config.objective is not None and not config.objective.MODEL:
        # Of several models that an objective trained, the one that is used.
        params = model_params(read_config(source), params)
    state, new = _with_params(state, params, config, report)
    origin = {"workdir": str(source), "step": found.step, "params_digest": tree_digest(params)}
    return state, origin | ({"new": new} if new else {})


def _with_params(
    state: TrainState, params: Params, config: Config, report: Callable[[str], None]
) -> tuple[TrainState, list[str]]:
    """The state, and the modules that keep their initial values."""
    wanted, given = named_shapes(without_adapters(state.params)), named_shapes(params)
    wrong = [name for name in sorted({*wanted, *given}) if wanted.get(name) != given.get(name)]
    heads = head_modules() if isinstance(config.objective, TaskBase) else frozenset()
    of_body = [name for name in wrong if name.split("/")[0] not in heads]
    if of_body:
        lines = [
            f"  {name}: warm start {given.get(name, 'absent')}, config {wanted.get(name, 'absent')}"
            for name in of_body[:5]
        ]
        raise ConfigError(
            f"train.warm_start={config.train.warm_start} is of another model; the first of "
            f"{len(of_body)} parameters that differ:\n" + "\n".join(lines)
        )
    # A module is taken whole: a kernel for other labels brings no bias along.
    new = _modules(name for name in wrong if name in wanted)
    unused = _modules(name for name in wrong if name not in wanted)
    if new:
        report(f"warm start: new, with initial values: {', '.join(new)}")
    if unused:
        report(f"warm start: left out, of no use to the task: {', '.join(unused)}")
    taken = {name: value for name, value in params.items() if name not in (*new, *unused)}

    def started(old: Params) -> Params:
        base = without_adapters(old)
        placed = jax.tree.map(_place, taken, {name: base[name] for name in taken})
        return rebased(old, {**base, **placed})

    ema = None if state.ema is None else started(state.ema)
    return dataclasses.replace(state, params=started(state.params), ema=ema), new


def _modules(names: Iterable[str]) -> list[str]:
    return sorted({name.split("/")[0] for name in names})


def _place(new: Any, old: jax.Array) -> jax.Array:
    return jax.device_put(np.asarray(new).astype(old.dtype), old.sharding)
