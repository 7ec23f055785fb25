"""A validation source as batches: in order, whole, each position once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from lm.data.rows import NumberedRows, Rows, share, stack
from lm.types import Features

# Features in which -1 is padding; 0 is the first position.
POSITIONS = ("positions", "source_positions")


@dataclasses.dataclass(frozen=True)
class ValidationSplit:
    """One validation source, read in order, each position once.

    `tokens` are the positions evaluated (with weight, where the objective weighs them all),
    `characters` those of the text. `bytes` (UTF-8) are those that the positions predict, for bits
    per byte: None where they are not known, since the first token of every document is none that
    is predicted. It is with bos before it, and in a stream across documents (but for one token).
    Nor are they known of pairs of texts, which an objective may predict in part. `dropped` are the
    numbers of documents that have no row, as they are too long.
    """

    rows: int
    tokens: int
    characters: int
    bytes: int | None
    documents: int
    _rows: NumberedRows
    dropped: frozenset[int] = frozenset()

    @classmethod
    def of(cls, rows: Rows, *, add_bos: bool) -> ValidationSplit:
        """The split made of `rows`."""
        counts = rows.store.report()
        predicted = (add_bos or rows.plan.joined) and "target" not in rows.store.fields
        return cls(
            rows=len(rows),
            tokens=rows.plan.positions,
            characters=counts["characters"],
            bytes=counts["bytes"] if predicted else None,
            documents=counts["documents"],
            _rows=rows,
            dropped=getattr(rows.plan, "dropped", frozenset()),
        )

    def batches(
        self,
        batch_size: int,
        limit: int | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[Features]:
        """The rows in order, at most `limit` batches; the last is filled up with rows of padding
        (`padding_like`), which weigh nothing. Process i of n gets the i-th n-th of each batch."""
        begin, end = share(batch_size, process_index, process_count)
        count = -(-self.rows // batch_size)
        for step in range(count if limit is None else min(limit, count)):
            numbers = range(step * batch_size + begin, step * batch_size + end)
            yield stack([self._row(number) for number in numbers])

    def _row(self, number: int) -> Features:
        if number < self.rows:
            return self._rows[number]
        return padding_like(self._rows[0])


def padding_like(row: Features) -> Features:
    """A row of padding alone, in the shapes of another: zeros, but positions of -1."""
    return {
        name: np.full_like(values, -1 if name in POSITIONS else 0) for name, values in row.items()
    }
