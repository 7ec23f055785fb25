"""The decoding loop: prompts in one pass, then one token a step on the device with a KV cache.

Prompts of different lengths are padded on the left, the sources of an encoder-decoder on the right;
a pad has position -1, so nothing ever attends to it. The loop runs on the device for a chunk of
steps at a time, between which the host may look at the tokens (to stream text, to find stop
strings) and end rows.

A row's random numbers follow from the seed and its index, and what it attends to from its prompt:
neither its neighbours, nor padding, nor chunks matter, up to rounding. A program of another shape
may round otherwise, so where two tokens are about equally likely (in bfloat16 not rarely) a row may
say the other one and go on differently.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from lm.config import ModelConfig
from lm.generate.arrange import arrange
from lm.generate.decode_loop import Settings, decode, prefill
from lm.generate.prompts import (
    bucket,
    check_architecture,
    check_memory,
    check_prompts,
    check_sources,
    pad_left,
    pad_right,
    row_keys,
)
from lm.generate.sampling import SamplingConfig
from lm.model import Mask
from lm.model.cache import position_limit
from lm.types import Params

FinishReason = Literal["eos", "stop", "length"]


@dataclass(frozen=True)
class Completion:
    """What followed one prompt.

    tokens: ids, with the end-of-sequence token that finished it, if one did.
    logprobs: natural log-probability of each under the model itself (temperature 1, no filters);
      empty if they were not asked for.
    finish_reason: "eos"; "stop", a stop string; or "length", max_new_tokens were made.
    """

    tokens: list[int]
    logprobs: list[float]
    finish_reason: FinishReason


class Chunk(NamedTuple):
    """The tokens of a few steps, [rows, steps]; `valid` is False where a row had already ended, and
    log-probabilities are 0 where nobody asked for them."""

    tokens: np.ndarray
    logprobs: np.ndarray
    valid: np.ndarray


class Decoding:
    """One batch of prompts being continued; iterate over `chunks()`, and `end()` rows meanwhile.

    Rows are ordered by prompt, then by sequence: row = prompt * num_return_sequences + sequence.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Params,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: SamplingConfig,
        max_new_tokens: int,
        eos_id: int | None = None,
        seed: int = 0,
        num_return_sequences: int = 1,
        vocab_size: int | None = None,
        start: Sequence[int] | None = None,
        chunk: int | None = None,
        both_ways: bool = False,
        logprobs: bool = True,
    ) -> None:
        """See `generate`. `chunk` is the number of steps between looks of the host; None is all.
        `both_ways`: see `lm.generate.beam.beam_search`."""
        config: ModelConfig = model.config
        check_architecture(config, start)
        vocab_size = min(vocab_size or config.vocab_size, config.vocab_size)
        self._limit = position_limit(config)
        self._source: dict[str, Any] = {}
        self._mask: dict[str, Any] = {"mask": Mask()} if both_ways else {}
        if config.architecture == "encoder_decoder":
            check_sources(self._limit, prompts, config.source_vocab_size or vocab_size)
            longest = bucket(max(map(len, prompts)), self._limit)
            source, source_positions = pad_right(prompts, longest)
            self._source = {"source": source, "source_positions": source_positions}
            assert config.decoder_start_id is not None
            beginning = [config.decoder_start_id] if start is None else list(start)
            prompts = [beginning] * len(prompts)
        check_prompts(
            self._limit, prompts, max_new_tokens, num_return_sequences, vocab_size,
            targets=bool(self._source),
        )  # fmt: skip
        self.rows = len(prompts) * num_return_sequences
        self._prompts = prompts
        self._max_new_tokens = max_new_tokens
        read = self._source["source"].shape[1] if self._source else 0
        check_memory(config, self.rows, self._shape()[1], read)
        self.ended = np.zeros(self.rows, bool)
        self._settings = Settings(model, sampling, eos_id, vocab_size, logprobs)
        self._params = arrange(model, params)
        self._sequences = num_return_sequences
        self._keys = row_keys(seed, len(prompts), num_return_sequences)
        self._chunk = bucket(max_new_tokens) if chunk is None else chunk

    def _shape(self) -> tuple[int, int]:
        """Padded length of the prompts, and slots of the cache; within the learned positions."""
        longest = max(map(len, self._prompts))
        # The start of a target is of one length; prompts are of many.
        width = longest if self._source else bucket(longest)
        length = width + bucket(self._max_new_tokens)
        if self._limit is not None:
            # `check_prompts` saw to it that this leaves room for the longest prompt.
            width = min(width, self._limit - self._max_new_tokens)
            length = min(width + bucket(self._max_new_tokens), self._limit)
        return width, length

    def end(self, row: int) -> None:
        """The row makes no more tokens after this chunk."""
        self.ended[row] = True

    def chunks(self) -> Iterator[Chunk]:
        """The first token of every row, then up to `chunk` steps at a time until all have ended."""
        width, length = self._shape()
        tokens, positions = pad_left(self._prompts, width)
        state, token, logprob = prefill(
            self._settings,
            self._params,
            tokens,
            positions,
            self._keys,
            {**self._source, **self._mask},
            sequences=self._sequences,
            length=length,
        )
        made = 1
        self.ended |= ~np.asarray(state.active)
        first = (token, logprob, np.ones(self.rows, bool))
        yield Chunk(*(np.asarray(x)[:, None] for x in first))
        while made < self._max_new_tokens and not self.ended.all():
            limit = jnp.int32(min(self._chunk, self._max_new_tokens - made))
            state = state._replace(active=jnp.asarray(~self.ended))
            state, *outputs, steps = decode(
                self._settings, self._params, state, self._keys, limit, chunk=self._chunk
            )
            made += int(steps)
            self.ended |= ~np.asarray(state.active)
            yield Chunk(*(np.asarray(x)[:, : int(steps)] for x in outputs))

    def completions(self) -> list[list[Completion]]:
        """All that is said, to the end: the completions of each prompt."""
        tokens: list[list[int]] = [[] for _ in range(self.rows)]
        logprobs: list[list[float]] = [[] for _ in range(self.rows)]
        for chunk in self.chunks():
            for row in range(self.rows):
                valid = chunk.valid[row]
                tokens[row] += chunk.tokens[row][valid].tolist()
                if self._settings.logprobs:
                    logprobs[row] += chunk.logprobs[row][valid].tolist()
        eos_id = self._settings.eos_id
        rows = [
            Completion(t, p, "eos" if t[-1] == eos_id else "length")
            for t, p in zip(tokens, logprobs)
        ]
        n = self._sequences
        return [rows[i : i + n] for i in range(0, len(rows), n)]


