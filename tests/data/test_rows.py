from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.data.packing import BinPlan, StreamPlan
from lm.data.rows import Aligned, Mixture, Rows, seed_of

LENGTHS = np.array([5, 40, 3, 2, 17, 1, 9, 30])


class Store:
    """Tokens that tell where they come from: 100 * document + place."""

    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    tokens = np.concatenate([100 * d + np.arange(n) for d, n in enumerate(LENGTHS)])


def prepare(example: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    tokens = example["tokens"]
    noise = rng.random(len(tokens) - 1).astype(np.float32)
    ones = np.ones(len(tokens) - 1, np.float32)
    return {"tokens": tokens[:-1], "targets": tokens[1:], "weights": ones, "noise": noise}


def make(packing: str, joined: bool = False, seed: int = 0, wrap: bool = True) -> Rows:
    plan: Any
    if packing == "stream":
        plan = StreamPlan(
            LENGTHS, row_length=8, lookahead=1, joined=joined, shuffle=wrap, wrap=wrap, seed=(seed,)
        )
    else:
        plan = BinPlan(
            LENGTHS,
            row_length=8,
            lookahead=1,
            packing=packing,
            shuffle=wrap,
            seed=(seed,),  # type: ignore
        )
    return Rows(plan, Store(), Aligned(prepare, 8, lookahead=1), (seed,))  # type: ignore[arg-type]


def test_joined_rows_are_one_text() -> None:
    rows = make("stream", joined=True)
    for number in range(3 * len(rows)):
        row = rows[number]
        assert set(row) == {"tokens", "targets", "weights", "noise"}
        assert row["tokens"].dtype == np.int32
        assert row["tokens"].shape == (8,)
        assert (row["tokens"][1:] == row["targets"][:-1]).all()
        assert row["weights"].all()


@pytest.mark.parametrize("packing", ["stream", "first_fit", "none"])
def test_segments_never_mix_documents(packing: str) -> None:
    rows = make(packing)
    several = 0
    for number in range(2 * len(rows)):
        row = rows[number]
        segments = row["segment_ids"]
        used = int((segments > 0).sum())
        assert (segments[:used] > 0).all()
        for segment in range(1, segments.max() + 1):
            (places,) = np.nonzero(segments == segment)
            tokens, targets = row["tokens"][places], row["targets"][places]
            assert (places == np.arange(places[0], places[0] + len(places))).all()
            assert (targets == tokens + 1).all()  # the next token of the same document
            assert len({*(tokens // 100), *(targets // 100)}) == 1
            assert (row["positions"][places] == np.arange(len(places))).all()
        assert (row["weights"] == (segments > 0)).all()
        assert not row["tokens"][used:].any()
        assert not row["positions"][used:].any()
        several += segments.max() > 1
    assert bool(several) == (packing != "none")


def test_the_short_last_row_of_an_evaluation_weighs_nothing_where_it_is_empty() -> None:
    rows = make("stream", joined=True, wrap=False)
    last = rows[len(rows) - 1]
    filled = (LENGTHS.sum() - 1) % 8
    assert last["weights"].tolist() == [1.0] * filled + [0.0] * (8 - filled)
    assert last["targets"][filled - 1] == Store.tokens[-1]


@pytest.mark.parametrize("packing", ["stream", "first_fit"])
def test_the_generator_depends_on_seed_epoch_and_row_alone(packing: str) -> None:
    first, second = make(packing), make(packing)
    numbers = [7, 0, 3, 7]
    noises = [first[n]["noise"] for n in numbers]
    for number, noise in zip(reversed(numbers), reversed(noises), strict=True):
        assert (second[number]["noise"] == noise).all()
    assert not np.array_equal(first[0]["noise"], first[1]["noise"])
    assert not np.array_equal(first[0]["noise"], first[len(first)]["noise"])
    assert not np.array_equal(first[0]["noise"], make(packing, seed=1)[0]["noise"])


def test_sources_have_seeds_of_their_own() -> None:
    assert seed_of(0, "a") == seed_of(0, "a")
    assert len({seed_of(0, "a"), seed_of(0, "b"), seed_of(1, "a")}) == 3


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0], [0.7, 0.2, 0.1], [3.0, 1.0, 1e-3, 5.0]])
def test_a_mixture_keeps_to_its_weights_and_skips_no_row(weights: list[float]) -> None:
    mixture = Mixture([make("none") for _ in weights], weights)
    counts = [0] * len(weights)
    for number in range(5000):
        part, row = mixture.part(number)
        assert row == counts[part]  # each source's rows come in order, none left out
        counts[part] += 1
        shares = np.array(weights) / sum(weights) * (number + 1)
        assert np.abs(shares - counts).max() <= len(weights)
    far = 10**15
    part, row = mixture.part(far)
    assert abs(row - far * weights[part] / sum(weights)) <= len(weights)


def test_a_mixture_takes_the_rows_of_its_parts(tmp_path: Path) -> None:
    parts = [make("none"), make("stream", seed=5)]
    mixture = Mixture(parts, [1.0, 2.0])
    assert len(mixture) == len(parts[0]) + len(parts[1])
    for number in range(40):
        part, row = mixture.part(number)
        for name, values in mixture[number].items():
            assert (values == parts[part][row][name]).all()
