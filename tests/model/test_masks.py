"""Masks against literals: rows are queries, columns keys."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from lm.model.masks import Mask

CAUSAL = Mask(causal=True)


def picture(*rows: str) -> np.ndarray:
    return np.array([[c == "x" for c in row] for row in rows])


def made(mask: Mask, num_queries: int, num_keys: int) -> Any:
    array = mask.materialise(num_queries, num_keys)
    assert array is not None
    return np.broadcast_to(np.asarray(array), (array.shape[0], 1, num_queries, num_keys))[:, 0]


def test_causal() -> None:
    expected = picture("x...", "xx..", "xxx.", "xxxx")
    assert (made(CAUSAL, 4, 4) == expected).all()
    assert CAUSAL.materialise(4, 4).shape == (1, 1, 4, 4)


def test_no_condition_needs_no_array() -> None:
    assert Mask().materialise(3, 3) is None


def test_window_is_the_query_and_the_positions_just_before_it() -> None:
    assert (
        made(Mask(causal=True, window=2), 4, 4) == picture("x...", "xx..", ".xx.", "..xx")
    ).all()
    both_ways = made(Mask(window=2), 4, 4)
    assert (both_ways == picture("xx..", "xxx.", ".xxx", "..xx")).all()


def test_padding_is_neither_attended_to_nor_attends() -> None:
    positions = jnp.array([[-1, -1, 0, 1], [0, 1, 2, -1]])
    mask = made(CAUSAL & Mask(query_positions=positions, key_positions=positions), 4, 4)
    assert (mask[0] == picture("....", "....", "..x.", "..xx")).all()
    assert (mask[1] == picture("x...", "xx..", "xxx.", "....")).all()
    both_ways = made(Mask(query_positions=positions, key_positions=positions), 4, 4)
    assert (both_ways[0] == picture("....", "....", "..xx", "..xx")).all()


def test_segments_are_separate_and_zero_is_padding() -> None:
    segments = jnp.array([[1, 1, 2, 0]])
    mask = made(CAUSAL & Mask(query_segments=segments, key_segments=segments), 4, 4)
    assert (mask[0] == picture("x...", "xx..", "..x.", "....")).all()
    both_ways = made(Mask(query_segments=segments, key_segments=segments), 4, 4)
    assert (both_ways[0] == picture("xx..", "xx..", "..x.", "....")).all()


def test_conditions_compose() -> None:
    segments = jnp.array([[1, 1, 1, 2, 2, 0]])
    positions = jnp.array([[0, 1, 2, 0, 1, -1]])
    mask = (
        CAUSAL
        & Mask(query_segments=segments, key_segments=segments)
        & Mask(query_positions=positions, key_positions=positions)
        & Mask(window=2)
        & Mask(allowed=jnp.arange(6)[None, None, None] != 3)
    )
    expected = picture("x.....", "xx....", ".xx...", "......", "....x.", "......")
    assert (made(mask, 6, 6)[0] == expected).all()


def test_cached_queries_see_slots_by_position() -> None:
    slots = jnp.array([[-1, 0, 1, 2, -1, -1], [0, 1, 2, 3, -1, -1]])
    mask = CAUSAL & Mask(query_positions=jnp.array([[2], [3]]), key_positions=slots)
    assert (made(mask, 1, 6)[:, 0] == picture(".xxx..", "xxxx..")).all()
    local = made(mask & Mask(window=2), 1, 6)
    assert (local[:, 0] == picture("..xx..", "..xx..")).all()


def test_two_masks_with_positions_are_refused() -> None:
    one, other = jnp.arange(3)[None], jnp.arange(3)[None]
    with pytest.raises(ValueError, match="both masks bring query_positions"):
        Mask(query_positions=one) & Mask(query_positions=other)
    assert (Mask(query_positions=one) & Mask(query_positions=one)).query_positions is one


@pytest.mark.parametrize("window", [None, 1, 3, 7])
@pytest.mark.parametrize("block", [2, 3, 8])
def test_spans_cover_all_that_is_allowed(window: int | None, block: int) -> None:
    mask = Mask(causal=True, window=window)
    allowed = made(mask, 8, 8)[0]
    covered = np.zeros_like(allowed)
    for start, stop, first, last in mask.spans(8, 8, block):
        covered[start:stop, first:last] = True
    assert not (allowed & ~covered).any()
    if block < 8:
        assert not covered.all()


def test_spans_need_a_causal_mask_and_a_known_order() -> None:
    everything = ((0, 8, 0, 8),)
    positions = jnp.arange(8)[None]
    given = Mask(query_positions=positions, key_positions=positions)
    assert Mask().spans(8, 8, 2) == everything
    assert (CAUSAL & given).spans(8, 8, 2) == everything
    assert CAUSAL.spans(2, 8, 1) == ((0, 2, 0, 8),)
    assert len((CAUSAL & given & Mask(in_order=True)).spans(8, 8, 2)) == 4
    assert Mask(in_order=True).spans(8, 8, 2) == everything


def packed() -> Mask:
    """Three documents, the second cut off by the row's end, and padding."""
    segments = jnp.array([[1] * 3 + [2] * 5 + [3] * 2 + [0] * 2])
    positions = jnp.array([[0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 0, 0]])
    return (
        CAUSAL
        & Mask(query_positions=positions, key_positions=positions)
        & Mask(query_segments=segments, key_segments=segments)
    )


def test_order_forbids_nothing_to_packed_documents() -> None:
    mask = packed()
    assert (made(mask & Mask(in_order=True), 12, 12) == made(mask, 12, 12)).all()


def test_order_is_kept_where_positions_do_not_follow_it() -> None:
    """So that a part of the keys is never skipped that the whole mask would allow."""
    positions = jnp.array([[1, 0]])
    given = CAUSAL & Mask(query_positions=positions, key_positions=positions)
    assert (made(given, 2, 2)[0] == picture("xx", ".x")).all()
    assert (made(given & Mask(in_order=True), 2, 2)[0] == picture("x.", ".x")).all()


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("block", [3, 5])
def test_a_block_of_a_mask_is_a_part_of_the_whole(window: int | None, block: int) -> None:
    odd = jnp.arange(12) % 2 == 1
    masks = [
        Mask(causal=True, window=window),
        packed() & Mask(in_order=True, window=window),
        CAUSAL & Mask(window=window, allowed=odd[None, None, None]),
        CAUSAL & Mask(window=window, allowed=(odd[:, None] | odd)[None, None]),
    ]
    for mask in masks:
        whole = made(mask, 12, 12)
        covered = np.zeros_like(whole)
        spans = mask.spans(12, 12, block)
        assert len(spans) == -(-12 // block)
        for span in spans:
            start, stop, first, last = span
            part = mask.materialise(12, 12, span)
            assert part is not None
            assert (np.asarray(part)[:, 0] == whole[:, start:stop, first:last]).all()
            covered[:, start:stop, first:last] = True
        assert not (whole & ~covered).any()
