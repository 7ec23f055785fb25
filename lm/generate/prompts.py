"""Prompts on their way to the device: where they start, what is refused, padded shapes, and a
random key a row."""

from __future__ import annotations

import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import Config, DataConfig, ModelConfig, SequenceToSequence, SourceToTarget
from lm.data.tokenizer import Tokenizer
from lm.errors import ConfigError, UserError
from lm.model.cache import cache_bytes
from lm.types import Key


def start_token(data: DataConfig, tokenizer: Tokenizer) -> int | None:
    """The token that stood before each document in training and from which its first token was
    predicted: bos, or the eos of the document before; None where there was none."""
    if data.add_bos:
        return tokenizer.bos_id
    if data.add_eos and data.packing == "stream" and not data.segments:
        return tokenizer.eos_id
    return None


def reads_both_ways(config: Config) -> bool:
    """Whether prompts see themselves both ways: those of a decoder that learned from prefixes, or
    from pairs of texts (`lm.objectives.seq2seq`)."""
    return config.model.architecture == "decoder" and isinstance(config.objective, SourceToTarget)


def reads_sources(config: Config) -> bool:
    """Whether a prompt is a text of its own, after which another one is written: an
    encoder-decoder's, or that of a decoder that learned from pairs of texts."""
    joined = config.model.architecture == "encoder_decoder"
    return joined or (reads_both_ways(config) and isinstance(config.objective, SequenceToSequence))


def bucket(length: int, limit: int | None = None) -> int:
    """A padded length, to compile rarely: a power of two from 16 to 256, then a multiple of 256;
    never more than `limit`, the positions of the model."""
    padded = max(16, 1 << (length - 1).bit_length()) if length <= 256 else -(-length // 256) * 256
    return padded if limit is None else min(padded, limit)


def row_keys(seed: int, prompts: int, sequences: int) -> Key:
    """One key a row [prompts * sequences], from the seed, the prompt's and the sequence's index."""
    row = jnp.arange(prompts * sequences)
    key = jax.random.key(seed)
    fold = jax.random.fold_in
    return jax.vmap(lambda i: fold(fold(key, i // sequences), i % sequences))(row)


def pad_left(prompts: Sequence[Sequence[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and positions, int32 [P, length]: pads first, with token 0 and position -1."""
    tokens = np.zeros((len(prompts), length), np.int32)
    positions = np.full((len(prompts), length), -1, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, length - len(prompt) :] = prompt
        positions[row, length - len(prompt) :] = np.arange(len(prompt))
    return tokens, positions


def pad_right(rows: Sequence[Sequence[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """As `pad_left`, with the pads last."""
    tokens = np.zeros((len(rows), length), np.int32)
    positions = np.full((len(rows), length), -1, np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
        positions[number, : len(row)] = np.arange(len(row))
    return tokens, positions


def check_architecture(config: ModelConfig, start: Sequence[int] | None) -> None:
    """Raises ConfigError for a model that writes nothing, or a start where there is no target."""
    if config.architecture not in ("decoder", "encoder_decoder"):
        raise ConfigError(
            "only a decoder or an encoder_decoder generates text; this model's architecture is "
            f"{config.architecture!r} (lm embed gives its hidden states)"
        )
    if start is not None and config.architecture == "decoder":
        raise ConfigError("start is what an encoder_decoder's target begins with; put it before "
                          "the prompt of a decoder")  # fmt: skip
    if start is not None and not len(start):
        raise ConfigError("start is empty: a target begins with at least one token")
    if config.lm_head == "none":
        raise ConfigError('this model has no language-model head (model.lm_head is "none")')


def check_sources(limit: int | None, sources: Sequence[Sequence[int]], vocab_size: int) -> None:
    """Raises UserError for what an encoder cannot read."""
    if not sources:
        raise UserError("no prompt was given")
    for index, source in enumerate(sources):
        _check_tokens(f"prompt {index}", source, vocab_size)
        if limit is not None and len(source) > limit:
            raise UserError(
                f"prompt {index} has {len(source)} tokens, more than the {limit} positions the "
                "model has; shorten it"
            )


def _check_tokens(what: str, tokens: Sequence[int], vocab_size: int) -> None:
    if not len(tokens):
        raise UserError(f"{what} is empty: give it at least one token")
    if not 0 <= min(tokens) <= max(tokens) < vocab_size:
        raise UserError(
            f"{what} has tokens from {min(tokens)} to {max(tokens)}, but the "
            f"vocabulary is 0 to {vocab_size - 1}: was it made with another tokenizer?"
        )


def check_prompts(
    limit: int | None,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    num_return_sequences: int,
    vocab_size: int,
    *,
    targets: bool = False,
) -> None:
    """Raises ConfigError or UserError for what cannot be generated: see `decode.generate`. With
    `targets`, the prompts are the beginnings of an encoder-decoder's targets."""
    if not 1 <= max_new_tokens < 2**31:
        bound = "at least 1" if max_new_tokens < 1 else "below 2^31"
        raise ConfigError(f"max_new_tokens must be {bound}, not {max_new_tokens}")
    if num_return_sequences < 1:
        raise ConfigError(f"num_return_sequences must be at least 1, not {num_return_sequences}")
    if not prompts:
        raise UserError("no prompt was given")
    for index, prompt in enumerate(prompts):
        _check_tokens("the start of the target" if targets else f"prompt {index}", prompt,
                      vocab_size)  # fmt: skip
        if limit is not None and len(prompt) + max_new_tokens > limit:
            what = "start of the target" if targets else "prompt"
            also = "" if targets else " or shorten the prompt"
            raise ConfigError(
                f"{what} of {len(prompt)} tokens + max_new_tokens={max_new_tokens} exceeds the "
                f"{limit} positions the model has; reduce max_new_tokens{also}"
            )


def check_memory(config: ModelConfig, rows: int, length: int, source_length: int = 0) -> None:
    """Raises ConfigError where the caches and logits of `rows` sequences of up to `length` tokens
    (written from sources of `source_length`) are more than the memory there is."""
    needed = cache_bytes(config, rows, length, source_length) + 4 * rows * config.vocab_size
    present = memory_bytes()
    if needed > present:
        raise ConfigError(
            f"{rows} sequences of up to {length} tokens need {needed / 2**30:.3g} GiB of memory, "
            f"and there are {present / 2**30:.3g} GiB; reduce max_new_tokens, "
            "num_return_sequences, or the number of prompts"
        )


def memory_bytes() -> int:
    """Bytes of memory of the default device; on CPU, of the machine."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
