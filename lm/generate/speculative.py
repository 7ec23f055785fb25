"""Speculative decoding (Leviathan et al. 2023; Chen et al. 2023): a small model proposes a few
tokens, the large one looks at all of them in one pass and keeps as many as it would have said.

What is said has the large model's own distribution: with greedy choice its very tokens, up to
rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from lm.errors import ConfigError
from lm.generate.arrange import arrange
from lm.generate.decode import Chunk, Decoding
from lm.generate.decode_loop import prefill
from lm.generate.prompts import bucket, check_memory, check_prompts, pad_left
from lm.generate.speculative_loop import Settings, Slots, State, speculate
from lm.model.cache import Cache, position_limit
from lm.types import Params

DRAFT_TOKENS = 4


class Draft(NamedTuple):
    """Who proposes, and how many tokens at a time. Its tokens are the large model's. `report` gets
    the share of the proposals that was kept, at the end."""

    model: nn.Module
    params: Params
    tokens: int = DRAFT_TOKENS
    report: Callable[[float], None] | None = None


class SpeculativeDecoding(Decoding):
    """As `Decoding`, with a draft; `chunk` counts rounds, of one to draft.tokens + 1 tokens.

    Raises:
      ConfigError: as `Decoding`, for either model; no decoders, other vocabularies, fewer than one
        token at a time.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Params,
        prompts: Sequence[Sequence[int]],
        *,
        draft: Draft,
        **options: Any,
    ) -> None:
        """Options: those of `Decoding`."""
        check_draft(model, draft, options.get("vocab_size"))
        super().__init__(model, params, prompts, **options)
        config = draft.model.config
        try:
            check_prompts(
                position_limit(config), self._prompts, self._max_new_tokens, self._sequences,
                self._settings.vocab_size,
            )  # fmt: skip
        except ConfigError as error:
            raise ConfigError(f"the draft: {error}") from error
        check_memory(config, self.rows, self._shape()[1] + draft.tokens + 1)
        self._draft = draft._replace(params=arrange(draft.model, draft.params))
        self._accepted = self._proposed = 0

    @property
    def acceptance(self) -> float:
        """The share of the proposals that was kept so far; NaN before the first."""
        return self._accepted / self._proposed if self._proposed else float("nan")

    def chunks(self) -> Iterator[Chunk]:
        """The first token of every row, then `chunk` rounds at a time until all have ended."""
        draft, plain = self._draft, self._settings
        width = self._shape()[0]
        length = width + bucket(self._max_new_tokens) + draft.tokens + 1
        tokens, positions = pad_left(self._prompts, width)
        read = functools.partial(prefill, sequences=self._sequences, length=length)
        first, token, logprob = read(plain, self._params, tokens, positions, self._keys, {})
        second = read(plain._replace(model=draft.model), draft.params, tokens, positions,
                      self._keys, {})[0]  # fmt: skip
        self.ended |= ~np.asarray(first.active)
        yield Chunk(*(np.asarray(x)[:, None] for x in (token, logprob, np.ones(self.rows, bool))))

        def slots(cache: Cache) -> Slots:
            return cache.keys, cache.values, cache.positions

        state = State(
            slots(first.cache), slots(second.cache), jnp.full(self.rows, width, jnp.int32), token,
            first.position, first.seen, first.active, jnp.ones(self.rows, jnp.int32),
            jnp.int32(0), jnp.int32(0), jnp.int32(0),
        )  # fmt: skip
        settings = Settings(
            plain.model, draft.model, draft.tokens, plain.sampling, plain.eos_id, plain.vocab_size,
            self._max_new_tokens,
        )  # fmt: skip
        self.ended |= self._max_new_tokens == 1
        while not self.ended.all():
            state = state._replace(active=jnp.asarray(~self.ended))
            state, outputs, rounds = speculate(
                settings, self._params, draft.params, state, self._keys, chunk=self._chunk
            )
            self.ended |= ~np.asarray(state.active)
            self._accepted, self._proposed = int(state.accepted), int(state.proposed)
            yield Chunk(*(np.asarray(x)[:, : int(rounds)].reshape(self.rows, -1) for x in outputs))
        if draft.report is not None and self._proposed:
            draft.report(self.acceptance)


def check_draft(model: nn.Module, draft: Draft, vocab_size: int | None = None) -> None:
    """Raises ConfigError where `draft` cannot propose tokens to `model`; `vocab_size` is that of
    the tokenizer which both have."""
    if draft.tokens < 1:
        raise ConfigError(f"draft_tokens must be at least 1, not {draft.tokens}")
    for name, config in (("model", model.config), ("draft", draft.model.config)):
        if config.architecture != "decoder":
            raise ConfigError(
                f"speculative decoding is for decoders; the {name} is a {config.architecture}"
            )
    sizes = model.config.vocab_size, draft.model.config.vocab_size
    same = sizes[0] == sizes[1] if vocab_size is None else min(sizes) >= vocab_size
    if not same:
        raise ConfigError(
            f"the draft has a vocabulary of {sizes[1]} tokens and the model one of {sizes[0]}: "
            "both must have been trained with the same tokenizer"
        )
