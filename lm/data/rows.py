"""From a plan and the tokens to rows: every row a pure function of (seed, epoch, row)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from lm.data.packing import Plan
from lm.data.tokens import TokenStore
from lm.errors import ConfigError, UserError
from lm.types import Features

# {"tokens": int32 [n]} and a generator to aligned 1-D features, each [n - lookahead].
Prepare = Callable[[Features, np.random.Generator], Features]
# Draws the tokens of another document than the row's own, where there is one.
Other = Callable[[np.random.Generator], np.ndarray]


@runtime_checkable
class RowMaker(Protocol):
    """What an objective makes of the tokens of a row: features of the same shapes for every row.

    `positions` is how many tokens a plan gives a row, besides `lookahead` beyond them.
    """

    @property
    def positions(self) -> int: ...

    @property
    def lookahead(self) -> int: ...

    def __call__(
        self, pieces: list[np.ndarray], rng: np.random.Generator, *, joined: bool, other: Other
    ) -> Features:
        """Features of a row from its pieces, int32 each; `joined`: they are one text."""
        ...


@runtime_checkable
class PairMaker(RowMaker, Protocol):
    """A maker of rows of two pieces, a text and its target. It cuts those that are longer than
    `fit` says, which a plan lets through where that is wanted.

    `packed` makes rows of several pairs; None where there is no such maker. `capacity` is how many
    tokens of texts and of targets such rows hold; None where a row is one pair.
    """

    @property
    def packed(self) -> PairMaker | None: ...

    @property
    def capacity(self) -> tuple[int, int] | None: ...

    @property
    def room(self) -> str:
        """What a row holds, for messages."""
        ...

    def fit(
        self, texts: Int[np.ndarray, "pairs"], targets: Int[np.ndarray, "pairs"]
    ) -> tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]]:
        """The tokens that a row holds of texts and targets of so many: as many, where both fit."""
        ...


@dataclass(frozen=True)
class Aligned:
    """Features that stand at the tokens' own places: each piece is prepared by itself, and the
    row filled up with zeros.

    Pieces that are not joined get "segment_ids" int32 (1, 2 ... in the row, 0 padding) and
    "positions" int32 (from 0 in each piece, so also where a document goes on from another row).
    """

    prepare: Prepare
    positions: int
    lookahead: int = 0

    def __call__(
        self, pieces: list[np.ndarray], rng: np.random.Generator, *, joined: bool, other: Other
    ) -> Features:
        if joined:
            pieces = [np.concatenate(pieces)] if len(pieces) > 1 else pieces
        features = [self.prepare({"tokens": piece}, rng) for piece in pieces]
        if joined:
            return {name: _pad(values, self.positions) for name, values in features[0].items()}
        return self._concatenate(features)

    def _concatenate(self, features: list[Features]) -> Features:
        row = {
            name: np.zeros((self.positions, *values.shape[1:]), values.dtype)
            for name, values in features[0].items()
        }
        segments = np.zeros(self.positions, np.int32)
        positions = np.zeros(self.positions, np.int32)
        begin = 0
        for number, piece in enumerate(features, 1):
            for name, values in piece.items():
                end = begin + len(values)
                row[name][begin:end] = values
            segments[begin:end] = number
            positions[begin:end] = np.arange(end - begin)
            begin = end
        return {**row, "segment_ids": segments, "positions": positions}


def seed_of(seed: int, name: str) -> tuple[int, int]:
    """The seed of one source: other sources' coming and going does not change it."""
    return seed, zlib.crc32(name.encode("utf-8"))


@runtime_checkable
class NumberedRows(Protocol):
    """Rows numbered through all epochs; its length is that of one."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Features: ...


class Rows:
    """The rows of one source, numbered through all epochs: row r is row r % plan.rows of epoch
    r // plan.rows. Each is a dict of arrays, as `make` makes it."""

    def __init__(self, plan: Plan, store: TokenStore, make: RowMaker, seed: Sequence[int]) -> None:
        self.plan, self.store = plan, store
        self._make, self._seed = make, tuple(seed)

    def __len__(self) -> int:
        return self.plan.rows

    def __getitem__(self, number: int) -> Features:
        epoch, row = divmod(number, self.plan.rows)
        pieces = self.plan.pieces(epoch, row)
        tokens = [self._read(*piece) for piece in pieces]
        own = {piece.document for piece in pieces}
        # One generator a row: its pieces draw from it in turn.
        generator = np.random.default_rng([*self._seed, epoch, row])
        return self._make(
            tokens, generator, joined=self.plan.joined, other=lambda rng: self._other(own, rng)
        )

    def _read(self, document: int, begin: int, end: int) -> Int[np.ndarray, "n"]:
        start = int(self.store.offsets[document])
        return self.store.tokens[start + begin : start + end].astype(np.int32)

    def _other(self, own: set[int], rng: np.random.Generator) -> Int[np.ndarray, "n"]:
        """All tokens of a random document that is not among `own` and not empty."""
        count = len(self.store.lengths)
        # Tried, not listed: a corpus may have millions, nearly all of which will do.
        for document in rng.integers(count, size=100).tolist():
            if document not in own and self.store.lengths[document]:
                return self._read(document, 0, int(self.store.lengths[document]))
        raise UserError(
            "pairs of sentences need other documents to draw from, and there is (nearly) none: is "
            "the whole corpus one document? Split it (document='paragraph')"
        )


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

    def __init__(self, parts: Sequence[NumberedRows], weights: Sequence[float]) -> None:
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
