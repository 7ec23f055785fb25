"""Rematerialisation: a layer's backward pass computes again what its forward pass did not keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp


def rematerialise(
    run: Callable[..., Any], kind: Literal["full", "dots"], *, scanned: bool
) -> Callable[..., Any]:
    """`run`, a function of trees, keeping for its gradient its arguments alone ("full"), or what
    products with weights gave besides ("dots").

    `scanned`: it is the body of a loop, where nothing can be merged with the forward pass.
    """
    policies = jax.checkpoint_policies
    policy = {
        "full": policies.nothing_saveable,
        "dots": policies.dots_with_no_batch_dims_saveable,
    }[kind]
    if scanned or jax.default_backend() != "cpu":
        return jax.checkpoint(run, policy=policy, prevent_cse=not scanned)
    return _behind_a_branch(jax.checkpoint(run, policy=policy, prevent_cse=False))


def _behind_a_branch(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run`, whose backward pass stands in a branch that is always taken.

    XLA for CPUs drops the barriers that `jax.checkpoint` puts up, finds that the forward pass has
    computed the same, and keeps it after all (jax 0.10.2: not a byte less). It does not look into
    a branch. The other branch is for a gradient that begins with NaN, and returns NaN.
    """

    def call(*arguments: Any) -> Any:
        leaves, tree = jax.tree.flatten(arguments)

        def of_leaves(*leaves: Any) -> Any:
            return run(*jax.tree.unflatten(tree, leaves))

        def forward(*leaves: Any) -> Any:
            # What has no gradient, like an adapted layer's frozen weights, is not asked for one.
            moves = [leaf.perturbed and _is_real(leaf.value) for leaf in leaves]
            values = [leaf.value for leaf in leaves]

            def of_moving(*moving: Any) -> Any:
                some = iter(moving)
                return of_leaves(*(next(some) if m else v for m, v in zip(moves, values)))

            result, pull = jax.vjp(of_moving, *(v for m, v in zip(moves, values) if m))
            # As structure, not as values: () is a leaf's place in what `pull` returns.
            return result, (pull, tuple(() if m else None for m in moves))

        def backward(kept: Any, gradient: Any) -> tuple[Any, ...]:
            pull, places = kept
            gradient = jax.tree.map(_materialised, gradient, is_leaf=_is_symbolic)
            shapes = jax.eval_shape(pull, gradient)

            def invalid(_: Any) -> Any:
                return jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)

            first = next(x for x in jax.tree.leaves(gradient) if _is_real(x)).reshape(-1)[0]
            moving = iter(jax.lax.cond(jnp.isnan(first), invalid, pull, gradient))
            return tuple(None if place is None else next(moving) for place in places)

        function = jax.custom_vjp(of_leaves)
        function.defvjp(forward, backward, symbolic_zeros=True)
        return function(*leaves)

    return call


def _is_real(x: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.inexact))


def _is_symbolic(x: Any) -> bool:
    return isinstance(x, jax.custom_derivatives.SymbolicZero)


def _materialised(x: Any) -> Any:
    return jnp.zeros(x.shape, x.dtype) if _is_symbolic(x) else x
