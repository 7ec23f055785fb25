"""From a plan and the tokens to rows: every row a pure function of (seed, epoch, row)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Int

from lm.data.packing import Plan
from lm.data.tokens import TokenStore
from lm.errors import ConfigError
from lm.types import Features

# {"tokens": int32 [n]} and a generator to aligned 1-D features, each [n - lookahead].
Prepare = Callable[[Features, np.random.Generator], Features]


def seed_of(seed: int, name: str) -> tuple[int, int]:
    """The seed of one source: other sources' coming and going does not change it."""
    return seed, zlib.crc32(name.encode("utf-8"))


class Rows:
    """The rows of one source, numbered through all epochs: row r is row r % plan.rows of epoch
    r // plan.rows. Each is a dict of [T] arrays, padded with zeros where the plan fills less.

    Pieces that are not joined get "segment_ids" int32 (1, 2 ... in the row, 0 padding) and
    "positions" int32 (from 0 in each piece, so also where a document goes on from another row).
    """

    def __init__(
        self, plan: Plan, store: TokenStore, prepare: Prepare, row_length: int, seed: Sequence[int]
    ) -> None:
        self.plan, self.store = plan, store
        self._prepare, self._row_length, self._seed = prepare, row_length, tuple(seed)
        self._positions = np.arange(row_length, dtype=np.int32)

    def __len__(self) -> int:
        return self.plan.rows

    def __getitem__(self, number: int) -> Features:
        epoch, row = divmod(number, self.plan.rows)
        tokens = [self._read(*piece) for piece in self.plan.pieces(epoch, row)]
        if self.plan.joined:
            tokens = [np.concatenate(tokens)] if len(tokens) > 1 else tokens
        # One generator a row: its pieces draw from it in turn.
        generator = np.random.default_rng([*self._seed, epoch, row])
        features = [self._prepare({"tokens": piece}, generator) for piece in tokens]
        if self.plan.joined:
            return {name: _pad(values, self._row_length) for name, values in features[0].items()}
        return self._concatenate(features)

    def _read(self, document: int, begin: int, end: int) -> Int[np.ndarray, "n"]:
        start = int(self.store.offsets[document])
        return self.store.tokens[start + begin : start + end].astype(np.int32)

    def _concatenate(self, features: list[Features]) -> Features:
        row = {
            name: np.zeros((self._row_length, *values.shape[1:]), values.dtype)
            for name, values in features[0].items()
        }
        segments = np.zeros(self._row_length, np.int32)
        positions = np.zeros(self._row_length, np.int32)
        begin = 0
        for number, piece in enumerate(features, 1):
            for name, values in piece.items():
                end = begin + len(values)
                row[name][begin:end] = values
            segments[begin:end] = number
            positions[begin:end] = self._positions[: end - begin]
            begin = end
        return {**row, "segment_ids": segments, "positions": positions}


def _pad(values: np.ndarray, length: int) -> np.ndarray:
    if len(values) == length:
        return values
    padded = np.zeros((length, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return padded


class Mixture:
    """Rows of several sources in proportion to their weights, numbered as `Rows` are.

    The first source is taken for row r where r * p passes a whole number (p its share), the
    others share the rows between likewise: each source's count of the first r rows is within 1
    of its share (per source before it), and no count has to be kept.
    """

    def __init__(self, parts: Sequence[Rows], weights: Sequence[float]) -> None:
        self._parts = list(parts)
        # Exact whole-number arithmetic, so that row numbers stay right however long the run.
        exact = [Fraction(weight) for weight in weights]
        self._shares = [weight / sum(exact[i:]) for i, weight in enumerate(exact)]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def part(self, number: int) -> tuple[int, int]:
        """(which source, which of its rows) row `number` is."""
        for index, share in enumerate(self._shares):
            before = number * share.numerator // share.denominator
            if (number + 1) * share.numerator // share.denominator > before:
                return index, before
            number -= before
        raise AssertionError("the last source's share is 1")

    def __getitem__(self, number: int) -> Features:
        index, row = self.part(number)
        return self._parts[index][row]


def share(batch_size: int, process_index: int, process_count: int) -> tuple[int, int]:
    """[begin, end) of the batch's rows that this process reads."""
    if batch_size < 1:
        raise ConfigError(f"the batch size must be at least 1, not {batch_size}")
    if batch_size % process_count:
        raise ConfigError(
            f"batch size {batch_size} is not divisible by the {process_count} processes that share "
            "it; change one"
        )
    own = batch_size // process_count
    return process_index * own, (process_index + 1) * own


def stack(rows: Sequence[Features]) -> Features:
    """Rows [T] as a batch [B, T]."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
