"""What is computed again is the same, and takes less memory, on CPUs too."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.model import build_model
from lm.model.remat import rematerialise

TOKENS = jnp.arange(512).reshape(2, 256) % 7


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_the_compiled_program_needs_less_memory(remat: Any, tiny: Any, params_of: Any) -> None:
    """Unrolled: the compiler must not find out that what is computed again was there."""
    sizes = []
    for kind in ("none", remat):
        model = build_model(tiny(num_layers=6, remat=kind, layer_pattern=("global",), window=None))

        def total(params: Any, model: Any = model) -> Any:
            return model.apply({"params": params}, TOKENS)[0].sum()

        compiled = jax.jit(jax.grad(total)).lower(params_of(model.config)).compile()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert sizes[1] < 0.7 * sizes[0]


def product(weights: Any, x: Any, number: Any, other: Any) -> tuple[Any, Any]:
    """With arguments of all kinds: trees, numbers that have no gradient, None."""
    return {"y": jnp.sin(x @ weights["w"]) * other["scale"] + number}, other["part"]


def arguments() -> tuple[Any, ...]:
    x = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
    other = {"scale": jnp.float32(2.0), "part": None, "mask": jnp.arange(3)}
    return {"w": jnp.eye(3) + 0.1}, x, 4, other


@pytest.mark.parametrize("kind", ["full", "dots"])
def test_gradients_of_every_argument_are_those_of_the_function(kind: Any) -> None:
    def total(run: Any) -> Any:
        def of(weights: Any, x: Any, scale: Any) -> Any:
            _, _, number, other = arguments()
            return run(weights, x, number, {**other, "scale": scale})[0]["y"].sum()

        weights, x, _, other = arguments()
        return jax.jit(jax.value_and_grad(of, argnums=(0, 1, 2)))(weights, x, other["scale"])

    expected, found = total(product), total(rematerialise(product, kind, scanned=False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), expected, found)


def test_a_gradient_that_is_not_asked_for_is_not_computed() -> None:
    """An adapted layer's frozen weights: their gradient is a product of its own."""
    run = rematerialise(product, "full", scanned=False)
    weights, x, number, other = arguments()

    def products(argument: int) -> int:
        def of(weights: Any, x: Any) -> Any:
            return run(weights, x, number, other)[0]["y"].sum()

        return str(jax.make_jaxpr(jax.grad(of, argnums=argument))(weights, x)).count("dot_general")

    def both(weights: Any, x: Any) -> Any:
        return run(weights, x, number, other)[0]["y"].sum()

    everything = str(jax.make_jaxpr(jax.grad(both, argnums=(0, 1)))(weights, x))
    assert products(1) == products(0) == everything.count("dot_general") - 1


def test_a_gradient_that_is_not_a_number_stays_so() -> None:
    run = rematerialise(product, "full", scanned=False)
    weights, x, number, other = arguments()
    _, pull = jax.vjp(lambda x: run(weights, x, number, other)[0]["y"], x)
    assert np.isnan(pull(jnp.full((2, 3), jnp.nan))[0]).all()
