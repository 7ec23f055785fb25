"""Prompts on their way to the device: where they start, what is refused, padded shapes, and a
random key a row."""

from __future__ import annotations

import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import DataConfig, ModelConfig
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


def check_prompts(
    limit: int | None,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    num_return_sequences: int,
    vocab_size: int,
) -> None:
    """Raises ConfigError or UserError for what cannot be generated: see `decode.generate`."""
    if not 1 <= max_new_tokens < 2**31:
        bound = "at least 1" if max_new_tokens < 1 else "below 2^31"
        raise ConfigError(f"max_new_tokens must be {bound}, not {max_new_tokens}")
    if num_return_sequences < 1:
        raise ConfigError(f"num_return_sequences must be at least 1, not {num_return_sequences}")
    if not prompts:
        raise UserError("no prompt was given")
    for index, prompt in enumerate(prompts):
        if not len(prompt):
            raise UserError(f"prompt {index} is empty: give it at least one token")
        if not 0 <= min(prompt) <= max(prompt) < vocab_size:
            raise UserError(
                f"prompt {index} has tokens from {min(prompt)} to {max(prompt)}, but the "
                f"vocabulary is 0 to {vocab_size - 1}: was it made with another tokenizer?"
            )
        if limit is not None and len(prompt) + max_new_tokens > limit:
            raise ConfigError(
                f"prompt of {len(prompt)} tokens + max_new_tokens={max_new_tokens} exceeds the "
                f"{limit} positions the model has; reduce max_new_tokens or shorten the prompt"
            )


def check_memory(config: ModelConfig, rows: int, length: int) -> None:
    """Raises ConfigError where the caches and logits of `rows` sequences of up to `length` tokens
    are more than the memory there is."""
    needed = cache_bytes(config, rows, length) + 4 * rows * config.vocab_size
    present = _memory()
    if needed > present:
        raise ConfigError(
            f"{rows} sequences of up to {length} tokens need {needed / 2**30:.3g} GiB of memory, "
            f"and there are {present / 2**30:.3g} GiB; reduce max_new_tokens, "
            "num_return_sequences, or the number of prompts"
        )


def _memory() -> int:
    """Bytes of memory of the default device; on CPU, of the machine."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
