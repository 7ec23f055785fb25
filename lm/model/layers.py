"""The layers below attention and blocks: linear, embedding, normalisation, feed-forward.

Parameters are float32 and carry logical axis names; computation is in `ModelConfig.compute_dtype`,
normalisation in float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from lm.config import ModelConfig, NormConfig
from lm.model.quantized import quantized_product

# From so many on it is the gradient that takes the time.
MANY_ROWS = 256
# A projection's adapter, and what else its training says: see `lm.model.lora`.
LORA_A, LORA_B, LORA_DROPOUT = "lora_a", "lora_b", "lora_dropout"


def boxed_normal(stddev: float, axes: tuple[str | None, ...]) -> Callable[..., Any]:
    """An initialiser of normal(0, stddev) weights that names the logical axes."""
    return nn.with_logical_partitioning(nn.initializers.normal(stddev), axes)


def projection_stddev(
    config: ModelConfig, inputs: int, outputs: int, *, residual: bool = False
) -> float:
    """Standard deviation of the initial weights of one of a layer's matrices; `residual` is one
    into the residual stream (GPT-2, section 2.3)."""
    init = config.init
    scale = math.sqrt(2 * config.num_layers) if residual and init.scale_residual else 1.0
    xavier = init.projections == "xavier"
    return (math.sqrt(2 / (inputs + outputs)) if xavier else init.stddev) / scale


def input_axes(name: str, axes: int) -> int:
    """How many of a kernel's `axes` are those of its input, in the layer `name`: attention's output
    projection [N, H, D] joins heads, all others have one."""
    return axes - 1 if name == "output" else 1


class Linear(nn.Module):
    """x @ kernel + bias, over one or several input axes; with an adapter's share where it has
    one."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    axes: tuple[str | None, ...]
    bias: bool
    stddev: float
    dtype: Any
    output_dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, ...]) -> Float[Array, ...]:
        y = self._product(x.astype(self.dtype))
        if self.has_variable("params", LORA_A):
            y = y + self._adapted(x.astype(self.dtype)).astype(y.dtype)
        if self.bias:
            axes = self.axes[len(self.inputs) :]
            zeros: Any = nn.with_logical_partitioning(nn.initializers.zeros, axes)
            y = y + self.param("bias", zeros, self.outputs, jnp.float32).astype(y.dtype)
        return y

    def _product(self, x: Float[Array, ...]) -> Float[Array, ...]:
        count, dtype = len(self.inputs), self.output_dtype
        rows = x.shape[: x.ndim - count]
        if self.has_variable("params", "quantized"):
            y = quantized_product(x.reshape(*rows, -1), *_quantized(self))
            return y.reshape(*rows, *self.outputs).astype(dtype or self.dtype)
        if self.has_variable("params", "transposed"):
            # Another order of the same numbers: see `lm.generate.arrange`.
            transposed: jax.Array = self.get_variable("params", "transposed")
            y = jax.lax.dot_general(
                x.reshape(math.prod(rows), -1),
                transposed.astype(self.dtype),
                (((1,), (1,)), ((), ())),
                preferred_element_type=dtype,
            )
            return y.reshape(*rows, *self.outputs)
        shape = (*self.inputs, *self.outputs)
        kernel = self.param("kernel", boxed_normal(self.stddev, self.axes), shape, jnp.float32)
        return product(x, kernel.astype(self.dtype), count, dtype)

    def _adapted(self, x: Float[Array, ...]) -> Float[Array, ...]:
        """What the adapter adds: (x A) B, x with dropout while training."""
        a: jax.Array = self.get_variable("params", LORA_A)["kernel"].astype(self.dtype)
        b: jax.Array = self.get_variable("params", LORA_B)["kernel"].astype(self.dtype)
        # There are random numbers for dropout in training alone.
        if self.has_variable("params", LORA_DROPOUT) and self.has_rng("dropout"):
            rate: jax.Array = self.get_variable("params", LORA_DROPOUT)
            kept = 1.0 - rate
            mask = jax.random.bernoulli(self.make_rng("dropout"), kept, x.shape)
            x = jnp.where(mask, x / kept.astype(x.dtype), jnp.zeros((), x.dtype))
        return product(product(x, a, len(self.inputs)), b, 1, self.output_dtype)


def _quantized(module: nn.Module) -> tuple[jax.Array, jax.Array]:
    """Int8 weights [outputs, inputs] and their scales, in place of a kernel or a table: see
    `lm.generate.quantize`."""
    return module.get_variable("params", "quantized"), module.get_variable("params", "scale")


