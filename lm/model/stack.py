"""A stack of layers with its position and type embeddings: the body of every architecture but one.

Every layer has its own parameter tree `layer_0`, `layer_1` ... and runs as a pure function of it,
so unrolled and scanned layers share one parameter format and one stream of random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from lm.config import ALiBi, Learned, ModelConfig, RelativeKeys, Rotary, Sinusoidal, T5Relative
from lm.model.attention import Context, Memory
from lm.model.block import Block
from lm.model.cache import Cache, append, check_length
from lm.model.layers import Embedding, Linear, Norm
from lm.model.masks import Mask
from lm.model.positions import alibi_bias, rotary_tables, sinusoidal, t5_bias
from lm.model.remat import rematerialise
from lm.model.sharding import split_rows
from lm.types import Params

# Queries a block in causal attention, where later keys are skipped block by block; more where this
# would give more than the most blocks, each of which is compiled on its own.
QUERY_BLOCK = 64
MOST_BLOCKS = 8

# (parameters, x, number of the layer, context, its part of the cache) -> (x, the same part)
LayerFunction = Callable[..., tuple[Any, Any]]


class StackOutput(NamedTuple):
    """The last layer's output (normalised, where norms stand before), the cache with the new
    tokens, and the inputs of the first layer and outputs of all, if they were asked for."""

    hidden: Float[Array, "B T D"]
    cache: Cache | None
    states: tuple[Float[Array, "B T D"], ...] | None


class Stack(nn.Module):
    """Embedded tokens in, hidden states out.

    `causal`: queries look back only, unless the call brings a mask. `cross`: every layer also
    attends to an encoder's output.
    """

    config: ModelConfig
    num_layers: int
    causal: bool
    cross: bool = False

    def setup(self) -> None:
        c = self.config
        dtype, stddev, width = jnp.dtype(c.compute_dtype), c.init.stddev, c.width_of_embedding
        if isinstance(c.position, Learned):
            rows = c.position.max_length + c.position.offset
            self.position_embedding = Embedding(rows, width, ("position", "embed"), stddev, dtype)
        if c.token_types:
            self.token_type_embedding = Embedding(
                c.token_types, width, ("type", "embed"), stddev, dtype
            )
        if c.embedding_norm:
            self.embedding_norm = Norm(c.norm, width)
        if width != c.d_model:
            self.embedding_projection = Linear(
                (width,), (c.d_model,), (None, "embed"), True, stddev, dtype
            )
        if isinstance(c.position, T5Relative):
            self.relative_bias = Embedding(
                c.position.num_buckets, c.num_heads, ("buckets", "heads"), stddev, jnp.float32
            )
        for i in range(self.num_layers):
            # `param` traces its initialiser whenever it is called, so only where there is a need.
            if not self.has_variable("params", f"layer_{i}"):
                self.param(f"layer_{i}", self._init_layer)
        if c.norm.placement == "pre":
            self.final_norm = Norm(c.norm, c.d_model)
        self.embedding_dropout = nn.Dropout(c.dropout.embedding)
        self.output_dropout = nn.Dropout(c.dropout.output)

    def _init_layer(self, key: jax.Array) -> Params:
        x = jnp.zeros((1, 1, self.config.d_model), self.config.compute_dtype)
        block = Block(self.config, self.cross, parent=None)
        return block.init(key, x, Context(), train=False)["params"]

    def __call__(
        self,
        x: Float[Array, "B T E"],
        *,
        mask: Mask | None = None,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        token_types: Int[Array, "B T"] | None = None,
        cache: Cache | None = None,
        memory: Memory | None = None,
        train: bool = False,
        keep_states: bool = False,
    ) -> StackOutput:
        """From the tokens' own embeddings; arguments as for `lm.model.transformer.Transformer`.

        Raises:
          ConfigError: more tokens than learned positions.
          ValueError: a cache with segments, or with fewer slots than tokens; token types for a
            model that knows none.
        """
        c = self.config
        mask = Mask(causal=self.causal) if mask is None else mask
        length = x.shape[1]
        check_length(c, length)
        if cache is not None:
            if segment_ids is not None:
                raise ValueError("a cache holds one sequence a row: it takes no segment_ids")
            if length > cache.length:
                raise ValueError(f"{length} tokens do not fit a cache of {cache.length} slots")
            if positions is None:
                ahead = cache.index + jnp.arange(length, dtype=jnp.int32)
                positions = jnp.broadcast_to(ahead, x.shape[:2])
            cache = cache.replace(positions=append(cache.positions, positions, cache.index, 1))
            mask = mask & Mask(query_positions=positions, key_positions=cache.positions)
        elif positions is not None:
            mask = mask & Mask(query_positions=positions, key_positions=positions)
        if segment_ids is not None:
            mask = mask & Mask(
                query_segments=segment_ids, key_segments=segment_ids, in_order=mask.causal
            )
        x = split_rows(self._embed(split_rows(x), positions, token_types, train))
        contexts = self._contexts(mask, length, length if cache is None else cache.length, memory)
        embedded = x
        x, cache, states = self._run_layers(x, contexts, cache, train, keep_states)
        if c.norm.placement == "pre":
            x = self.final_norm(x)
        x = self.output_dropout(x, deterministic=not train)
        return StackOutput(x, cache, (embedded, *states[:-1], x) if keep_states else None)

    def _embed(
        self,
        x: jax.Array,
        positions: jax.Array | None,
        token_types: jax.Array | None,
        train: bool,
    ) -> jax.Array:
        """The sum of the embeddings, normalised and projected as the config says."""
        c = self.config
        if c.scale_embeddings:
            x = x * jnp.asarray(math.sqrt(c.d_model), x.dtype)
        if positions is None:
            positions = jnp.arange(x.shape[1])[None]
        if c.token_types:
            types = jnp.zeros(x.shape[:2], jnp.int32) if token_types is None else token_types
            x = x + self.token_type_embedding(types)
        elif token_types is not None:
            raise ValueError("token_types are given, but model.token_types is 0")
        if isinstance(c.position, Learned):
            x = x + self.position_embedding(positions + c.position.offset)
        if isinstance(c.position, Sinusoidal):
            x = x + sinusoidal(positions, x.shape[-1], c.position).astype(x.dtype)
        if c.embedding_norm:
            x = self.embedding_norm(x)
        x = self.embedding_dropout(x, deterministic=not train)
        return self.embedding_projection(x) if c.width_of_embedding != c.d_model else x

    def _contexts(
        self, mask: Mask, num_queries: int, num_keys: int, memory: Memory | None
    ) -> dict[str, Context]:
        """One `Context` for each kind of layer in the pattern."""
        c = self.config
        query, key = mask.query_positions, mask.key_positions
        query = jnp.arange(num_queries)[None] if query is None else query
        key = jnp.arange(num_keys)[None] if key is None else key
        bias = rotary = distance = None
        if isinstance(c.position, ALiBi):
            bias = alibi_bias(query, key, c.num_heads)
        if isinstance(c.position, T5Relative):
            table = self.relative_bias.embedding
            bias = t5_bias(table, query, key, c.position.max_distance, both_ways=not self.causal)
        if isinstance(c.position, Rotary):
            rotary = rotary_tables(query, int(c.width_of_head * c.position.fraction), c.position)
        if isinstance(c.position, RelativeKeys) and mask.query_positions is not None:
            distance = query[:, :, None] - key[:, None, :]
        contexts: dict[str, Context] = {}
        for kind in dict.fromkeys(c.layer_pattern):
            limited = mask & Mask(window=c.window if kind == "local" else None)
            spans = limited.spans(num_queries, num_keys, query_block(num_queries))
            contexts[kind] = Context(limited, bias, rotary, distance, spans, memory)
        return contexts

    def _run_layers(
        self,
        x: jax.Array,
        contexts: dict[str, Context],
        cache: Cache | None,
        train: bool,
        keep_states: bool,
    ) -> tuple[jax.Array, Cache | None, tuple[jax.Array, ...]]:
        c = self.config
        layers = layer_parameters(self, self.num_layers)
        key = self.make_rng("dropout") if train and self.has_rng("dropout") else None
        run = layer_function(Block(c, self.cross, parent=None), key, train)
        if c.scan_layers and cache is None and not keep_states:
            return run_scanned(run, c, layers, x, contexts), None, ()
        # With a cache always unrolled: stacking would copy all parameters for every token.
        states, parts = [], []
        for i, params in enumerate(layers):
            context = contexts[c.layer_pattern[i % len(c.layer_pattern)]]
            x, part = run(params, x, i, context, None if cache is None else cache.layer(i))
            states.append(x)
            parts.append(part)
        if cache is not None:
            index = cache.index + x.shape[1]
            # A write beyond the last slot would land on earlier tokens and go unnoticed.
            x = jnp.where(index > cache.length, jnp.nan, x)
            cache = cache.updated(parts, index)
        return x, cache, tuple(states)


def query_block(length: int) -> int:
    """Queries a block for a sequence of `length`: a multiple of QUERY_BLOCK, at most MOST_BLOCKS
    of them."""
    # Without a comparison, which a length that is open (`jax.export`) would not allow.
    return -(-length // (MOST_BLOCKS * QUERY_BLOCK)) * QUERY_BLOCK


def layer_parameters(module: nn.Module, num_layers: int) -> list[Params]:
    return [nn.meta.unbox(module.get_variable("params", f"layer_{i}")) for i in range(num_layers)]


def layer_function(block: Any, key: jax.Array | None, train: bool) -> LayerFunction:
    """One layer, of the kind of `block`, as a pure function, rematerialised as its config says."""
    config: ModelConfig = block.config

    def run(
        params: Params, x: Any, number: jax.Array | int, context: Any, part: Any = None
    ) -> tuple[Any, Any]:
        rngs = None if key is None else {"dropout": jax.random.fold_in(key, number)}
        with jax.named_scope("layer"):
            result: Any = block.apply({"params": params}, x, context, part, train=train, rngs=rngs)
        return result

    if config.remat == "none":
        return run
    return rematerialise(run, config.remat, scanned=config.scan_layers)


def run_scanned(
    run: LayerFunction,
    config: ModelConfig,
    layers: list[Params],
    x: Any,
    contexts: dict[str, Any],
) -> Any:
    """`lax.scan` over the layers, one period of the layer pattern at a time."""
    pattern = config.layer_pattern
    period = len(pattern)

    def cast(path: Any, leaf: jax.Array) -> jax.Array:
        # The layers would cast their matrices anyway; cast first, the stack takes half the memory.
        return leaf.astype(config.compute_dtype) if path[-1].key == "kernel" else leaf

    def stack(*trees: Any) -> Any:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    layers = [jax.tree_util.tree_map_with_path(cast, layer) for layer in layers]
    stacked = [stack(*layers[offset::period]) for offset in range(period)]

    def body(x: Any, inputs: tuple[jax.Array, list[Params]]) -> tuple[Any, None]:
        first, params = inputs
        for offset, kind in enumerate(pattern):
            x, _ = run(params[offset], x, first + offset, contexts[kind])
        return x, None

    x, _ = jax.lax.scan(body, x, (jnp.arange(0, len(layers), period), stacked))
    return x
