"""Log-probabilities of given token sequences, in batches of few shapes.

Sequences are grouped by padded length; neither the grouping nor a sequence's neighbours change its
score beyond float32 rounding. Only the log-probabilities of the wanted tokens leave the device.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lm.config import ModelConfig
from lm.data.tokenizer import Tokenizer
from lm.errors import ConfigError, UserError
from lm.generate.prompts import bucket
from lm.model import Mask
from lm.model.cache import position_limit
from lm.types import Params

# Tokens in one batch, and logits in memory at once (32 Mi float32 = 128 MiB).
BATCH_TOKENS = 8192
LOGITS_AT_ONCE = 1 << 25


@dataclass(frozen=True)
class Request:
    """Score `tokens` after `context`; `where` names the request in errors ("data.jsonl:3").

    An empty context leaves the first token without a prediction: it is not scored.
    """

    context: Sequence[int]
    tokens: Sequence[int]
    where: str


@dataclass(frozen=True)
class Score:
    """Natural log-probability of the scored tokens: each, and their sum. `greedy`: each is the
    likeliest at its place."""

    tokens: list[int]
    token_logprobs: list[float]
    greedy: bool = True

    @property
    def logprob(self) -> float:
        return float(np.sum(self.token_logprobs, dtype=np.float64))


@dataclass(frozen=True)
class _Piece:
    """A stretch of one request that fits the model: inputs and, for its last tokens, targets."""

    request: int
    inputs: Sequence[int]
    targets: Sequence[int]


# ------------------------------------------------------------------------------- text to requests


def text_request(tokenizer: Tokenizer, text: str, start: int | None, where: str) -> Request:
    """A whole text, as a document: after `start` (`lm.generate.prompts.start_token`), or without
    its first token if that is None.

    Raises:
      UserError: no token to score, or the text cannot be encoded.
    """
    tokens = _encode(tokenizer, text, where)
    if not tokens:
        raise UserError(f"{where}: the text is empty, there is nothing to score")
    if start is None and len(tokens) == 1:
        raise UserError(
            f"{where}: the text is a single token, and no token stood before the documents this "
            "model was trained on: there is nothing to score it after"
        )
    return Request([] if start is None else [start], tokens, where)


def continuation_request(
    tokenizer: Tokenizer,
    context: str,
    continuation: str,
    *,
    start: int | None,
    bos: int | None,
    where: str,
) -> Request:
    """A continuation after a context, which is preceded by `bos` if there is one.

    Both are encoded together, and the continuation's tokens are those after the context's own.
    Where the context's tokens do not begin the joint ones (a token would span the boundary), the
    two are encoded separately. A context without tokens makes the continuation a whole text
    (`text_request`).

    Raises:
      UserError: the continuation has no token, or a text cannot be encoded.
    """
    before = _encode(tokenizer, context, where)
    if not before:
        return text_request(tokenizer, context + continuation, start, where)
    joint = _encode(tokenizer, context + continuation, where)
    if joint[: len(before)] == before:
        tokens = joint[len(before) :]
    else:
        tokens = _encode(tokenizer, continuation, where)
    if not tokens:
        raise UserError(f"{where}: the continuation has no tokens, there is nothing to score")
    return Request([*([] if bos is None else [bos]), *before], tokens, where)


def _encode(tokenizer: Tokenizer, text: str, where: str) -> list[int]:
    try:
        return tokenizer.encode(text)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


# ------------------------------------------------------------------------------ requests to scores


def score(
    model: nn.Module,
    params: Params,
    requests: Sequence[Request],
    *,
    window: int | None = None,
    stride: int | None = None,
    both_ways: bool = False,
) -> list[Score]:
    """The log-probability of every request's tokens, in the order of the requests.

    Args:
      model, params: a decoder and its parameters.
      requests: what to score after what.
      window: the most tokens the model sees at once, where there is a stride; never more than the
        learned positions.
      stride: score sequences longer than the window in windows that move on by this many tokens; a
        token beyond the first window is predicted from window - stride + 1 tokens or more. None
        gives every token all that stands before it, and refuses what exceeds learned positions.
      both_ways: what stands before the scored tokens sees itself both ways, as the model learned
        from prefixes (`lm.generate.prompts.reads_both_ways`).

    Raises:
      ConfigError: a model that predicts no next token; stride not between 1 and the window, or
        without any window.
      UserError: a sequence is longer than the model's positions (and no stride is given).
    """
    config: ModelConfig = model.config
    if config.architecture != "decoder" or config.lm_head == "none":
        what = config.architecture if config.architecture != "decoder" else "decoder without a head"
        raise ConfigError(
            "only a decoder with a language-model head scores texts; this model is of the kind "
            f"{what!r} (lm embed gives its hidden states)"
        )
    window, limit = _window(config, window, stride), position_limit(config)
    pieces = [p for i, r in enumerate(requests) for p in _pieces(i, r, window, stride)]
    groups: dict[int, list[int]] = {}
    for index, piece in enumerate(pieces):
        groups.setdefault(bucket(len(piece.inputs), limit), []).append(index)
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for length, members in sorted(groups.items()):
        size = _batch_size(len(members), length)
        for begin in range(0, len(members), size):
            batch = members[begin : begin + size]
            scored = _score_batch(
                model, params, [pieces[i] for i in batch], size, length, both_ways
            )
            found.update(zip(batch, scored))
    scores = [Score([], []) for _ in requests]
    for index, piece in enumerate(pieces):
        logprobs, likeliest = found[index]
        before = scores[piece.request]
        before.tokens.extend(map(int, piece.targets))
        before.token_logprobs.extend(logprobs.tolist())
        greedy = before.greedy and bool(likeliest.all())
        scores[piece.request] = replace(before, greedy=greedy)
        if not np.isfinite(logprobs).all():
            raise UserError(
                f"{requests[piece.request].where}: the model gives probabilities that are not "
                "numbers; did its training diverge?"
            )
    return scores


def _window(config: ModelConfig, window: int | None, stride: int | None) -> int | None:
    """The most inputs of one forward pass; None is any number."""
    limit = position_limit(config)
    if stride is None:
        return limit
    sizes = [size for size in (window, limit) if size is not None]
    if not sizes:
        raise ConfigError("a window stride needs a window: the model's positions do not end")
    if not 1 <= stride <= min(sizes):
        raise ConfigError(
            f"the window stride must be between 1 and the window's {min(sizes)} tokens, "
            f"not {stride}"
        )
    return min(sizes)


def _pieces(index: int, request: Request, window: int | None, stride: int | None) -> list[_Piece]:
    """A request as one piece, or as overlapping windows that score each token once."""
    tokens = [*request.context, *request.tokens]
    # Token i is predicted from the inputs before it; `done` is the first one not yet scored.
    done, end = max(len(request.context), 1), len(tokens)
    if window is None or end - 1 <= window:
        return [_Piece(index, tokens[:-1], tokens[done:])] if done < end else []
    if stride is None:
        raise UserError(
            f"{request.where}: {len(tokens)} tokens, of which the model reads all but the last, "
            f"exceed its {window} positions; shorten the text, or score it in windows "
            "(--window_stride)"
        )
    pieces = []
    # The first window is full of new tokens; later ones bring `stride`.
    stop = max(min(window + 1, end), min(done + stride, end))
    while done < end:
        inputs = tokens[max(0, stop - 1 - window) : stop - 1]
        pieces.append(_Piece(index, inputs, tokens[done:stop]))
        done, stop = stop, min(stop + stride, end)
    return pieces


def _batch_size(count: int, length: int) -> int:
    """A power of two: enough rows for `count`, as far as BATCH_TOKENS allows."""
    most = max(1, BATCH_TOKENS // length)
    return min(1 << (most.bit_length() - 1), 1 << (count - 1).bit_length())


def _score_batch(
    model: nn.Module,
    params: Params,
    pieces: Sequence[_Piece],
    size: int,
    length: int,
    both_ways: bool,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Log-probabilities of each piece's targets, and whether each is the likeliest. Rows are padded
    on the right, where causal attention cannot see; missing rows are all padding."""
    inputs = np.zeros((size, length), np.int32)
    targets = np.zeros((size, length), np.int32)
    prefixes = np.ones(size, np.int32)
    for row, piece in enumerate(pieces):
        stop = len(piece.inputs)
        inputs[row, :stop] = piece.inputs
        targets[row, stop - len(piece.targets) : stop] = piece.targets
        prefixes[row] = stop - len(piece.targets) + 1
    found = _target_logprobs(model, params, inputs, targets, prefixes if both_ways else None)
    logprobs, likeliest = map(np.asarray, found)
    places = [slice(len(p.inputs) - len(p.targets), len(p.inputs)) for p in pieces]
    return [(logprobs[row, own], likeliest[row, own]) for row, own in enumerate(places)]