def product(
    x: Float[Array, ...], kernel: Float[Array, ...], count: int, dtype: Any = None
) -> Float[Array, ...]:
    """x's last `count` axes times the kernel's first ones, in `dtype` (None is theirs).

    Many rows are multiplied as two matrices on a CPU: of several axes XLA transposes more than it
    has to in the gradient (a step of GPT-2 with 6 layers of 384 takes 1.3 times as long).
    Elsewhere the axes stay apart, as they may be sharded.
    """
    rows, columns = x.shape[: x.ndim - count], kernel.shape[count:]
    if not _as_matrices(rows):
        return jnp.tensordot(x, kernel, axes=count, preferred_element_type=dtype)
    y = jnp.matmul(
        x.reshape(math.prod(rows), -1),
        kernel.reshape(-1, math.prod(columns)),
        preferred_element_type=dtype,
    )
    return y.reshape(*rows, *columns)


def product_with_rows(
    x: Float[Array, "*shape D"], table: Float[Array, "V D"], dtype: Any = None
) -> Float[Array, "*shape V"]:
    """x's last axis times every row of the table; as `product` with its transpose, of which XLA
    for CPUs would keep a copy in a loop over parts of x."""
    rows = x.shape[:-1]
    if _as_matrices(rows):
        x = x.reshape(math.prod(rows), -1)
    y = jnp.tensordot(x, table, axes=((-1,), (1,)), preferred_element_type=dtype)
    return y.reshape(*rows, len(table))


def _as_matrices(rows: tuple[int, ...]) -> bool:
    """See `product`. Lengths that are open in a program that is exported are not compared: there
    is no gradient there."""
    if jax.default_backend() != "cpu" or not all(isinstance(length, int) for length in rows):
        return False
    return math.prod(rows) >= MANY_ROWS


class Embedding(nn.Module):
    """A table of trained vectors. An index beyond the table gives NaN, not a neighbour's vector."""

    size: int
    width: int
    axes: tuple[str | None, ...]
    stddev: float
    dtype: Any

    def setup(self) -> None:
        if self.has_variable("params", "quantized"):
            return
        self.embedding = self.param(
            "embedding", boxed_normal(self.stddev, self.axes), (self.size, self.width), jnp.float32
        )

    def __call__(self, indices: Int[Array, "*shape"]) -> Float[Array, "*shape {self.width}"]:
        if self.has_variable("params", "quantized"):
            table, scale = _quantized(self)
            # The scale is NaN where the table ends; an int8 could not be.
            scales = jnp.take(scale, indices, axis=0)[..., None]
            return (jnp.take(table, indices, axis=0) * scales).astype(self.dtype)
        return jnp.take(self.embedding, indices, axis=0).astype(self.dtype)

    def attend(self, x: Float[Array, "*shape D"]) -> Float[Array, "*shape {self.size}"]:
        """Products with every vector of the table, in float32 (tied output embeddings)."""
        if self.has_variable("params", "quantized"):
            return quantized_product(x.astype(self.dtype), *_quantized(self))
        if self.has_variable("params", "columns"):
            # As "transposed" of `Linear`.
            columns: jax.Array = self.get_variable("params", "columns")
            return product(x.astype(self.dtype), columns.astype(self.dtype), 1, jnp.float32)
        table = self.embedding.astype(self.dtype)
        return product_with_rows(x.astype(self.dtype), table, jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalise(
    x: Float[Array, "*shape D"],
    scale: Float[Array, " D"],
    bias: Float[Array, " D"] | None,
    epsilon: float,
    centre: bool,
) -> Float[Array, "*shape D"]:
    """LayerNorm (`centre`) or RMSNorm over the last axis, in float32; the result has x's dtype.

    The backward pass is written out: it reads x twice and keeps two numbers a row, where automatic
    differentiation of the formula keeps several copies of x. The price: a model cannot be
    differentiated forwards (`jax.jvp` and `jax.jacfwd` raise TypeError; `jax.hessian` works).
    """
    return _normalise_forward(x, scale, bias, epsilon, centre)[0]


def _statistics(x: jax.Array, epsilon: float, centre: bool) -> tuple[jax.Array, jax.Array]:
    mean = jnp.mean(x, axis=-1, keepdims=True) if centre else jnp.zeros_like(x[..., :1])
    variance = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
    return mean, jax.lax.rsqrt(variance + epsilon)


def _normalise_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array | None, epsilon: float, centre: bool
) -> tuple[jax.Array, Any]:
    wide = x.astype(jnp.float32)
    mean, inverse = _statistics(wide, epsilon, centre)
    y = (wide - mean) * inverse * scale
    if bias is not None:
        y = y + bias
    return y.astype(x.dtype), (x, scale, bias, mean, inverse)


