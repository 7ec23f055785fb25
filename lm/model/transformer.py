"""The decoder: embeddings, layers, head. One module for every `ModelConfig`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from lm.config import ALiBi, Learned, ModelConfig, Rotary, Sinusoidal, T5Relative
from lm.model.attention import Context, LayerCache, softcap
from lm.model.block import Block
from lm.model.cache import Cache, append, check_length
from lm.model.layers import Embedding, Linear, Norm
from lm.model.masks import Mask
from lm.model.positions import alibi_bias, rotary_tables, sinusoidal, t5_bias
from lm.types import Params

# Queries a block in causal attention, where later keys are skipped block by block; more where this
# would give more than the most blocks, each of which is compiled on its own.
QUERY_BLOCK = 64
MOST_BLOCKS = 8

# (parameters, x, number of the layer, context, cache) -> (x, cache)
LayerFunction = Callable[..., tuple[jax.Array, LayerCache | None]]


class Decoder(nn.Module):
    """A causal language model (GPT, Llama and their kin).

    Every layer has its own parameter tree `layer_0`, `layer_1` ... and runs as a pure function of
    it, so unrolled and scanned layers share one parameter format and one stream of random numbers.
    """

    config: ModelConfig

    def setup(self) -> None:
        c = self.config
        dtype, stddev = jnp.dtype(c.compute_dtype), c.init.stddev
        self.token_embedding = Embedding(c.vocab_size, c.d_model, ("vocab", "embed"), stddev, dtype)
        if isinstance(c.position, Learned):
            self.position_embedding = Embedding(
                c.position.max_length, c.d_model, ("position", "embed"), stddev, dtype
            )
        if isinstance(c.position, T5Relative):
            self.relative_bias = Embedding(
                c.position.num_buckets, c.num_heads, ("buckets", "heads"), stddev, jnp.float32
            )
        for i in range(c.num_layers):
            # `param` traces its initialiser whenever it is called, so only where there is a need.
            if not self.has_variable("params", f"layer_{i}"):
                self.param(f"layer_{i}", self._init_layer)
        if c.norm.placement == "pre":
            self.final_norm = Norm(c)
        if not c.tie_embeddings:
            self.lm_head = Linear(
                (c.d_model,), (c.vocab_size,), ("embed", "vocab"), False, stddev, dtype, jnp.float32
            )
        self.embedding_dropout = nn.Dropout(c.dropout.embedding)

    def _init_layer(self, key: jax.Array) -> Params:
        x = jnp.zeros((1, 1, self.config.d_model), self.config.compute_dtype)
        return Block(self.config, parent=None).init(key, x, Context(), train=False)["params"]

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        mask: Mask | None = None,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        cache: Cache | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T V"], Cache | None]:
        """Logits of the next token at every position, float32, and the cache with these tokens.

        Args:
          tokens: token ids.
          mask: conditions on attention besides positions, segments and cache; None is causal,
            `Mask()` looks both ways.
          positions: default 0 .. T-1, or on from the cache's index. -1 is padding: never attended
            to, its own logits mean nothing (and are finite).
          segment_ids: attention stays within equal ids; 0 is padding. With a causal mask, positions
            ascend from token to token of a segment. Not together with a cache.
          cache: keys and values of earlier tokens; these tokens are added to it.
          train: apply dropout, with the random stream "dropout".

        Raises:
          ConfigError: more tokens than learned positions.
          ValueError: a cache with segments, or with fewer slots than tokens. Where the number of
            tokens in the cache is known only while running, an overflow makes the logits NaN.
        """
        x, cache = self.hidden(
            tokens,
            mask=mask,
            positions=positions,
            segment_ids=segment_ids,
            cache=cache,
            train=train,
        )
        return self.logits(x), cache

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        *,
        mask: Mask | None = None,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        cache: Cache | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """What `logits` turns into logits: the last layer's output, after the final norm (pre).

        Arguments and errors as for `__call__`.
        """
        c = self.config
        mask = Mask(causal=True) if mask is None else mask
        length = tokens.shape[1]
        check_length(c, length)
        if cache is not None:
            if segment_ids is not None:
                raise ValueError("a cache holds one sequence a row: it takes no segment_ids")
            if length > cache.length:
                raise ValueError(f"{length} tokens do not fit a cache of {cache.length} slots")
            if positions is None:
                ahead = cache.index + jnp.arange(length, dtype=jnp.int32)
                positions = jnp.broadcast_to(ahead, tokens.shape)
            cache = cache.replace(positions=append(cache.positions, positions, cache.index))
            mask = mask & Mask(query_positions=positions, key_positions=cache.positions)
        elif positions is not None:
            mask = mask & Mask(query_positions=positions, key_positions=positions)
        if segment_ids is not None:
            mask = mask & Mask(
                query_segments=segment_ids, key_segments=segment_ids, in_order=mask.causal
            )
        x = self._embed(tokens, positions)
        x = self.embedding_dropout(x, deterministic=not train)
        contexts = self._contexts(mask, length, length if cache is None else cache.length)
        x, cache = self._run_layers(x, contexts, cache, train)
        if c.norm.placement == "pre":
            x = self.final_norm(x)
        return x, cache

    def logits(self, hidden: Float[Array, "*shape D"]) -> Float[Array, "*shape V"]:
        """Float32 logits from `hidden`'s result; any leading axes."""
        if self.config.tie_embeddings:
            logits = self.token_embedding.attend(hidden)
        else:
            logits = self.lm_head(hidden)
        return softcap(logits, self.config.logit_softcap)

    def _embed(self, tokens: jax.Array, positions: jax.Array | None) -> jax.Array:
        c = self.config
        x = self.token_embedding(tokens)
        if c.scale_embeddings:
            x = x * jnp.asarray(math.sqrt(c.d_model), x.dtype)
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None]
        if isinstance(c.position, Learned):
            x = x + self.position_embedding(positions)
        if isinstance(c.position, Sinusoidal):
            x = x + sinusoidal(positions, c.d_model, c.position.base).astype(x.dtype)
        return x

    def _contexts(self, mask: Mask, num_queries: int, num_keys: int) -> dict[str, Context]:
        """One `Context` for each kind of layer in the pattern."""
        c = self.config
        query, key = mask.query_positions, mask.key_positions
        query = jnp.arange(num_queries)[None] if query is None else query
        key = jnp.arange(num_keys)[None] if key is None else key
        bias = rotary = None
        if isinstance(c.position, ALiBi):
            bias = alibi_bias(query, key, c.num_heads)
        if isinstance(c.position, T5Relative):
            table = self.relative_bias.embedding
            bias = t5_bias(table, query, key, c.position.max_distance)
        if isinstance(c.position, Rotary):
            width = int(c.width_of_head * c.position.fraction)
            rotary = rotary_tables(query, width, c.position.base)
        contexts: dict[str, Context] = {}
        for kind in dict.fromkeys(c.layer_pattern):
            limited = mask & Mask(window=c.window if kind == "local" else None)
            spans = limited.spans(num_queries, num_keys, query_block(num_queries))
            contexts[kind] = Context(mask=limited, bias=bias, rotary=rotary, spans=spans)
        return contexts

    def _run_layers(
        self, x: jax.Array, contexts: dict[str, Context], cache: Cache | None, train: bool
    ) -> tuple[jax.Array, Cache | None]:
        c = self.config
        layers = [
            nn.meta.unbox(self.get_variable("params", f"layer_{i}")) for i in range(c.num_layers)
        ]
        key = self.make_rng("dropout") if train and self.has_rng("dropout") else None
        run = layer_function(c, key, train)
        if cache is not None:
            return _run_cached(run, c, layers, x, contexts, cache)
        if c.scan_layers:
            return _run_scanned(run, c, layers, x, contexts), None
        for i, params in enumerate(layers):
            x, _ = run(params, x, i, contexts[c.layer_pattern[i % len(c.layer_pattern)]])
        return x, None


