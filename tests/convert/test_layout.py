"""Layouts against loops over single elements, and against their inverses."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import Rotary
from lm.convert.layout import (
    LINEAR,
    SAME,
    Fused,
    HeadsBias,
    HeadsIn,
    HeadsOut,
    HeadVector,
    Layout,
    Leading,
    Transposed,
    rotary_order,
)
from lm.model.positions import rotary_tables, rotate

N, H, D = 3, 4, 5
ORDER = (2, 0, 3, 1)


def numbered(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


FUSED = Fused((HeadsOut(N, H, conv1d=True),) * 2 + (SAME,), (N * H, N * H, 2), axis=1)
LAYOUTS: list[tuple[Layout, tuple[int, ...]]] = [
    (SAME, (D, 2)),
    (LINEAR, (D, 2)),
    (Transposed((2, 0, 1)), (2, N, H)),
    (Leading(2), (1, 1, D)),
    (HeadsOut(N, H), (N * H, D)),
    (HeadsOut(N, H, ORDER), (N * H, D)),
    (HeadsOut(N, H, ORDER, conv1d=True), (D, N * H)),
    (HeadsIn(N, H), (D, N * H)),
    (HeadsIn(N, H, conv1d=True), (N * H, D)),
    (HeadsBias(N, H), (N * H,)),
    (HeadsBias(N, H, ORDER), (N * H,)),
    (HeadVector(ORDER), (H,)),
    (Fused((LINEAR, LINEAR), (2, 3)), (5, D)),
    (Fused((HeadsBias(N, H),) * 3, (N * H,) * 3), (3 * N * H,)),
    (FUSED, (D, 2 * N * H + 2)),
]


@pytest.mark.parametrize(("layout", "shape"), LAYOUTS, ids=lambda value: str(value)[:60])
def test_there_and_back(layout: Layout, shape: tuple[int, ...]) -> None:
    reference = numbered(*shape)
    arrays = layout.to_lm(reference)
    assert layout.reference_shape([array.shape for array in arrays]) == shape
    back = layout.to_reference(arrays)
    assert back.dtype == reference.dtype
    np.testing.assert_array_equal(back, reference)
    # Every number arrives, once.
    moved = np.sort(np.concatenate([array.reshape(-1) for array in arrays]))
    np.testing.assert_array_equal(moved, reference.reshape(-1))
    # The other way round, too: nothing in the result depends on what `to_lm` returned being views.
    copies = [np.array(array) for array in arrays]
    np.testing.assert_array_equal(layout.to_reference(copies), reference)


@pytest.mark.parametrize("order", [None, ORDER])
@pytest.mark.parametrize("conv1d", [False, True])
def test_heads_out_in_words(order: tuple[int, ...] | None, conv1d: bool) -> None:
    """Column n * H + order[h] of a product's output is dimension h of head n."""
    reference = numbered(D, N * H) if conv1d else numbered(N * H, D)
    (kernel,) = HeadsOut(N, H, order, conv1d).to_lm(reference)
    assert kernel.shape == (D, N, H)
    for d in range(D):
        for n in range(N):
            for h in range(H):
                column = n * H + (h if order is None else order[h])
                wanted = reference[d, column] if conv1d else reference[column, d]
                assert kernel[d, n, h] == wanted


@pytest.mark.parametrize("conv1d", [False, True])
def test_heads_in_in_words(conv1d: bool) -> None:
    reference = numbered(N * H, D) if conv1d else numbered(D, N * H)
    (kernel,) = HeadsIn(N, H, conv1d).to_lm(reference)
    assert kernel.shape == (N, H, D)
    for n in range(N):
        for h in range(H):
            for d in range(D):
                row = n * H + h
                assert kernel[n, h, d] == (reference[row, d] if conv1d else reference[d, row])


def test_vectors_of_heads_in_words() -> None:
    (bias,) = HeadsBias(N, H, ORDER).to_lm(numbered(N * H))
    (scale,) = HeadVector(ORDER).to_lm(numbered(H))
    assert bias.shape == (N, H) and scale.shape == (H,)
    for h in range(H):
        assert scale[h] == ORDER[h]
        for n in range(N):
            assert bias[n, h] == n * H + ORDER[h]


def test_transposed_in_words() -> None:
    reference = numbered(2, N, H)
    (array,) = Transposed((2, 0, 1)).to_lm(reference)
    assert array.shape == (H, 2, N)
    for a in range(2):
        for n in range(N):
            for h in range(H):
                assert array[h, a, n] == reference[a, n, h]


def test_fused_in_words() -> None:
    reference = numbered(D, 2 * N * H + 2)
    query, key, rest = FUSED.to_lm(reference)
    np.testing.assert_array_equal(rest, reference[:, -2:])
    for d in range(D):
        for n in range(N):
            for h in range(H):
                assert query[d, n, h] == reference[d, n * H + h]
                assert key[d, n, h] == reference[d, N * H + n * H + h]


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("rotated", [None, 4])
def test_reordered_heads_rotate_alike(reference: bool, rotated: int | None) -> None:
    """Scores of rotated queries and keys do not depend on which dimensions make a pair."""
    width = 8
    rng = np.random.default_rng(0)
    query, key = (rng.normal(size=(1, 6, 2, width)).astype(np.float32) for _ in range(2))
    order = rotary_order(width, reference=reference, here=not reference, rotated=rotated)
    assert order is not None
    tables = rotary_tables(jnp.arange(6)[None], rotated or width, Rotary())

    def scores(query: np.ndarray, key: np.ndarray, interleaved: bool) -> np.ndarray:
        q, k = (rotate(jnp.asarray(x), tables, interleaved=interleaved) for x in (query, key))
        return np.asarray(jnp.einsum("btnh,bsnh->bnts", q, k))

    there = scores(query, key, reference)
    here = scores(query[..., list(order)], key[..., list(order)], not reference)
    np.testing.assert_allclose(here, there, atol=1e-5)
    # Without reordering they would differ: the test can fail.
    assert np.abs(scores(query, key, not reference) - there).max() > 0.1


def test_same_pairing_needs_no_order() -> None:
    assert rotary_order(8, reference=True, here=True) is None
    assert rotary_order(8, reference=False, here=False) is None
