"""A model and its head on a batch of rows, whatever the architecture."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm.config import HeadKind
from lm.objectives.common import encoder_hidden, valid_tokens
from lm.types import Batch, Key, Params


def initial_params(model: Any, rng: Key, tokens: Any) -> Params:
    """Initial parameters; `tokens` [B, T] says nothing but shapes."""
    tokens = jnp.asarray(tokens[:1])
    source = {"source": tokens} if model.config.architecture == "encoder_decoder" else {}
    return model.init({"params": rng}, tokens, **source)["params"]


def outputs(
    model: Any,
    params: Params,
    kind: HeadKind,
    batch: Batch,
    rng: Key | None,
    *,
    train: bool,
) -> Float[Array, "B ... labels"]:
    """What the head `kind` says of every row, or of every token: float32 [B, labels] or [B, T,
    labels]. `batch` as `lm.objectives.tasks.rows.Layout.row` makes rows."""
    valid = valid_tokens(batch)
    if model.config.architecture == "encoder_decoder":
        hidden = _decoder_hidden(model, params, batch["tokens"], batch["positions"], rng, train)
    else:
        hidden = encoder_hidden(model, params, batch["tokens"], batch, rng, train)
    dropout = train and rng is not None
    return model.apply(
        {"params": params},
        kind,
        hidden,
        valid,
        train=train,
        rngs={"dropout": jax.random.fold_in(rng, 1)} if dropout else None,  # type: ignore[arg-type]
        method="head",
    )


def _decoder_hidden(
    model: Any,
    params: Params,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    rng: Key | None,
    train: bool,
) -> Float[Array, "B T D"]:
    """The decoder reads the source again, after its start token (BART's way to classify, and T5's
    in transformers)."""
    start = jnp.full_like(tokens[:, :1], model.config.decoder_start_id)
    hidden, _ = model.apply(
        {"params": params},
        jnp.concatenate([start, tokens[:, :-1]], axis=1),
        source=tokens,
        source_positions=positions,
        train=train,
        rngs={"dropout": rng} if train and rng is not None else None,
        method="hidden",
    )
    return hidden
