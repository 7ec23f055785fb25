"""What objectives share: reading the text of a row, and applying a model to a batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lm.data.corruption.vocabulary import Vocabulary
from lm.errors import ConfigError
from lm.types import Batch, Key, Params

Tokens = Int[np.ndarray, "_"]


def text_of(pieces: list[Tokens], joined: bool) -> Tokens:
    """The pieces of a row as one text.

    Raises:
      ConfigError: they are to be kept apart.
    """
    if len(pieces) > 1 and not joined:
        raise ConfigError(
            "this objective takes a row for one text, and data puts several apart from each other "
            "into one: set data.packing='none', or 'stream' with data.segments=False"
        )
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def without_ends(tokens: Tokens, vocabulary: Vocabulary) -> Tokens:
    """Without the bos and eos that the data may have put around a document."""
    if len(tokens) and tokens[0] == vocabulary.bos_id:
        tokens = tokens[1:]
    if len(tokens) and tokens[-1] == vocabulary.eos_id:
        tokens = tokens[:-1]
    return tokens


def encoder_hidden(
    model: Any,
    params: Params,
    tokens: Int[Array, "B T"],
    batch: Batch,
    rng: Key | None,
    train: bool,
) -> Float[Array, "B T D"]:
    """An encoder's hidden states of `tokens`, which stand where the batch's do."""
    given = ("positions", "segment_ids", "token_types")
    hidden, _ = model.apply(
        {"params": params},
        tokens,
        **{name: batch[name] for name in given if name in batch},
        train=train,
        rngs={"dropout": rng} if train and rng is not None else None,
        method="hidden",
    )
    return hidden


def valid_tokens(batch: Batch) -> Bool[Array, "B T"]:
    """True at the tokens that are not padding."""
    if "segment_ids" in batch:
        return batch["segment_ids"] > 0
    tokens = batch["tokens"]
    return batch["positions"] >= 0 if "positions" in batch else jnp.ones(tokens.shape, bool)


def heaviest(
    weights: Float[Array, "B T"], count: int, *arrays: Array
) -> tuple[Float[Array, "B P"], Int[Array, "B P"], tuple[Array, ...]]:
    """The `count` places of every row with the largest weights: their weights, where they are, and
    each array [B, T, ...] there. With no more than `count` weights above 0 a row, nothing is lost.
    """
    heavy, places = jax.lax.top_k(weights, count)

    def there(x: Array) -> Array:
        index = places.reshape(*places.shape, *(1,) * (x.ndim - 2))
        return jnp.take_along_axis(x, index, axis=1)

    return heavy, places, tuple(there(x) for x in arrays)
