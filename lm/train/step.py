"""One optimiser step, as a pure function that knows nothing of devices.

Every term of a loss is a sum and a weight. The sums of all microbatches and devices are divided
once by the weights of the whole batch, so that neither the number of microbatches nor that of
devices changes the result beyond rounding, however unequal the weights are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lm.objectives.base import Objective
from lm.train.optimizer import gradient_norm
from lm.train.state import TrainState
from lm.types import Batch, Key, Metrics, Params, PyTree

Sums = dict[str, jax.Array]
Reduce = Callable[[PyTree], PyTree]


def identity(tree: PyTree) -> PyTree:
    """The reduction where one call sees the whole batch."""
    return tree


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    microbatches: int = 1,
    reduce: Reduce = identity,
    device: jax.Array | None = None,
    ema_decay: float | None = None,
    learning_rate: Callable[[jax.Array], jax.Array] | None = None,
    frozen: PyTree | None = None,
) -> tuple[TrainState, Metrics]:
    """One update on one batch: the gradient of sum_k coefficient_k * S_k / W_k, where S_k and W_k
    are the sum and the weight of term k over the whole batch. A term of weight 0 counts 0.

    Args:
      batch: arrays [B, ...], or this device's part of them.
      microbatches: parts whose gradients are accumulated (in float32). Part i are the rows
        i, i + microbatches, ...: every part then has rows of every device. Divides B.
      reduce: sums a tree over the devices, where each call sees one device's rows only.
      device: which of those it is; folded into the key, so that dropout differs.
      ema_decay: of the moving average in `state.ema`, which must be there.
      learning_rate: the schedule, to report it.
      frozen: a tree like the parameters, True for those that stay as they are: no gradient of
        theirs is made. None is none.

    Returns:
      The next state, and float32 scalars: every term's mean under its name, total_loss,
      gradient_norm (before clipping), learning_rate if given, tokens (the weight of "loss").
    """
    key = state.key()
    if device is not None:
        key = jax.random.fold_in(key, device)

    trained = _trained(state.params, frozen)
    gradients, sums, weights, loss = _gradients(
        objective, state.params, trained, batch, key, microbatches, reduce
    )
    # The scopes are read in profiles (lm/train/hlo.py) and change nothing else.
    with jax.named_scope("optimizer"):
        if frozen is not None:
            # Zeros that nothing reads: the optimiser knows itself what is frozen.
            gradients = _whole(gradients, jax.tree.map(jnp.zeros_like, state.params))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        new = _trained(optax.apply_updates(state.params, updates), frozen)
        params = _whole(new, state.params)
        ema = state.ema
        if ema_decay is not None:
            old = _trained(ema, frozen)
            mean = jax.tree.map(lambda e, p: ema_decay * e + (1.0 - ema_decay) * p, old, new)
            ema = _whole(mean, ema)
        norm = gradient_norm(opt_state)
        norm = optax.tree.norm(gradients) if norm is None else norm

    metrics = {name: sums[name] * _inverse(weights[name]) for name in sums}
    metrics["total_loss"] = loss
    metrics["gradient_norm"] = norm
    if learning_rate is not None:
        metrics["learning_rate"] = learning_rate(state.step)
    if "loss" in weights:
        metrics["tokens"] = weights["loss"]
    state = dataclasses.replace(
        state, step=state.step + 1, params=params, opt_state=opt_state, ema=ema
    )
    return state, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}


def evaluate_step(
    params: Params, batch: Batch, *, objective: Objective, reduce: Reduce = identity
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Every term's (sum, weight) over the whole batch, float32 scalars, without dropout."""
    terms = objective.loss(params, batch, None, train=False)
    return reduce(
        {name: (jnp.asarray(t.sum, jnp.float32), _weight(t.weight)) for name, t in terms.items()}
    )


def multi_step(step: Callable[[Any, Batch], tuple[Any, Metrics]]) -> Callable[..., Any]:
    """`step` over batches stacked [K, B, ...]: the last state, and the metrics of all K, [K]."""

    def run(state: Any, batches: Batch) -> tuple[Any, Metrics]:
        if jax.tree.leaves(batches)[0].shape[0] > 1:
            return jax.lax.scan(step, state, batches)
        state, metrics = step(state, jax.tree.map(lambda x: x[0], batches))
        return state, jax.tree.map(lambda x: x[None], metrics)

    return run


def _trained(params: PyTree, frozen: PyTree | None) -> PyTree:
    """The parameters with None, which has no leaf, in the place of those that are frozen."""
    if frozen is None:
        return params
    return jax.tree.map(lambda still, p: None if still else p, frozen, params)


