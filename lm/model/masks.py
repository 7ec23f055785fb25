"""Which keys a query may attend to, as a structure that is made an array only where it is used.

Causality and windows compare positions, not array indices, so one description serves plain,
packed, left-padded and cached attention.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

# Half-open ranges of a block of queries and of the keys that any of them may attend to.
Span = tuple[int, int, int, int]


class Mask(struct.PyTreeNode):
    """The conjunction of its conditions; the default has none and allows everything.

    causal            a key's position is not after the query's
    in_order          a key's index is not after the query's: no further restriction where tokens
                      that may attend to each other stand in the order of strictly ascending
                      positions, as packed documents do, but one that is known before running
    window            W: the query's own position and the W - 1 before it
    query_positions   [B, T] or [1, T]; None is 0 .. T-1. A query at -1, padding, attends to nothing
    key_positions     [B, S] or [1, S]; None is 0 .. S-1. A key at -1 is never attended to
    query_segments    [B, T]; attention stays within equal segments, and 0 is padding
    key_segments      [B, S]
    allowed           any further condition, broadcastable to [B, 1, T, S]
    """

    causal: bool = struct.field(pytree_node=False, default=False)
    in_order: bool = struct.field(pytree_node=False, default=False)
    window: int | None = struct.field(pytree_node=False, default=None)
    query_positions: Int[Array, "#B T"] | None = None
    key_positions: Int[Array, "#B S"] | None = None
    query_segments: Int[Array, "#B T"] | None = None
    key_segments: Int[Array, "#B S"] | None = None
    allowed: Bool[Array, "#B 1 #T #S"] | None = None

    def __and__(self, other: Mask) -> Mask:
        """Both masks' conditions. Raises ValueError where both bring the same array of positions
        or segments: they could not both be meant."""

        def either(name: str) -> jax.Array | None:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None and theirs is not None and mine is not theirs:
                raise ValueError(f"both masks bring {name}")
            return theirs if mine is None else mine

        windows = [w for w in (self.window, other.window) if w is not None]
        allowed = (
            either("allowed")
            if self.allowed is None or other.allowed is None
            else (self.allowed & other.allowed)
        )
        return Mask(
            causal=self.causal or other.causal,
            in_order=self.in_order or other.in_order,
            window=min(windows, default=None),
            query_positions=either("query_positions"),
            key_positions=either("key_positions"),
            query_segments=either("query_segments"),
            key_segments=either("key_segments"),
            allowed=allowed,
        )

    def materialise(
        self, num_queries: int, num_keys: int, span: Span | None = None
    ) -> Bool[Array, "#B 1 #T #S"] | None:
        """True where attention is allowed, between all queries and keys or those of `span`; None
        where everything is."""
        start, stop, first, last = span or (0, num_queries, 0, num_keys)
        padded = self.query_positions is not None or self.key_positions is not None
        query = _part(self.query_positions, start, stop)[:, None, :, None]
        key = _part(self.key_positions, first, last)[:, None, None, :]
        conditions = []
        if self.causal:
            conditions.append(key <= query)
        if self.in_order and padded:
            conditions.append(jnp.arange(first, last) <= jnp.arange(start, stop)[:, None])
        if self.window is not None:
            conditions.append(query - key < self.window)
            if not self.causal:
                conditions.append(key - query < self.window)
        if padded:
            conditions.append((key >= 0) & (query >= 0))
        if self.query_segments is not None and self.key_segments is not None:
            segment = self.query_segments[:, None, start:stop, None]
            same = segment == self.key_segments[:, None, None, first:last]
            conditions.append(same & (segment > 0))
        if self.allowed is not None:
            rows = slice(start, stop) if self.allowed.shape[2] > 1 else slice(None)
            columns = slice(first, last) if self.allowed.shape[3] > 1 else slice(None)
            conditions.append(self.allowed[:, :, rows, columns])
        mask = None
        for condition in conditions:
            mask = condition if mask is None else mask & condition
        return mask

    def spans(self, num_queries: int, num_keys: int, block: int) -> tuple[Span, ...]:
        """Blocks of queries, each with the smallest range of keys that holds all it may attend to.

        Known before running only for causal attention of a sequence to itself where the order of
        the positions is known, as 0 .. T-1 or by `in_order`; any other mask is one block over
        everything.
        """
        plain = self.query_positions is None and self.key_positions is None
        ordered = self.causal and (plain or self.in_order)
        if not (ordered and num_queries == num_keys and num_queries > block):
            return ((0, num_queries, 0, num_keys),)
        spans = []
        for start in range(0, num_queries, block):
            stop = min(start + block, num_queries)
            first = 0 if self.window is None else max(0, start - self.window + 1)
            spans.append((start, stop, first, stop))
        return tuple(spans)


def _part(positions: Int[Array, "#B length"] | None, first: int, last: int) -> Int[Array, "#B n"]:
    return jnp.arange(first, last)[None] if positions is None else positions[:, first:last]
