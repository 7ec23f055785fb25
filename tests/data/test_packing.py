import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

from lm.data.packing import BinPlan, PairPlan, Piece, StreamPlan, first_fit
from lm.errors import UserError

# Documents empty, of one token, longer than several rows.
LENGTHS = np.array([5, 0, 1, 40, 3, 2, 17, 1, 1, 9, 0, 30])


def stream(lengths: np.ndarray = LENGTHS, **settings: Any) -> StreamPlan:
    defaults: dict[str, Any] = {
        "row_length": 8, "lookahead": 1, "joined": True, "shuffle": True, "wrap": True,
        "seed": (0, 7),
    }  # fmt: skip
    return StreamPlan(lengths, **{**defaults, **settings})


def bins(lengths: np.ndarray = LENGTHS, **settings: Any) -> BinPlan:
    defaults: dict[str, Any] = {
        "row_length": 8, "lookahead": 1, "packing": "first_fit", "shuffle": True, "seed": (0, 7)
    }  # fmt: skip
    return BinPlan(lengths, **{**defaults, **settings})


def tokens_of(pieces: list[Piece]) -> list[tuple[int, int]]:
    return [(p.document, t) for p in pieces for t in range(p.begin, p.end)]


def epoch_rows(plan: StreamPlan | BinPlan, epoch: int) -> list[list[Piece]]:
    return [plan.pieces(epoch, row) for row in range(plan.rows)]


def all_tokens(lengths: np.ndarray = LENGTHS) -> set[tuple[int, int]]:
    return {(d, t) for d, n in enumerate(lengths) for t in range(n)}


