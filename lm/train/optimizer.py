"""Optimisers, assembled from optax, with decay, freezing and learning-rate factors by rules.

Every optimiser is the same chain: measure and clip the global gradient norm, precondition, decay
the weights, scale by the learning rate. Which of these apply to a parameter is said by the first
`ParameterRule` whose pattern matches its path.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import scale_by_muon

from lm.config import (
    DEFAULT_RULES,
    SGD,
    Adafactor,
    Adam,
    AdamW,
    Duration,
    Lion,
    LoRA,
    Muon,
    OptimizerConfig,
    ParameterRule,
)
from lm.errors import ConfigError
from lm.model.lora import freezes
from lm.train.factored import multiply, scale_by_factored_rms
from lm.train.layer_decay import layer_factors
from lm.train.matrices import is_layer_matrix, muon_dimensions, muon_factor, of_matrices
from lm.train.paths import map_with_path, name_of
from lm.train.schedule import ScheduleFn, build_schedule
from lm.types import PyTree

_LISTED = 5


def learning_rate(
    config: OptimizerConfig, *, total_steps: int, in_steps: Callable[[Duration], int]
) -> ScheduleFn:
    """The learning rate of an optimiser step, before the rules' factors; what metrics report.

    Muon's is the one of the matrices; the rest has the same schedule below `adam_learning_rate`.
    """
    return build_schedule(
        config.schedule, peak=config.learning_rate, total_steps=total_steps, in_steps=in_steps
    )


def build_optimizer(
    config: OptimizerConfig,
    *,
    total_steps: int,
    in_steps: Callable[[Duration], int],
    params: PyTree,
    lora: LoRA | None = None,
) -> optax.GradientTransformation:
    """The optimiser of a config for parameters with the paths (and ranks) of `params`.

    Frozen parameters have an update of exactly 0 and no moments. The norm of the trainable
    gradients before clipping is left in the state, where `gradient_norm` finds it. Weight decay is
    decoupled and scaled by the learning rate, except for Adam and SGD, which add
    weight_decay * parameter to the clipped gradient (L2).

    Args:
      params: the parameters or their shapes, without logical axis boxes.
      lora: the adapters among them.

    Raises:
      ConfigError: a parameter that no rule matches, a rule that decides no parameter (rules of
        DEFAULT_RULES excepted), nothing left to train, or a schedule longer than the training.
    """
    rules = _decided(config, params, lora)
    if all(rule.frozen for rule in rules.values()):
        raise ConfigError("optimizer.rules freeze every parameter: nothing is left to train")

    def chain(*scalers: optax.GradientTransformation, peak: float) -> optax.GradientTransformation:
        schedule = build_schedule(
            config.schedule, peak=peak, total_steps=total_steps, in_steps=in_steps
        )
        return _chain(config, rules, schedule, *scalers)

    groups: dict[str, optax.GradientTransformation]
    if isinstance(config, Muon):
        label = {path: "matrix" if is_layer_matrix(path) else "other" for path in rules}
        groups = {
            "matrix": chain(
                scale_by_muon(beta=config.momentum, weight_dimension_numbers=muon_dimensions),
                _scale_leaves(muon_factor),
                peak=config.learning_rate,
            ),
            "other": chain(_preconditioner(config), peak=config.adam_learning_rate),
        }
    else:
        label = dict.fromkeys(rules, "all")
        groups = {"all": chain(_preconditioner(config), peak=config.learning_rate)}
    for path, rule in rules.items():
        if rule.frozen:
            label[path] = "frozen"
    if "frozen" in label.values():
        groups["frozen"] = optax.set_to_zero()
    if len(groups) > 1:
        inner = optax.partition(groups, lambda tree: map_with_path(lambda p, _: label[p], tree))
    else:
        (inner,) = groups.values()
    # XLA fuses the product with what is elementwise, but Adafactor averages.
    product = multiply if isinstance(config, Adafactor) else _multiply
    return optax.chain(_measure_and_clip(config.clip_norm, rules, product), inner)


def gradient_norm(opt_state: PyTree) -> jax.Array | None:
    """Global norm of the last step's trainable gradients before clipping, if it was recorded."""
    return optax.tree.get(opt_state, "gradient_norm", default=None)


def frozen(config: OptimizerConfig, params: PyTree, lora: LoRA | None = None) -> PyTree:
    """True for every parameter that stays as it is, and needs no gradient: a tree like `params`."""
    rules = _decided(config, params, lora)
    return map_with_path(lambda path, _: rules[path].frozen, params)


# ----------------------------------------------------------------------------------------- rules