def query_block(length: int) -> int:
    """Queries a block for a sequence of `length`: a multiple of QUERY_BLOCK, at most MOST_BLOCKS
    of them."""
    return max(1, -(-length // (MOST_BLOCKS * QUERY_BLOCK))) * QUERY_BLOCK


def layer_function(config: ModelConfig, key: jax.Array | None, train: bool) -> LayerFunction:
    """One layer as a pure function, rematerialised as the config says."""
    block = Block(config, parent=None)

    def run(
        params: Params,
        x: jax.Array,
        number: jax.Array | int,
        context: Context,
        cache: LayerCache | None = None,
    ) -> tuple[jax.Array, LayerCache | None]:
        rngs = None if key is None else {"dropout": jax.random.fold_in(key, number)}
        with jax.named_scope("layer"):
            result: Any = block.apply({"params": params}, x, context, cache, train=train, rngs=rngs)
        return result

    if config.remat == "none":
        return run
    policies = jax.checkpoint_policies
    policy = {
        "full": policies.nothing_saveable,
        "dots": policies.dots_with_no_batch_dims_saveable,
    }[config.remat]
    # Inside a scan nothing can be merged with the forward pass, so the guard against it is waste.
    return jax.checkpoint(run, policy=policy, prevent_cse=not config.scan_layers)


def _run_scanned(
    run: LayerFunction,
    config: ModelConfig,
    layers: list[Params],
    x: jax.Array,
    contexts: dict[str, Context],
) -> jax.Array:
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

    def body(x: jax.Array, inputs: tuple[jax.Array, list[Params]]) -> tuple[jax.Array, None]:
        first, params = inputs
        for offset, kind in enumerate(pattern):
            x, _ = run(params[offset], x, first + offset, contexts[kind])
        return x, None

    x, _ = jax.lax.scan(body, x, (jnp.arange(0, config.num_layers, period), stacked))
    return x


def _run_cached(
    run: LayerFunction,
    config: ModelConfig,
    layers: list[Params],
    x: jax.Array,
    contexts: dict[str, Context],
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    """Layers with a cache. Always unrolled: stacking would copy all parameters for every token."""
    keys, values = [], []
    for i, params in enumerate(layers):
        context = contexts[config.layer_pattern[i % len(config.layer_pattern)]]
        x, updated = run(params, x, i, context, (cache.keys[i], cache.values[i], cache.index))
        assert updated is not None
        keys.append(updated[0])
        values.append(updated[1])
    index = cache.index + x.shape[1]
    # A write beyond the last slot would land on earlier tokens and go unnoticed.
    x = jnp.where(index > cache.length, jnp.nan, x)
    return x, cache.replace(keys=tuple(keys), values=tuple(values), index=index)