@pytest.mark.parametrize("row_length", [1, 7, 8, 27, 108])
@pytest.mark.parametrize("lookahead", [0, 1, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_joined_epoch_predicts_every_token_once_but_for_the_remainder(
    row_length: int, lookahead: int, shuffle: bool
) -> None:
    total = int(LENGTHS.sum())
    if row_length + lookahead > total:
        row_length = total - lookahead
    plan = stream(row_length=row_length, lookahead=lookahead, shuffle=shuffle)
    assert plan.rows == total // row_length
    for epoch in range(3):
        rows = [tokens_of(pieces) for pieces in epoch_rows(plan, epoch)]
        assert {len(row) for row in rows} == {row_length + lookahead}
        for seen in (
            [token for row in rows for token in row[:row_length]],  # as inputs
            [token for row in rows for token in row[lookahead:]],  # as targets
        ):
            assert len(seen) == len(set(seen)) == plan.positions
            assert len(all_tokens() - set(seen)) == plan.left_out == total % row_length


def test_rows_follow_the_ring_of_whole_documents() -> None:
    for pieces in epoch_rows(stream(), 0):
        for before, after in zip(pieces, pieces[1:], strict=False):
            assert before.end == LENGTHS[before.document]
            assert after.begin == 0


def test_epochs_differ_in_order_phase_and_remainder_and_are_repeatable() -> None:
    left = set()
    for epoch in range(6):
        rows = epoch_rows(stream(), epoch)
        assert rows == epoch_rows(stream(), epoch)
        assert rows != epoch_rows(stream(), epoch + 1)
        assert rows != epoch_rows(stream(seed=(1, 7)), epoch)
        inputs = {token for row in rows for token in tokens_of(row)[:8]}
        left.add(tuple(sorted(all_tokens() - inputs)))
    assert len(left) > 3


def test_one_long_document_is_cut_elsewhere_in_each_epoch_and_read_out_of_order() -> None:
    plan = stream(np.array([800]), row_length=8)
    phases = set()
    for epoch in range(20):
        begins = [row[0].begin for row in epoch_rows(plan, epoch)]
        phases.update(begin % 8 for begin in begins)
        assert begins != sorted(begins)
    assert len(phases) > 5


def test_without_shuffling_rows_come_in_order_in_every_epoch() -> None:
    plan = stream(shuffle=False)
    flat = [(d, t) for d, n in enumerate(LENGTHS) for t in range(n)]
    for epoch in (0, 5):
        inputs = [t for row in epoch_rows(plan, epoch) for t in tokens_of(row)[:8]]
        assert inputs == flat[: plan.positions]


@pytest.mark.parametrize("row_length", [4, 8, 200])
@pytest.mark.parametrize("lookahead", [0, 1, 3])
def test_evaluation_reads_every_position_once_in_order(row_length: int, lookahead: int) -> None:
    plan = stream(row_length=row_length, lookahead=lookahead, shuffle=False, wrap=False)
    flat = sorted(all_tokens())
    rows = [tokens_of(pieces) for pieces in epoch_rows(plan, 0)]
    assert [t for row in rows for t in row[: len(row) - lookahead]] == flat[: len(flat) - lookahead]
    assert [t for row in rows for t in row[lookahead:]] == flat[lookahead:]
    assert plan.left_out == 0
    assert plan.positions == len(flat) - lookahead


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("lookahead", [0, 1, 3])
def test_segmented_streams_stay_inside_documents(wrap: bool, lookahead: int) -> None:
    plan = stream(joined=False, wrap=wrap, shuffle=wrap, lookahead=lookahead)
    targets = {(d, t) for d, t in all_tokens() if t >= lookahead}
    for epoch in range(3):
        seen: Counter[tuple[int, int]] = Counter()
        for pieces in epoch_rows(plan, epoch):
            assert all(0 <= p.begin < p.end <= LENGTHS[p.document] for p in pieces)
            assert sum(p.end - p.begin - lookahead for p in pieces) <= 8
            seen.update(t for p in pieces for t in tokens_of([p])[lookahead:])
        assert max(seen.values()) == 1
        assert set(seen) <= targets
        assert len(targets) - len(seen) == plan.left_out == (len(targets) % 8 if wrap else 0)


def test_too_little_text_names_both_numbers() -> None:
    with pytest.raises(
        UserError, match="7 tokens in 2 documents, but a row of sequence_length=8 takes 9"
    ):
        stream(np.array([3, 4]))
    stream(np.array([4, 5]))
    with pytest.raises(UserError, match="1 tokens in 1 documents, but the least is 2; use more"):
        stream(np.array([1]), wrap=False, shuffle=False)
    with pytest.raises(UserError, match="2 tokens in 2 .* the least is 2 in one of them"):
        stream(np.array([1, 1]), wrap=False, shuffle=False, joined=False)
    with pytest.raises(AssertionError, match="evaluation reads the rows in order"):
        stream(wrap=False)
    with pytest.raises(UserError, match="none of the 2 documents is longer than 1 token"):
        bins(np.array([1, 1]))


@pytest.mark.parametrize("packing", ["first_fit", "none"])
@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_bins_lose_nothing_and_cut_only_what_is_longer_than_a_row(
    packing: str, lookahead: int
) -> None:
    plan = bins(packing=packing, lookahead=lookahead)
    targets = {(d, t) for d, t in all_tokens() if t >= lookahead}
    for epoch in range(3):
        rows = epoch_rows(plan, epoch)
        assert all(sum(p.end - p.begin - lookahead for p in row) <= 8 for row in rows)
        pieces = [p for row in rows for p in row]
        seen = Counter(t for p in pieces for t in tokens_of([p])[lookahead:])
        assert set(seen) == targets
        assert max(seen.values()) == 1
        assert plan.positions == len(targets)
        for document, count in Counter(p.document for p in pieces).items():
            assert count == -(-(LENGTHS[document] - lookahead) // 8)
        if packing == "none":
            assert all(len(row) == 1 for row in rows)
    assert epoch_rows(plan, 0) != epoch_rows(plan, 1)
    assert sorted(epoch_rows(plan, 0)) == sorted(epoch_rows(plan, 1))
    unshuffled = bins(packing="none", lookahead=lookahead, shuffle=False)
    assert epoch_rows(unshuffled, 0) == sorted(epoch_rows(unshuffled, 0))


@pytest.mark.parametrize("plan", [stream(), bins()])
def test_threads_at_the_start_of_an_epoch_make_it_once(plan: Any) -> None:
    made = []
    make, epochs = plan._make_epoch, []

    def slowly(epoch: int) -> Any:
        made.append(epoch)
        time.sleep(0.05)
        return make(epoch)

    plan._epoch = type(plan._epoch)(slowly)
    threads = [threading.Thread(target=lambda: epochs.append(plan.pieces(3, 0))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [3]
    assert epochs == [plan.pieces(3, 0)] * 4


def test_an_epochs_orders_take_four_bytes_a_number() -> None:
    documents, _, rows, _ = stream()._make_epoch(0)
    assert documents.dtype == rows.dtype == bins()._make_epoch(0).dtype == np.uint32


def one_kind(sizes: list[int], capacity: int, open_rows: int = 64) -> list[int]:
    return first_fit(np.array(sizes)[:, None], (capacity,), open_rows).tolist()


def test_first_fit_against_a_literal() -> None:
    assert one_kind([5, 6, 3, 4, 2, 10, 1, 1], 10) == [0, 1, 0, 1, 0, 2, 3, 3]
    # With one open row it is next fit.
    assert one_kind([5, 6, 3, 4, 2], 10, 1) == [0, 1, 1, 2, 2]
    # Rows 0 (room 4) and 1 (room 1) are open: the fuller is closed, so 3 still finds room.
    assert one_kind([6, 9, 5, 4], 10, 2) == [0, 1, 2, 0]


def test_first_fit_of_two_kinds() -> None:
    # The second is full of the one kind and the third of the other in row 0.
    sizes = np.array([[4, 6], [5, 1], [1, 5], [6, 1], [1, 3]])
    assert first_fit(sizes, (10, 10)).tolist() == [0, 0, 1, 1, 0]
    # Rows 0 (1 + 9 left) and 1 (4 + 4 left) are open: the second is fuller, of both together.
    sizes = np.array([[9, 1], [6, 6], [8, 8], [1, 1]])
    assert first_fit(sizes, (10, 10), open_rows=2).tolist() == [0, 1, 2, 0]
    sizes = np.random.default_rng(0).integers(1, 40, (3000, 2))
    rows = first_fit(sizes, (64, 80))
    held = np.stack([np.bincount(rows, sizes[:, kind]) for kind in (0, 1)], axis=1)
    assert (held <= [64, 80]).all() and held.mean(0)[0] > 60


def test_first_fit_fills_rows() -> None:
    sizes = np.random.default_rng(0).geometric(1 / 60, 5000).clip(1, 256)
    rows = first_fit(sizes[:, None], (256,))
    held = np.bincount(rows, sizes)
    assert held.max() <= 256
    assert held.mean() / 256 > 0.98


# Texts and targets of 3 + 4, 9 + 2, 5 + 5, 1 + 11 and 2 + 2 tokens.
PAIRED = np.array([3, 4, 9, 2, 5, 5, 1, 11, 2, 2])


def pair_plan(**settings: Any) -> PairPlan:
    def fit(texts: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.minimum(texts, 6), np.minimum(targets, 8)

    defaults = {"fit": fit, "room": "6 and 8", "too_long": "cut", "shuffle": True, "seed": (0, 7)}
    return PairPlan(PAIRED, **{**defaults, **settings})


@pytest.mark.parametrize("too_long", ["cut", "drop"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_pair_is_a_row_whole(too_long: Any, shuffle: bool) -> None:
    plan = pair_plan(too_long=too_long, shuffle=shuffle)
    kept = [0, 1, 2, 3, 4] if too_long == "cut" else [0, 2, 4]
    expected = [
        [Piece(2 * n, 0, int(PAIRED[2 * n])), Piece(2 * n + 1, 0, int(PAIRED[2 * n + 1]))]
        for n in kept
    ]
    epochs = [epoch_rows(plan, epoch) for epoch in range(6)]
    assert all(sorted(rows) == expected for rows in epochs)
    assert all(rows == expected for rows in epochs) != shuffle
    assert (plan.rows, plan.joined) == (len(kept), False)
    assert (plan.num_cut, plan.num_dropped) == ((2, 0) if too_long == "cut" else (0, 2))
    assert plan.positions == (38 if too_long == "cut" else 21)
    assert plan.positions + plan.left_out == 44 and plan.longest == (9, 2)


@pytest.mark.parametrize("too_long", ["cut", "drop"])
def test_packed_pairs_stay_whole_and_share_rows(too_long: Any) -> None:
    plan = pair_plan(too_long=too_long, capacity=(8, 10))
    whole = {row[0].document: row for row in epoch_rows(pair_plan(too_long=too_long), 0)}
    for epoch in range(3):
        rows = epoch_rows(plan, epoch)
        pairs = [row[i : i + 2] for row in rows for i in range(0, len(row), 2)]
        assert sorted(pairs) == sorted(whole.values())
        for row in rows:
            assert sum(min(piece.end, 6) for piece in row[::2]) <= 8
            assert sum(min(piece.end, 8) for piece in row[1::2]) <= 10
    assert plan.rows < len(whole)
    assert any(epoch_rows(plan, 0) != epoch_rows(plan, epoch) for epoch in range(1, 6))


def test_pairs_that_do_not_fit() -> None:
    message = r"2 of 5 pairs do not fit a row, which holds 6 and 8; the longest has 9 tokens and 2 "
    with pytest.raises(UserError, match=message + r".*sequence_length, or set data.too_long"):
        pair_plan(too_long="error")

    def none(texts: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return texts * 0, targets * 0

    with pytest.raises(UserError, match="none of the 5 pairs fits a row, which holds 6 and 8"):
        pair_plan(too_long="drop", fit=none)
    assert pair_plan(too_long="error", fit=lambda texts, targets: (texts, targets)).num_cut == 0