@functools.partial(jax.jit, static_argnames=("model",))
def _target_logprobs(
    model: nn.Module,
    params: Params,
    inputs: Int[Array, "B T"],
    targets: Int[Array, "B T"],
    prefixes: Int[Array, " B"] | None,
) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
    """log p(target | inputs up to there), and whether no token is likelier, with the logits of a
    part of the tokens at a time. The first `prefixes` inputs are seen by all."""
    variables, mask = {"params": params}, None
    if prefixes is not None:
        place = jnp.arange(inputs.shape[1])
        prefix = place < prefixes[:, None]
        mask = Mask(allowed=((place[:, None] >= place) | prefix[:, None, :])[:, None])
    read: Any = model.apply(variables, inputs, mask=mask, method="hidden")
    hidden = read[0]
    count, vocab_size = inputs.size, model.config.vocab_size
    parts = 1
    while count % (2 * parts) == 0 and (count // parts) * vocab_size > LOGITS_AT_ONCE:
        parts *= 2

    def part(arguments: tuple[Array, Array]) -> tuple[Array, Array]:
        hidden, targets = arguments
        logits: Any = model.apply(variables, hidden, method="logits")
        chosen = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return chosen - jax.nn.logsumexp(logits, axis=-1), chosen >= jnp.max(logits, axis=-1)

    logprobs, likeliest = jax.lax.map(
        part,
        (
            hidden.reshape(parts, count // parts, hidden.shape[-1]),
            targets.reshape(parts, count // parts),
        ),
    )
    return logprobs.reshape(inputs.shape), likeliest.reshape(inputs.shape)
