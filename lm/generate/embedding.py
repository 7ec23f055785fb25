"""Hidden states of texts: the use of a model as an encoder.

Sequences are grouped by padded length; neither the grouping nor a sequence's neighbours change its
states beyond float32 rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lm.config import DataConfig, ModelConfig
from lm.data.tokenizer import Tokenizer
from lm.errors import ConfigError, UserError
from lm.generate.prompts import bucket, memory_bytes, pad_right
from lm.generate.text import around_source, encode_prompt, encode_source
from lm.model import pool
from lm.model.cache import position_limit
from lm.types import Params

Pooling = Literal["mean", "cls", "last", "none"]

# Tokens in one batch, and attention scores of one layer (2^28 float32 = 1 GiB).
BATCH_TOKENS = 8192
BATCH_SCORES = 1 << 28


def encode_texts(
    tokenizer: Tokenizer,
    texts: Sequence[tuple[str, str]],
    config: ModelConfig,
    data: DataConfig,
    *,
    max_tokens: int | None = None,
) -> list[list[int]]:
    """Token ids of (where, text) pairs, as the model has seen texts: an encoder between <bos> and
    <eos> ([CLS] and [SEP]) where `data` puts them, a decoder after <bos>.

    `max_tokens` cuts longer texts to that many tokens, what stands after them kept.

    Raises:
      UserError: a text without tokens, one that cannot be encoded, or one longer than the model's
        positions (and no `max_tokens` cuts it); it names the line.
      ConfigError: max_tokens beyond the model's positions.
    """
    limit = position_limit(config)
    if limit is not None and max_tokens is not None and max_tokens > limit:
        raise ConfigError(f"max_tokens={max_tokens} exceeds the {limit} positions the model has")
    decoder = config.architecture == "decoder"
    encode = encode_prompt if decoder else encode_source
    after = [] if decoder else around_source(tokenizer, data)[1]
    if max_tokens is not None and max_tokens <= len(after):
        raise ConfigError(f"max_tokens={max_tokens} leaves no room for the text")
    encoded = []
    for where, text in texts:
        try:
            tokens = encode(tokenizer, text, data)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if max_tokens is not None and len(tokens) > max_tokens:
            tokens = tokens[: max_tokens - len(after)] + after
        if limit is not None and len(tokens) > limit:
            raise UserError(
                f"{where}: {len(tokens)} tokens exceed the {limit} positions the model has; "
                "shorten the text, or cut all of them with --max_tokens"
            )
        encoded.append(tokens)
    return encoded


def embed(
    model: nn.Module,
    params: Params,
    sequences: Sequence[Sequence[int]],
    *,
    pooling: Pooling,
    layer: int = -1,
) -> Iterator[tuple[int, np.ndarray]]:
    """(index, states) of every sequence, in the order they are computed.

    Args:
      model, params: any architecture; of an encoder-decoder the encoder is used, of XLNet the
        content stream.
      sequences: token ids, each at least one.
      pooling: "mean" over the tokens, "cls" (the first token of an encoder, the last of XLNet), or
        "last": states are float32 [D]. "none": [T, D].
      layer: whose output, counted as in `hidden_states`: 0 is the first layer's input, -1 the last.

    Raises:
      ConfigError: "cls" of a decoder, or no such layer.
    """
    config: ModelConfig = model.config
    token = _token(config, pooling)
    count = config.num_layers + 1
    if not -count <= layer < count:
        raise ConfigError(f"layer must be from {-count} to {count - 1}, not {layer}")
    limit = position_limit(config)
    groups: dict[int, list[int]] = {}
    for index, sequence in enumerate(sequences):
        groups.setdefault(bucket(len(sequence), limit), []).append(index)
    for length, members in sorted(groups.items()):
        size = _batch_size(config, length, len(members))
        for begin in range(0, len(members), size):
            batch = members[begin : begin + size]
            rows = [sequences[i] for i in batch]
            tokens, positions = pad_right([*rows, *[[]] * (size - len(rows))], length)
            states = np.asarray(_states(model, params, tokens, positions, token, layer % count))
            for row, index in enumerate(batch):
                own = states[row]
                # A copy: a view would keep the whole batch, padding included.
                yield index, own[: len(sequences[index])].copy() if token is None else own


def _batch_size(config: ModelConfig, length: int, count: int) -> int:
    """Rows in a batch: as many as there are, within what a batch may hold.

    Raises:
      ConfigError: not even one row's attention fits the memory.
    """
    # XLNet scores every distance besides every token: twice as many, and then shifted.
    scores = config.num_heads * length * length * (5 if config.architecture == "two_stream" else 1)
    needed, present = 4 * scores, memory_bytes()
    if needed > present:
        raise ConfigError(
            f"a text of up to {length} tokens needs {needed / 2**30:.3g} GiB for its attention, "
            f"and there are {present / 2**30:.3g} GiB; cut the texts with --max_tokens"
        )
    most = max(1, min(BATCH_TOKENS // length, BATCH_SCORES // scores))
    return min(1 << (most.bit_length() - 1), 1 << (count - 1).bit_length())


def _token(config: ModelConfig, pooling: Pooling) -> str | None:
    """Which token's state `lm.model.pool` takes; None is all of them."""
    if pooling == "none":
        return None
    if pooling != "cls":
        return pooling
    if config.architecture == "decoder":
        raise ConfigError(
            "pooling 'cls' takes the first token, which in a decoder sees nothing but itself: use "
            "'last' or 'mean'"
        )
    return "last" if config.architecture == "two_stream" else "first"


@functools.partial(jax.jit, static_argnames=("model", "token", "layer"))
def _states(
    model: nn.Module,
    params: Params,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    token: str | None,
    layer: int,
) -> Float[Array, "B ..."]:
    config: ModelConfig = model.config
    joined = config.architecture == "encoder_decoder"
    where: dict[str, Any] = {"source_positions" if joined else "positions": positions}
    method = "encoder_states" if joined else "hidden_states"
    states: Any = model.apply({"params": params}, tokens, **where, method=method)
    hidden = states[layer].astype(jnp.float32)
    return hidden if token is None else pool(hidden, token, positions >= 0)
