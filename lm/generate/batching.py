"""Prompts searched some at a time: those of similar lengths together, in few padded shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lm.config import ModelConfig
from lm.errors import ConfigError
from lm.generate.prompts import (
    bucket,
    check_architecture,
    check_memory,
    check_prompts,
    check_sources,
    memory_bytes,
    pad_left,
    pad_right,
)
from lm.model import Mask
from lm.model.cache import cache_bytes, position_limit

MOST_PROMPTS = 128
# Arrays of the size of the logits that live at the same time in a step.
_COPIES = 4


def checked_start(
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    start: Sequence[int] | None,
    max_new_tokens: int,
    vocab_size: int,
) -> list[int] | None:
    """What an encoder-decoder's targets begin with, None for a decoder, once all is well.

    Raises:
      ConfigError, UserError: as `lm.generate.decode.generate`, but for its memory.
    """
    check_architecture(config, start)
    limit = position_limit(config)
    begin: list[int] | None = None
    if config.architecture == "encoder_decoder":
        check_sources(limit, prompts, config.source_vocab_size or vocab_size)
        assert config.decoder_start_id is not None
        begin = [config.decoder_start_id] if start is None else list(start)
    check_prompts(
        limit, prompts if begin is None else [begin], max_new_tokens, 1, vocab_size,
        targets=begin is not None,
    )  # fmt: skip
    return begin


class Batch:
    """Prompts (or sources, of targets that begin with `begin`), padded, `rows_each` rows of a cache
    for each.

    tokens, positions: int32 [B, width], padded on the left; what `model.hidden` reads.
    source: what an encoder reads, by the names of the model's arguments; of a decoder's prompts
      that see themselves both ways (`both_ways`) their mask.
    real: [B], False for rows that only fill the batch.
    """

    def __init__(
        self,
        config: ModelConfig,
        prompts: Sequence[Sequence[int]],
        begin: Sequence[int] | None,
        max_new_tokens: int,
        rows_each: int,
        *,
        both_ways: bool = False,
    ) -> None:
        self._limit = position_limit(config)
        self.real = np.arange(1 << (len(prompts) - 1).bit_length()) < len(prompts)
        # Batches of a few sizes only, to compile rarely.
        filled = [*prompts, *[prompts[-1]] * int(np.sum(~self.real))]
        self.source: dict[str, Any] = {"mask": Mask()} if both_ways else {}
        self.width, read = bucket(max(map(len, filled)), self._limit), 0
        if begin is not None:
            source, source_positions = pad_right(filled, self.width)
            self.source = {"source": source, "source_positions": source_positions}
            filled, read, self.width = [list(begin)] * len(filled), self.width, len(begin)
        elif self._limit is not None:
            # `checked_start` saw to it that this leaves room for the longest prompt.
            self.width = min(self.width, self._limit - max_new_tokens)
        check_memory(config, len(filled) * rows_each, self.slots(max_new_tokens), read)
        self.tokens, self.positions = pad_left(filled, self.width)

    def slots(self, new_tokens: int) -> int:
        """Slots of a cache for this many new tokens."""
        slots = self.width + bucket(new_tokens)
        return slots if self._limit is None else min(slots, self._limit)


def batches(
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    rows_each: int,
    batch_size: int | None = None,
) -> Iterator[list[int]]:
    """The prompts' numbers, those of one padded length together; the longest first, so that what
    does not fit the memory fails at once. `batch_size` at a time: None is a power of two for which
    an eighth of the memory is enough, at most 128.

    Raises:
      ConfigError: a batch_size below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    at = 0
    while at < len(order):
        width = bucket(len(prompts[order[at]]))
        size = batch_size or _room(config, rows_each, width + bucket(max_new_tokens))
        same = [i for i in order[at : at + size] if bucket(len(prompts[i])) == width]
        yield same
        at += len(same)


def _room(config: ModelConfig, rows_each: int, length: int) -> int:
    needed = rows_each * (cache_bytes(config, 1, length) + _COPIES * 4 * config.vocab_size)
    room = max(1, memory_bytes() // 8 // needed)
    return min(MOST_PROMPTS, 1 << (room.bit_length() - 1))
