"""The programs that an artefact holds: pure functions of parameters and named arrays, exported with
as many of their lengths open as the model's own code allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import export

from lm.config import ModelConfig
from lm.generate.row_sampling import sample_rows
from lm.model import pool
from lm.model.cache import Cache, empty_slots, position_limit
from lm.types import Params

# Arrays by name: shapes with a letter where a length is open, and a dtype.
Inputs = Mapping[str, tuple[tuple[str | int, ...], Any]]
Arrays = Mapping[str, jax.Array]

TOKENS = (("b", "t"), jnp.int32)


class Program(NamedTuple):
    """What is exported: `function(params, arrays)` gives arrays by name.

    `limits` are what its open lengths have to keep to, as `jax.export.SymbolicScope` says it.
    """

    function: Callable[[Params, Arrays], dict[str, jax.Array]]
    inputs: Inputs
    limits: tuple[str, ...] = ()


class Use(NamedTuple):
    """What a model is used for: `kind`, its program, and how texts become the program's arrays
    (all that `run.py` has to know)."""

    kind: str
    program: Program
    how: dict[str, Any]


def exported(program: Program, params: Params, platforms: tuple[str, ...]) -> bytes:
    """The program as StableHLO for all these platforms, serialised by `jax.export`; `params` are
    shapes and dtypes."""
    scope = export.SymbolicScope(program.limits)
    arrays = {
        name: jax.ShapeDtypeStruct(
            export.symbolic_shape(", ".join(map(str, shape)), scope=scope) if shape else (), dtype
        )
        for name, (shape, dtype) in program.inputs.items()
    }
    found = export.export(jax.jit(program.function), platforms=platforms)(params, arrays)
    return bytes(found.serialize())


# ---------------------------------------------------------------------------------- generation


class _State(NamedTuple):
    """What one step hands to the next: the cache holds everything before `token` [B]; `made` tokens
    a row are in `outputs`, of which `own` [B] are the row's own."""

    made: jax.Array
    cache: Any
    token: jax.Array
    position: jax.Array
    active: jax.Array
    own: jax.Array
    outputs: dict[str, jax.Array]


class _Loop:
    """The decoding loop on the arrays that `generation` describes."""

    def __init__(
        self, model: nn.Module, vocab_size: int, eos_id: int | None, params: Params, arrays: Arrays
    ) -> None:
        self._model, self._vocab_size, self._eos_id = model, vocab_size, eos_id
        self._variables, self._arrays = {"params": params}, arrays
        self._rows, self._room = arrays["tokens"].shape[0], arrays["fill"].shape[0]
        # As `lm.generate.prompts.row_keys`, of a number of rows that may be open.
        key, fold = jax.random.key(arrays["seed"]), jax.random.fold_in
        self._keys = jax.vmap(lambda row: fold(fold(key, row), 0))(jnp.arange(self._rows))

    def run(self) -> dict[str, jax.Array]:
        limit = jnp.minimum(self._arrays["limit"], self._room)

        def unfinished(state: _State) -> jax.Array:
            return (state.made < limit) & jnp.any(state.active)

        state = jax.lax.while_loop(unfinished, self._step, self._begin())
        return {**state.outputs, "count": state.own}

    def _begin(self) -> _State:
        """Reads the prompts and chooses the first token."""
        arrays, rows, room = self._arrays, self._rows, self._room
        tokens, positions = arrays["tokens"], arrays["positions"]
        names = ("source", "source_positions")
        source: dict[str, Any] = {name: arrays[name] for name in names if name in arrays}
        cache = empty_slots(self._model.config, rows, tokens.shape[1] + room)
        read: Any = self._model.apply(
            self._variables, tokens, positions=positions, cache=cache, **source, method="hidden"
        )
        hidden, cache = read
        # Padding is on the left, so every prompt's last token stands in the last column.
        logits: Any = self._model.apply(self._variables, hidden[:, -1], method="logits")
        none = jnp.zeros_like(positions[:, -1])
        outputs = {
            "tokens": jnp.broadcast_to(arrays["fill"], (rows, room)),
            "logprobs": jnp.zeros((rows, room), jnp.float32),
        }
        before = (jnp.int32(0), _packed(cache), none, positions[:, -1], none == 0, none, outputs)
        return self._chosen(_State(*before), logits)

    def _step(self, state: _State) -> _State:
        said: Any = self._model.apply(
            self._variables, state.token[:, None], positions=state.position[:, None],
            cache=_unpacked(state.cache, self._rows),
        )  # fmt: skip
        logits, cache = said
        return self._chosen(state._replace(cache=_packed(cache)), logits[:, 0])

    def _chosen(self, state: _State, logits: jax.Array) -> _State:
        """The state once the rows that go on have chosen."""
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(self._keys, state.made)
        names = ("temperature", "top_p", "top_k")
        how = [jnp.broadcast_to(self._arrays[name], (self._rows,)) for name in names]
        token = sample_rows(keys, logits[:, : self._vocab_size], *how)
        chosen = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
        columns = {
            "tokens": jnp.where(state.active, token, self._arrays["fill"][state.made]),
            "logprobs": jnp.where(state.active, chosen - jax.nn.logsumexp(logits, axis=-1), 0.0),
        }
        outputs = {
            name: jax.lax.dynamic_update_index_in_dim(state.outputs[name], column, state.made, 1)
            for name, column in columns.items()
        }
        own = state.own + state.active
        ended = False if self._eos_id is None else token == self._eos_id
        active = state.active & ~jnp.asarray(ended)
        made, position = state.made + 1, state.position + 1
        return _State(made, state.cache, token, position, active, own, outputs)