def _decided(
    config: OptimizerConfig, params: PyTree, lora: LoRA | None
) -> dict[str, ParameterRule]:
    """What is done with every parameter: its rule, the learning rate's factor of its layer, and
    whether it is an adapter's where there are some."""
    rules = match_rules(config.rules, params)
    factors = layer_factors(rules, config.layer_decay)
    return {
        path: dataclasses.replace(
            rule,
            learning_rate=rule.learning_rate * factors[path],
            frozen=rule.frozen or (lora is not None and freezes(lora, path)),
        )
        for path, rule in rules.items()
    }


def match_rules(rules: tuple[ParameterRule, ...], params: PyTree) -> dict[str, ParameterRule]:
    """For the path of every parameter (`layer_0/attention/query/kernel`) the rule that decides it.

    Raises:
      ConfigError: a parameter without a rule, or a rule without a parameter.
    """
    paths = [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    decided: dict[str, ParameterRule] = {}
    used: set[int] = set()
    for path in paths:
        for i, rule in enumerate(rules):
            if re.fullmatch(rule.pattern, path):
                decided[path] = rule
                used.add(i)
                break
    missing = [path for path in paths if path not in decided]
    if missing:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise ConfigError(
            f"optimizer.rules: no rule matches {', '.join(missing[:_LISTED])}{more}; "
            "add a rule, the last one with pattern '.*' if it is to take the rest"
        )
    for i, rule in enumerate(rules):
        if i in used or rule in DEFAULT_RULES:
            continue
        shadowed = any(re.fullmatch(rule.pattern, path) for path in paths)
        why = (
            "every parameter it matches is decided by an earlier rule"
            if shadowed
            else f"it matches no parameter (the paths are like {', '.join(paths[:_LISTED])})"
        )
        raise ConfigError(f"optimizer.rules[{i}], pattern {rule.pattern!r}: {why}")
    return decided


# --------------------------------------------------------------------------------- transformations


class ClipState(NamedTuple):
    """The global norm of the trainable gradients of the last step, before clipping."""

    gradient_norm: jax.Array


def _measure_and_clip(
    clip_norm: float | None,
    rules: Mapping[str, ParameterRule],
    multiply: Callable[[PyTree, jax.Array], PyTree],
) -> optax.GradientTransformation:
    """Records the global norm over the trainable gradients and scales it down to `clip_norm`."""

    def init(params: PyTree) -> ClipState:
        del params
        return ClipState(jnp.zeros((), jnp.float32))

    def update(updates: PyTree, state: ClipState, params: PyTree = None) -> Any:
        del state, params
        leaves = jax.tree_util.tree_leaves_with_path(updates)
        norm = optax.tree.norm([g for path, g in leaves if not rules[name_of(path)].frozen])
        if clip_norm is not None:
            scale = jnp.where(norm > clip_norm, clip_norm / norm, 1.0)
            updates = multiply(updates, scale)
        return updates, ClipState(norm.astype(jnp.float32))

    return optax.GradientTransformation(init, update)


def _multiply(updates: PyTree, factor: jax.Array) -> PyTree:
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)


def _preconditioner(config: OptimizerConfig) -> optax.GradientTransformation:
    match config:
        case AdamW() | Adam() | Muon():
            return optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon)
        case Lion():
            return optax.scale_by_lion(b1=config.beta1, b2=config.beta2)
        case SGD():
            if not config.momentum:
                return optax.identity()
            return optax.trace(decay=config.momentum, nesterov=config.nesterov)
        case Adafactor():
            parts = [
                of_matrices(scale_by_factored_rms(config.decay_rate)),
                optax.clip_by_block_rms(config.clipping_threshold),
            ]
            if config.multiply_by_parameter_scale:
                parts.append(optax.scale_by_param_block_rms())
            return optax.chain(*parts)


def _chain(
    config: OptimizerConfig,
    rules: Mapping[str, ParameterRule],
    schedule: ScheduleFn,
    *scalers: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Precondition, decay, scale; for Adam and SGD the decay comes first (L2)."""
    steps = list(scalers)
    if config.weight_decay:
        # A callable mask: inside a partition the other groups' parameters are masked away.
        decay = optax.add_decayed_weights(
            config.weight_decay,
            mask=lambda params: map_with_path(lambda path, _: rules[path].decay, params),
        )
        steps.insert(0 if isinstance(config, (Adam, SGD)) else len(steps), decay)
    if any(rule.learning_rate != 1.0 for rule in rules.values()):
        steps.append(_scale_leaves(lambda path, _: rules[path].learning_rate))
    return optax.chain(*steps, optax.scale_by_learning_rate(schedule))


def _scale_leaves(factor: Callable[[str, jax.Array], float]) -> optax.GradientTransformation:
    """Multiplies each update by a static factor of its path and shape."""
    return optax.stateless(
        lambda updates, _: map_with_path(lambda path, u: u * factor(path, u), updates)
    )
