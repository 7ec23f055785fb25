"""Rows on the device that come and go: each joins with its own prompt, seed and sampling, is
decoded a chunk of steps at a time beside whatever else is there, and leaves.

The programs are in lm/serve/device.py. There are few of them: rows come in powers of two, columns
in powers of four, prompts padded to powers of two.

A row's random numbers are those of `lm generate` with its seed, so it says what it would say
there, and alone, up to rounding (see lm/generate/decode.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from lm.errors import ConfigError
from lm.generate.arrange import arrange
from lm.generate.prompts import memory_bytes, pad_left
from lm.model.cache import cache_bytes, position_limit
from lm.serve import device
from lm.types import Params

_FEWEST_COLUMNS = 256
_NARROWEST_PROMPT = 32


@dataclass(frozen=True)
class Sampling:
    """How one row chooses: the seed, which of the seed's prompts and sequences it is, temperature
    (0: the likeliest token), top_p (1: all tokens), top_k (0: all), and whether the likeliest
    tokens are wanted."""

    seed: int = 0
    prompt: int = 0
    sequence: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    alternatives: bool = False


@dataclass(eq=False)
class Row:
    """A sequence to make: `prompt`'s continuation, at most `max_new_tokens`; `made` so far. With
    `scored` the prompt's tokens too are given, `of_prompt`, once the row has joined; of the first
    one there is no log-probability (nan)."""

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling
    scored: bool = False
    made: int = field(default=0, init=False)
    of_prompt: list[Made] = field(default_factory=list, init=False)

    @property
    def length(self) -> int:
        return len(self.prompt) + self.made

    @property
    def total(self) -> int:
        return len(self.prompt) + self.max_new_tokens


class Made(NamedTuple):
    """A token, its natural log-probability under the model, and the likeliest tokens at its place
    with theirs (empty unless the row asked)."""

    token: int
    logprob: float
    alternatives: list[tuple[int, float]]


def _power(least: int, number: int, factor: int = 2) -> int:
    while least < number:
        least *= factor
    return least


class Slots:
    """The rows being decoded. Not for several threads.

    model, params: a decoder and its parameters; only ids below `vocab_size` are chosen; a row ends
    after `eos_id`. At most `max_batch` rows of at most `max_tokens`, prompt included; `chunk` steps
    in one `advance`. `both_ways`: as `lm.generate.prompts.reads_both_ways` says.

    Raises:
      ConfigError: the model has fewer positions, or the caches do not fit the memory.
    """

    def __init__(self, model: nn.Module, params: Params, *, vocab_size: int, eos_id: int | None,
                 max_batch: int, max_tokens: int, chunk: int = 8,
                 both_ways: bool = False) -> None:  # fmt: skip
        config = model.config
        vocab_size = min(vocab_size, config.vocab_size)
        self._settings = device.Settings(model, vocab_size, eos_id, both_ways)
        self._params = arrange(model, params)
        self._limit = position_limit(config)
        if self._limit is not None and max_tokens > self._limit:
            raise ConfigError(
                f"prompts and completions of up to {max_tokens} tokens, but the model has "
                f"{self._limit} positions"
            )
        self._max_batch, self._max_tokens, self._chunk = max_batch, max_tokens, chunk
        # Twice: rows are moved from one cache into another.
        needed = 2 * cache_bytes(config, max_batch, self._columns(max_tokens))
        if needed > memory_bytes():
            raise ConfigError(
                f"{max_batch} sequences of up to {max_tokens} tokens need {needed / 2**30:.3g} GiB "
                f"for their caches, and there are {memory_bytes() / 2**30:.3g} GiB; reduce "
                "--max_batch, --max_prompt_tokens or --max_new_tokens"
            )
        self.clear()

    def clear(self) -> None:
        """Forgets every row, and gives the memory back."""
        self._state: device.State | None = None
        self._places: list[Row | None] = []
        self._index = 0
        self._read: tuple[Sequence[int], Any] | None = None

    @property
    def rows(self) -> list[Row]:
        return [row for row in self._places if row is not None]

    def remove(self, row: Row) -> None:
        self._places[self._places.index(row)] = None
        if not self.rows:
            self.clear()

    def join(self, new: Sequence[Row]) -> list[Made]:
        """Takes rows in: the first token of each. No more than there is room for."""
        self._fit(new)
        self._state = self._state or self._begin(new)
        first = []
        for row in new:
            cache, logits = self._read_prompt(row.prompt)
            if row.scored:
                row.of_prompt = self._scored_prompt(row)
            s, place = row.sampling, self._places.index(None)
            numbers = (len(row.prompt), s.seed, s.prompt, s.sequence, row.max_new_tokens, s.top_k)
            sampling = np.array([s.temperature, s.top_p, s.alternatives], np.float32)
            began, chosen = device.choose_first(
                self._settings, logits, np.array(numbers, np.uint32), sampling
            )
            self._state = device.insert(self._state, cache, began, np.int32(place))
            self._places[place] = row
            first.append(chosen)
        self._read = None
        made = []
        for row, chosen in zip(new, jax.device_get(first)):
            row.made = 1
            made.append(self._made(row, chosen, (0,)))
        return made

    def advance(self) -> list[tuple[Row, list[Made]]]:
        """What each row says in the next chunk; fewer tokens than steps where it ended."""
        self._fit(())
        assert self._state is not None
        keep = np.array([row is not None for row in self._places])
        limit = min(self._chunk, self._state.cache.length - self._index)
        self._state, chosen, valid, steps = device.decode(
            self._settings, self._params, self._state, keep, np.int32(limit), chunk=self._chunk
        )
        chosen, valid, steps = jax.device_get((chosen, valid, steps))
        self._index += int(steps)
        said = []
        for place, row in enumerate(self._places):
            if row is not None:
                made = [
                    self._made(row, chosen, (place, t))
                    for t in np.flatnonzero(valid[place]).tolist()
                ]
                row.made += len(made)
                said.append((row, made))
        return said

    @staticmethod
    def _made(row: Row, chosen: device.Chosen, at: tuple[int, ...]) -> Made:
        alternatives = []
        if row.sampling.alternatives:
            alternatives = list(zip(chosen.ids[at].tolist(), chosen.logprobs[at].tolist()))
        return Made(int(chosen.token[at]), float(chosen.logprob[at]), alternatives)

    def _read_prompt(self, prompt: Sequence[int]) -> Any:
        """Read once where several sequences continue it: they hold the same list."""
        if self._read is None or self._read[0] is not prompt:
            padded = self._padded(prompt)
            self._read = prompt, device.prefill(self._settings, self._params, *padded)
        return self._read[1]

    def _padded(self, prompt: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        width = _power(_NARROWEST_PROMPT, len(prompt))
        return pad_left([prompt], min(width, self._limit or width))

    def _scored_prompt(self, row: Row) -> list[Made]:
        """Every token of the prompt, but the first, as it follows from those before it."""
        found = jax.device_get(
            device.score(self._settings, self._params, *self._padded(row.prompt))
        )
        places = range(len(found.token) - len(row.prompt) + 1, len(found.token))
        first = Made(int(row.prompt[0]), math.nan, [])
        return [first, *(self._made(row, found, (place,)) for place in places)]

    def warm_up(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Compiles what short prompts need, for every number of rows; ends early if `stopped`."""
        length = min(self._chunk + 1, self._max_tokens - 1)
        while len(self.rows) < self._max_batch and not stopped():
            more = min(max(len(self.rows), 1), self._max_batch - len(self.rows))
            self.join([Row([0], length, Sampling()) for _ in range(more)])
            self.advance()
            for row in self.rows:
                # As if it had only just joined: more are to join it.
                row.made = 1
        self.clear()

    # ---------------------------------------------------------------------------- shapes

    def _columns(self, tokens: int) -> int:
        columns = _power(_FEWEST_COLUMNS, tokens, 4)
        most = _power(_FEWEST_COLUMNS, self._max_tokens)
        return min(columns, most, self._limit or columns)

    def _begin(self, new: Sequence[Row]) -> device.State:
        """An empty state with room for `new`."""
        rows = min(_power(1, len(new)), self._max_batch)
        columns = self._columns(max(row.total for row in new))
        self._places = [None] * rows
        self._index = self._new_index(new, columns)
        return device.begin(self._settings, np.int32(self._index), rows=rows, columns=columns)

    def _new_index(self, rows: Sequence[Row], columns: int) -> int:
        """The next column to write: every row's tokens fit before it, and the rest after it, or
        else as much as can; not far left, where longer prompts could not join."""
        longest = max(row.length for row in rows)
        room = max(row.max_new_tokens - row.made for row in rows)
        return max(longest, min(columns // 2, columns - room))

    def _fit(self, new: Sequence[Row]) -> None:
        """Moves the rows where there is no room for `new` or for the next steps, or where most of
        the batch is empty."""
        if self._state is None:
            return
        rows = [*self.rows, *new]
        old, columns = len(self._places), self._state.cache.length
        batch = min(_power(1, len(rows)), self._max_batch)
        # Not for every row that leaves: the next one may be on its way.
        batch = old if batch < old < 4 * len(rows) else batch
        wider = max(columns, *(self._columns(row.total) for row in rows))
        left = columns - self._index
        wanted = min(self._chunk, max(row.max_new_tokens - row.made for row in rows))
        longest = max(row.length for row in rows)
        fits = max((len(row.prompt) for row in new), default=0) <= self._index
        fits = fits and (left >= wanted or (left > 0 and longest >= self._index))
        if batch == old and wider == columns and fits:
            return
        order = [place for place, row in enumerate(self._places) if row is not None]
        self._index = self._new_index(rows, wider)
        padded = np.array(order + [-1] * (batch - len(order)), np.int32)
        self._state = device.move(self._state, padded, np.int32(self._index), columns=wider)
        self._places = [self._places[place] for place in order] + [None] * (batch - len(order))