def _whole(trained: PyTree, params: PyTree) -> PyTree:
    """The other way: what is None in `trained` is that of `params`."""
    return jax.tree.map(
        lambda new, p: p if new is None else new, trained, params, is_leaf=lambda x: x is None
    )


def _gradients(
    objective: Objective,
    params: Params,
    trained: Params,
    batch: Batch,
    key: Key,
    microbatches: int,
    reduce: Reduce,
) -> tuple[PyTree, Sums, Sums, jax.Array]:
    """Over the whole batch: the loss's gradients by what is `trained` of the parameters, the terms'
    sums and weights, the loss."""

    def share(trained: Params, part: Batch, key: Key, weights: Sums | None) -> Any:
        """What a part contributes to the loss, and (its sums, the weights that divide them)."""
        with jax.named_scope("loss"):
            terms = objective.loss(_whole(trained, params), part, key, train=True)
        sums = {name: jnp.asarray(t.sum, jnp.float32) for name, t in terms.items()}
        if weights is None:
            weights = reduce({name: _weight(t.weight) for name, t in terms.items()})
        loss = jnp.zeros((), jnp.float32)
        for name, term in terms.items():
            if term.coefficient:
                loss += term.coefficient * sums[name] * _inverse(weights[name])
        return loss, (sums, weights)

    gradient_of = jax.value_and_grad(share, has_aux=True)
    if microbatches == 1:
        # One part is the whole batch of this device: its weights come with the same pass.
        (loss, (sums, weights)), gradients = gradient_of(
            trained, batch, jax.random.fold_in(key, 0), None
        )
    else:
        parts = _split(batch, microbatches)
        weights = reduce(_total_weights(objective, params, parts, key))
        gradients, sums, loss = _accumulate(gradient_of, trained, parts, key, weights)
    gradients, sums, loss = reduce((gradients, sums, loss))
    return gradients, sums, weights, loss


def _weight(weight: Any) -> jax.Array:
    # Weights depend on the batch alone; saying so keeps them out of the backward pass.
    return jax.lax.stop_gradient(jnp.asarray(weight, jnp.float32))


def _inverse(weight: jax.Array) -> jax.Array:
    """1 / weight, and 0 where there is nothing to weigh."""
    return jnp.where(weight > 0, 1.0 / weight, 0.0)


def _split(batch: Batch, microbatches: int) -> PyTree:
    """[B, ...] to [microbatches, B / microbatches, ...], rows dealt round-robin.

    Dealt, not cut: the rows of a device, which are neighbours, are spread over all microbatches,
    so no microbatch sits on a few devices and no row has to move.
    """

    def deal(x: jax.Array) -> jax.Array:
        rows = x.reshape(x.shape[0] // microbatches, microbatches, *x.shape[1:])
        return jnp.swapaxes(rows, 0, 1)

    return jax.tree.map(deal, batch)


def _total_weights(objective: Objective, params: Params, parts: PyTree, key: Key) -> Sums:
    """Each term's weight over all microbatches. The sums are not used, and so not computed:
    the compiler drops the forward pass that this function seems to make."""

    def one(x: Any) -> Sums:
        index, part = x
        terms = objective.loss(params, part, jax.random.fold_in(key, index), train=True)
        return {name: _weight(t.weight) for name, t in terms.items()}

    per_part = jax.lax.map(one, _numbered(parts))
    return {name: jnp.sum(weights, axis=0) for name, weights in per_part.items()}


def _accumulate(
    gradient_of: Callable[..., Any], params: Params, parts: PyTree, key: Key, weights: Sums
) -> tuple[PyTree, Sums, jax.Array]:
    """Gradients, sums and loss, added up over the microbatches in float32."""

    def body(total: PyTree, x: Any) -> tuple[PyTree, None]:
        index, part = x
        (loss, (sums, _)), gradients = gradient_of(
            params, part, jax.random.fold_in(key, index), weights
        )
        return jax.tree.map(jnp.add, total, (gradients, sums, loss)), None

    zero = jnp.zeros((), jnp.float32)
    zeros = (
        jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params),
        dict.fromkeys(weights, zero),
        zero,
    )
    return jax.lax.scan(body, zeros, _numbered(parts))[0]


def _numbered(parts: PyTree) -> tuple[jax.Array, PyTree]:
    return jnp.arange(jax.tree.leaves(parts)[0].shape[0]), parts
