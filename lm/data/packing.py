"""Which tokens make up which row: plans from the documents' lengths alone, addressable by index.

A row has T positions. A piece is a part of a document; `lookahead` is how many tokens beyond its
positions a piece needs (1 where the next token is predicted). A plan has the same number of rows in
every epoch, so row r of the run is row r % rows of epoch r // rows and any step starts at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from jaxtyping import Int

from lm.errors import UserError

# Tell apart the random streams of one epoch.
_DOCUMENTS, _ROWS, _PHASE = 0, 1, 2
# Rows that first fit keeps open: as many as fill rows to a few parts in a thousand on prose.
OPEN_ROWS = 64


Made = TypeVar("Made")


class Epochs(Generic[Made]):
    """What is made for an epoch, kept for the last two, as rows of both are read at its end.

    One thread makes it and the others wait: lru_cache alone would have each make it.
    """

    def __init__(self, make: Callable[[int], Made]) -> None:
        self._make = lru_cache(maxsize=2)(make)
        self._lock = threading.Lock()

    def __call__(self, epoch: int) -> Made:
        with self._lock:
            return self._make(epoch)


def _numbers(count: int) -> Int[np.ndarray, "count"]:
    """0 to count - 1, in four bytes where they do."""
    return np.arange(count, dtype=np.uint32 if count <= 1 << 32 else np.int64)


class Piece(NamedTuple):
    """Tokens [begin, end) of a document, lookahead included."""

    document: int
    begin: int
    end: int


class Plan(Protocol):
    """The rows of an epoch. Of rows * T positions, `positions` hold a token; `left_out` are those
    of the corpus that an epoch has no row for; `joined`: a row's pieces are one text."""

    rows: int
    positions: int
    left_out: int
    joined: bool

    def pieces(self, epoch: int, row: int) -> list[Piece]:
        """The pieces of a row, in order."""
        ...


class StreamPlan:
    """Documents one after another, cut every T positions.

    Training (`wrap`): an epoch joins the documents in an order of its own into a ring and cuts it
    into floor(L / T) rows from a random phase on, so that each token is predicted once but for
    L mod T, which differ from epoch to epoch; rows come in random order. Without `shuffle` all
    orders are the documents' own and the phase is 0. Evaluation (not `wrap`): the rows in order,
    the last one as short as it is, every position once.

    `joined`: a row is one text across documents, L is all tokens, and its last target may be the
    ring's next token. Otherwise each document's part is a piece with its own lookahead; the last
    `lookahead` tokens of a document are targets but not positions, so L is less by that much.

    UserError for a corpus that does not fill a row, or has nothing to predict.
    """

    def __init__(
        self,
        lengths: Int[np.ndarray, "documents"],
        *,
        row_length: int,
        lookahead: int,
        joined: bool,
        shuffle: bool,
        wrap: bool,
        seed: tuple[int, ...],
    ) -> None:
        assert wrap or not shuffle, "evaluation reads the rows in order"
        self.joined, self._shuffle, self._wrap, self._seed = joined, shuffle, wrap, seed
        self._row_length, self._lookahead = row_length, lookahead
        self._lengths = lengths if joined else np.maximum(lengths - lookahead, 0)
        total = int(self._lengths.sum())
        positions = total if wrap or not joined else max(total - lookahead, 0)
        if wrap and total < row_length + lookahead * joined:
            raise UserError(
                f"too little text: {int(lengths.sum())} tokens in {len(lengths)} documents, but a "
                f"row of sequence_length={row_length} takes {row_length + lookahead}; use more "
                "text or shorter rows"
            )
        if not positions:
            raise UserError(
                f"too little text: {int(lengths.sum())} tokens in {len(lengths)} documents, but "
                f"the least is {lookahead + 1}{'' if joined else ' in one of them'}; use more text"
            )
        self.rows = positions // row_length if wrap else -(-positions // row_length)
        self.positions = self.rows * row_length if wrap else positions
        self.left_out = positions - self.positions
        self._epoch = Epochs(self._make_epoch)

    def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        documents, rows, phase = _numbers(len(self._lengths)), _numbers(self.rows), 0
        if self._shuffle:
            documents = np.random.default_rng([*self._seed, epoch, _DOCUMENTS]).permutation(
                documents
            )
            rows = np.random.default_rng([*self._seed, epoch, _ROWS]).permutation(rows)
            # A run of one document would otherwise be cut at the same places in every epoch.
            phase = int(
                np.random.default_rng([*self._seed, epoch, _PHASE]).integers(self._row_length)
            )
        return documents, np.cumsum(self._lengths[documents]), rows, phase

    def pieces(self, epoch: int, row: int) -> list[Piece]:
        documents, ends, rows, phase = self._epoch(epoch)
        begin = phase + int(rows[row]) * self._row_length
        count = self._row_length
        if not self._wrap:
            count = min(count, self.positions - begin)
        count += self._lookahead * self.joined
        beyond = 0 if self.joined else self._lookahead
        found: list[Piece] = []
        place = int(np.searchsorted(ends, begin, side="right"))
        while count:
            document = int(documents[place])
            length = int(self._lengths[document])
            inside = begin - (int(ends[place]) - length)
            taken = min(count, length - inside)
            if taken:
                found.append(Piece(document, inside, inside + taken + beyond))
            count -= taken
            begin = int(ends[place])
            place += 1
            if place == len(documents):
                place = begin = 0
        return found