def generate(
    model: nn.Module,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: SamplingConfig,
    max_new_tokens: int,
    eos_id: int | None = None,
    seed: int = 0,
    num_return_sequences: int = 1,
    vocab_size: int | None = None,
    start: Sequence[int] | None = None,
    logprobs: bool = True,
) -> list[list[Completion]]:
    """Continues token prompts, all in one batch; `lm.generate.text` does the same for text. An
    encoder-decoder reads them and writes a target.

    Args:
      model, params: a decoder or an encoder-decoder (`build_model`) and its parameters, best
        arranged once (`lm.generate.arrange`); they may be quantised (`lm.generate.quantize`).
      prompts: token ids, each at least one; of any lengths.
      sampling: how a token is chosen.
      max_new_tokens: the most tokens a completion has.
      eos_id: the token after which a row ends; None ends at max_new_tokens only.
      seed: of the sampling. A prompt's completions depend on it and on the prompt's index.
      num_return_sequences: completions a prompt.
      vocab_size: only ids below it are chosen, for models padded beyond the tokenizer's vocabulary.
      start: the tokens an encoder-decoder's target begins with, which are not in the result; None
        is the config's decoder_start_id. (M2M-100: that, and the target language's token.)
      logprobs: give the tokens' log-probabilities, for which all logits are needed at every token.

    Returns:
      One list of `num_return_sequences` completions a prompt.

    Raises:
      ConfigError: an encoder; a count below 1, prompt and completion beyond the model's learned
        positions, or sequences that do not fit the memory.
      UserError: no prompt, an empty one, or ids outside the vocabulary.
    """
    return Decoding(
        model, params, prompts, sampling=sampling, max_new_tokens=max_new_tokens, eos_id=eos_id,
        seed=seed, num_return_sequences=num_return_sequences, vocab_size=vocab_size, start=start,
        logprobs=logprobs,
    ).completions()  # fmt: skip