def generation(model: nn.Module, vocab_size: int, eos_id: int | None) -> Program:
    """Prompts, or an encoder-decoder's sources, to what follows: as `lm.generate.decode` makes it
    with the same seed, the loop with its cache and all.

    Inputs: tokens, positions int32 [b, t], padded on the left with positions -1; of an
    encoder-decoder source, source_positions int32 [b, s], padded on the right, and the others are
    what its targets begin with. fill int32 [n]: how many tokens there is room for, and what
    stands where none is made; limit int32: how many to make, at most n; seed uint32; temperature
    float32 (0: the likeliest token); top_k int32 (0: all); top_p float32 (1: all).
    Outputs: tokens int32, logprobs float32 [b, n], and count int32 [b]: how many are the row's.
    """

    def generate(params: Params, arrays: Arrays) -> dict[str, jax.Array]:
        return _Loop(model, vocab_size, eos_id, params, arrays).run()

    config: ModelConfig = model.config
    scalars = {"limit": jnp.int32, "seed": jnp.uint32, "temperature": jnp.float32}
    scalars |= {"top_k": jnp.int32, "top_p": jnp.float32}
    inputs = {"tokens": TOKENS, "positions": TOKENS, "fill": (("n",), jnp.int32)}
    inputs |= {name: ((), dtype) for name, dtype in scalars.items()}
    lengths = ["t"]
    if config.architecture == "encoder_decoder":
        shape = (("b", "s"), jnp.int32)
        inputs |= {"source": shape, "source_positions": shape}
        lengths.append("s")
    most = position_limit(config)
    limits = () if most is None else (*(f"{x} <= {most}" for x in lengths), f"t + n <= {most}")
    return Program(generate, inputs, limits)


def _packed(cache: Cache) -> Cache:
    """As the loop carries it: with rows and heads as one axis. Of a single row XLA would otherwise
    copy the cache at every step (see `lm.generate.decode_loop`)."""

    def joined(x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

    return cache.replace(
        keys=tuple(map(joined, cache.keys)), values=tuple(map(joined, cache.values))
    )


def _unpacked(cache: Cache, rows: Any) -> Cache:
    """What `_packed` was given."""

    def apart(x: jax.Array) -> jax.Array:
        return x.reshape(rows, x.shape[0] // rows, *x.shape[1:])

    return cache.replace(keys=tuple(map(apart, cache.keys)), values=tuple(map(apart, cache.values)))


# -------------------------------------------------------------------- what is read in one go


def reading(
    model: nn.Module,
    length: int | None,
    function: Callable[[Params, Arrays], dict[str, jax.Array]],
    *,
    typed: bool,
) -> Program:
    """A function of texts [b, t], padded on the right with positions -1; `length` of None leaves t
    open. `typed`: they have token_types."""
    names = ("tokens", "positions", "token_types") if typed else ("tokens", "positions")
    shape: tuple[str | int, ...] = ("b", "t" if length is None else length)
    most = position_limit(model.config)
    limits = () if most is None or length is not None else (f"t <= {most}",)
    return Program(function, dict.fromkeys(names, (shape, jnp.int32)), limits)


def embedding(model: nn.Module, length: int | None) -> Program:
    """Texts to hidden states, as `lm.generate.embedding` makes them of the last layer.

    Outputs: hidden float32 [b, t, D]; mean, cls and last float32 [b, D]: pooled over the tokens,
    the token that stands for a text (an encoder's first, XLNet's last), the last token.
    """
    config: ModelConfig = model.config
    two_stream = config.architecture == "two_stream"

    def embed(params: Params, arrays: Arrays) -> dict[str, jax.Array]:
        positions = arrays["positions"]
        found: Any = model.apply(
            {"params": params}, arrays["tokens"], positions=positions, method="hidden"
        )
        hidden, valid = found[0].astype(jnp.float32), positions >= 0
        last = pool(hidden, "last", valid)
        cls = last if two_stream else pool(hidden, "first", valid)
        return {"hidden": hidden, "mean": pool(hidden, "mean", valid), "cls": cls, "last": last}

    return reading(model, length, embed, typed=False)