class _SettledRows:
    """Rows whose pieces are settled once; with `shuffle` an epoch puts the rows in an order of its
    own. Row r has the pieces [bounds[r], bounds[r + 1]) of `pieces`, document, begin and end."""

    joined = False

    def __init__(
        self,
        pieces: Int[np.ndarray, "P 3"],
        bounds: Int[np.ndarray, "rows_1"],
        *,
        shuffle: bool,
        seed: tuple[int, ...],
    ) -> None:
        self._pieces, self._bounds, self._shuffle, self._seed = pieces, bounds, shuffle, seed
        self.rows = len(bounds) - 1
        self._epoch = Epochs(self._make_epoch)

    def _make_epoch(self, epoch: int) -> np.ndarray:
        rows = _numbers(self.rows)
        if self._shuffle:
            rows = np.random.default_rng([*self._seed, epoch, _ROWS]).permutation(rows)
        return rows

    def pieces(self, epoch: int, row: int) -> list[Piece]:
        row = int(self._epoch(epoch)[row])
        return [Piece(*p) for p in self._pieces[self._bounds[row] : self._bounds[row + 1]].tolist()]


class BinPlan(_SettledRows):
    """Pieces that each keep to one row: documents, cut every T positions where longer.

    "first_fit" puts each piece into the first of the open rows with room for it; "none" gives it a
    row of its own. Which pieces share a row is settled once, in an order drawn from the seed, since
    they do not see each other; with `shuffle` an epoch puts the rows in an order of its own.
    UserError where no document is longer than `lookahead`.
    """

    left_out = 0

    def __init__(
        self,
        lengths: Int[np.ndarray, "documents"],
        *,
        row_length: int,
        lookahead: int,
        packing: Literal["first_fit", "none"],
        shuffle: bool,
        seed: tuple[int, ...],
    ) -> None:
        order = _numbers(len(lengths))
        if shuffle:
            order = np.random.default_rng([*seed, 0, _DOCUMENTS]).permutation(order)
        inputs = np.maximum(lengths[order] - lookahead, 0)
        self.positions = int(inputs.sum())
        if not self.positions:
            raise UserError(
                f"too little text: none of the {len(lengths)} documents is longer than "
                f"{lookahead} token; use more text, or packing='stream' without segments"
            )
        counts = -(-inputs // row_length)
        document = np.repeat(order, counts)
        inputs = np.repeat(inputs, counts)
        begins = (
            np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
        ) * row_length
        sizes = np.minimum(inputs - begins, row_length)
        bins = (
            first_fit(sizes[:, None], (row_length,))
            if packing == "first_fit"
            else np.arange(len(sizes))
        )
        by_row = np.argsort(bins, kind="stable")
        pieces = np.stack([document, begins, begins + sizes + lookahead], axis=1)[by_row]
        bounds = np.concatenate([[0], np.cumsum(np.bincount(bins))])
        super().__init__(pieces, bounds, shuffle=shuffle, seed=seed)


# The tokens that a row holds of texts and targets of so many tokens, [pairs] each.
Fit = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class PairPlan(_SettledRows):
    """A document and its target to a row, both whole: the texts 2n and 2n + 1 of a token store.
    With `capacity`, the tokens that a row holds of texts and of targets, as many pairs as first fit
    puts there, text and target in turn; who shares a row is settled once, as in a `BinPlan`.

    `fit` says what a row holds of a pair, `room` the same in words. Of pairs that are longer, with
    `too_long` "cut", whoever makes the row takes what fits; with "drop" there is no row for them;
    "error" is a UserError. `num_cut` and `num_dropped` count them, and `longest` is the lengths of
    the longest one; `left_out` are the tokens lost, of `positions` and these together. `dropped`
    are the pairs without a row, by their numbers.
    """

    def __init__(
        self,
        lengths: Int[np.ndarray, "texts"],
        *,
        fit: Fit,
        room: str,
        too_long: Literal["error", "cut", "drop"],
        shuffle: bool,
        seed: tuple[int, ...],
        capacity: tuple[int, int] | None = None,
    ) -> None:
        pairs = lengths.reshape(-1, 2)
        kept = np.stack(fit(pairs[:, 0], pairs[:, 1]), axis=1)
        over = (kept < pairs).any(axis=1)
        count = int(over.sum())
        excess = (pairs - kept).sum(axis=1)
        self.longest = tuple(pairs[np.argmax(excess)].tolist())
        if count and too_long == "error":
            raise UserError(
                f"{count:,} of {len(pairs):,} pairs do not fit a row, which holds {room}; the "
                f"longest has {self.longest[0]} tokens and {self.longest[1]} of its target: raise "
                "data.sequence_length, or set data.too_long to 'cut' or 'drop'"
            )
        self.num_cut, self.num_dropped = 0, 0
        self.dropped: frozenset[int] = frozenset()
        documents = np.arange(len(pairs))
        if too_long == "drop":
            self.num_dropped, self.dropped = count, frozenset(np.flatnonzero(over).tolist())
            documents, kept = documents[~over], kept[~over]
        else:
            self.num_cut = count
        self.positions = int(kept.sum())
        self.left_out = int(lengths.sum()) - self.positions
        if not self.positions:
            raise UserError(
                f"none of the {len(pairs):,} pairs fits a row, which holds {room}: raise "
                "data.sequence_length"
            )
        ends = np.arange(len(documents) + 1)
        if capacity is not None:
            order = _numbers(len(documents))
            if shuffle:
                order = np.random.default_rng([*seed, 0, _DOCUMENTS]).permutation(order)
            bins = first_fit(kept[order], capacity)
            documents = documents[order][np.argsort(bins, kind="stable")]
            ends = np.concatenate([[0], np.cumsum(np.bincount(bins))])
        texts = np.stack([2 * documents, 2 * documents + 1], axis=1).reshape(-1)
        pieces = np.stack([texts, np.zeros_like(texts), lengths[texts]], axis=1)
        super().__init__(pieces, 2 * ends, shuffle=shuffle, seed=seed)


def first_fit(
    sizes: Int[np.ndarray, "pieces kinds"], capacity: tuple[int, ...], open_rows: int = OPEN_ROWS
) -> Int[np.ndarray, "pieces"]:
    """The row of each piece: the first open one with room for all `kinds` of its tokens, else a new
    one, for which the fullest of `open_rows` is closed. Linear in the number of pieces."""
    # What is left of all kinds in one number, so that one subtraction compares them all: 32 bits a
    # kind, of which the highest stays set unless something is below 0.
    shifts = [32 * kind for kind in range(len(capacity))]
    guard, one = (sum(bit << shift for shift in shifts) for bit in (1 << 31, 1))
    digits = (1 << 32) - 1
    whole = sum(count << shift for count, shift in zip(capacity, shifts)) | guard
    rows = np.empty(len(sizes), np.int64)
    room: list[int] = []
    numbers: list[int] = []
    opened = 0
    kinds = [sizes[:, kind].astype(object) << shift for kind, shift in enumerate(shifts)]
    for index, size in enumerate(np.sum(kinds, axis=0)):
        slot = next((s for s, left in enumerate(room) if (left - size) & guard == guard), -1)
        if slot < 0:
            if len(room) == open_rows:
                # The remainder is the sum of the kinds, as that of 9 is of decimal digits.
                fullest = min(range(open_rows), key=lambda slot: room[slot] % digits)
                del room[fullest], numbers[fullest]
            slot = len(room)
            room.append(whole)
            numbers.append(opened)
            opened += 1
        rows[index] = numbers[slot]
        room[slot] -= size
        if (room[slot] - one) & guard != guard:
            del room[slot], numbers[slot]
    return rows