def _normalise_backward(
    epsilon: float, centre: bool, saved: Any, gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    x, scale, bias, mean, inverse = saved
    rows = tuple(range(x.ndim - 1))
    wide = gradient.astype(jnp.float32)
    unit = (x.astype(jnp.float32) - mean) * inverse
    to_unit = wide * scale
    to_x = to_unit - unit * jnp.mean(to_unit * unit, axis=-1, keepdims=True)
    if centre:
        to_x = to_x - jnp.mean(to_unit, axis=-1, keepdims=True)
    to_scale = jnp.sum(wide * unit, axis=rows)
    to_bias = None if bias is None else jnp.sum(wide, axis=rows)
    return (to_x * inverse).astype(x.dtype), to_scale, to_bias


normalise.defvjp(_normalise_forward, _normalise_backward)


class Norm(nn.Module):
    """LayerNorm (Ba et al. 2016) with or without bias, RMSNorm (Zhang & Sennrich 2019), or none."""

    norm: NormConfig
    width: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "*shape {self.width}"]
    ) -> Float[Array, "*shape {self.width}"]:
        norm, width = self.norm, self.width
        if norm.kind == "none":
            return x
        named = functools.partial(nn.with_logical_partitioning, names=("norm",))
        scale = self.param("scale", named(nn.initializers.ones), (width,), jnp.float32)
        centre = norm.kind == "layer"
        bias = None
        if norm.has_bias:
            bias = self.param("bias", named(nn.initializers.zeros), (width,), jnp.float32)
        return normalise(x, scale, bias, norm.epsilon, centre)


class Bias(nn.Module):
    """x + bias over the last axis, in x's dtype."""

    size: int
    axis: str | None

    @nn.compact
    def __call__(self, x: Float[Array, "*shape V"]) -> Float[Array, "*shape V"]:
        zeros: Any = nn.with_logical_partitioning(nn.initializers.zeros, (self.axis,))
        return x + self.param("bias", zeros, (self.size,), jnp.float32).astype(x.dtype)


@jax.custom_vjp
def exact_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x times the normal distribution function at x (Hendrycks & Gimpel 2016), by erf and in
    float32, as torch has it; the gradient is made from x alone. No forward derivative, as
    `normalise`."""
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def _exact_gelu_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(wide)) * (1 / math.sqrt(2 * math.pi))
    slope = _normal_cdf(wide) + wide * density
    return ((gradient.astype(jnp.float32) * slope).astype(x.dtype),)


exact_gelu.defvjp(lambda x: (exact_gelu(x), x), _exact_gelu_backward)

# The function, and whether it gates a second projection (Shazeer 2020).
_tanh_gelu = functools.partial(jax.nn.gelu, approximate=True)
ACTIVATIONS: dict[str, tuple[Callable[[jax.Array], jax.Array], bool]] = {
    "relu": (jax.nn.relu, False),
    "gelu": (exact_gelu, False),
    "gelu_tanh": (_tanh_gelu, False),
    "silu": (jax.nn.silu, False),
    "swiglu": (jax.nn.silu, True),
    "geglu": (exact_gelu, True),
    "geglu_tanh": (_tanh_gelu, True),
}


class FeedForward(nn.Module):
    """down(f(up(x))), or down(f(gate(x)) * up(x)) for the gated activations."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], *, train: bool) -> Float[Array, "B T D"]:
        c = self.config
        activation, gated = ACTIVATIONS[c.activation]
        dtype = jnp.dtype(c.compute_dtype)
        widen = functools.partial(
            Linear,
            (c.d_model,),
            (c.d_ff,),
            ("embed", "mlp"),
            c.mlp_bias,
            projection_stddev(c, c.d_model, c.d_ff),
            dtype,
        )
        hidden = widen(name="up")(x)
        hidden = activation(widen(name="gate")(x)) * hidden if gated else activation(hidden)
        hidden = nn.Dropout(c.dropout.feed_forward, deterministic=not train)(hidden)
        return Linear(
            (c.d_ff,),
            (c.d_model,),
            ("mlp", "embed"),
            c.mlp_bias,
            projection_stddev(c, c.d_ff, c.d_model, residual=True),
            dtype,
            name="down",
        )(hidden)
