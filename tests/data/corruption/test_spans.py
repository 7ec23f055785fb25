from typing import Any

import numpy as np
import pytest

from lm.data.corruption import spans as s
from lm.data.corruption.vocabulary import Vocabulary
from lm.errors import ConfigError, UserError

SIZE, SENTINELS = 1000, tuple(range(999, 899, -1))
PAD, BOS, EOS = 0, 1, 2
R, S, X = 890, 891, 892
MODES = {"R": R, "S": S, "X": X}


def vocabulary(**changes: Any) -> Vocabulary:
    special = np.zeros(SIZE, bool)
    special[[PAD, BOS, EOS, 3, 4, *SENTINELS, R, S, X]] = True
    values: dict[str, Any] = dict(
        size=SIZE,
        pad_id=PAD,
        bos_id=BOS,
        eos_id=EOS,
        unk_id=3,
        mask_id=4,
        special=special,
        starts_word=np.ones(SIZE, bool),
        sentinels=SENTINELS,
    )
    return Vocabulary(**{**values, **changes})


V = vocabulary()


def text(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(5, 890, n).astype(np.int32)


def spelled(row: dict[str, np.ndarray]) -> tuple[list[int], list[int]]:
    """Source and targets without their padding, which is checked on the way."""
    real = row["source_positions"] >= 0
    assert (row["source_positions"][real] == np.arange(real.sum())).all()
    assert (row["source"][~real] == PAD).all()
    assert not real[real.sum() :].any()
    weights = row["weights"] > 0
    assert set(np.unique(row["weights"])) <= {0.0, 1.0}
    assert not weights[weights.sum() :].any()
    assert (row["targets"][~weights] == PAD).all()
    for name, dtype in dict(source=np.int32, targets=np.int32, weights=np.float32).items():
        assert row[name].dtype == dtype
    return row["source"][real].tolist(), row["targets"][weights].tolist()


def restored(source: list[int], targets: list[int]) -> list[int]:
    """The text: what stands behind its sentinel in the target goes in its place in the source."""
    spans: dict[int, list[int]] = {}
    for token in targets:
        if token in SENTINELS:
            assert token not in spans
            spans[token] = []
            last = token
        else:
            spans[last].append(token)
    used = [token for token in source if token in SENTINELS]
    assert used == list(SENTINELS[: len(used)]) == list(spans)[: len(used)]
    out: list[int] = []
    for token in source:
        out += spans[token] if token in SENTINELS else [token]
    return out


def test_the_papers_figure() -> None:
    # Thank you [for inviting] me to your party [last] week .
    tokens = np.arange(101, 112, dtype=np.int32)
    dropped = np.array([0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0], bool)
    source, targets = s.drop_spans(tokens, dropped, SENTINELS)
    assert source.tolist() == [101, 102, 999, 105, 106, 107, 108, 998, 110, 111]
    assert targets.tolist() == [999, 103, 104, 998, 109, 997]


def test_no_last_sentinel_where_the_row_ends_with_a_span() -> None:
    tokens = np.arange(101, 106, dtype=np.int32)
    dropped = np.array([0, 1, 0, 1, 1], bool)
    source, targets = s.drop_spans(tokens, dropped, SENTINELS)
    assert source.tolist() == [101, 999, 103, 998]
    assert targets.tolist() == [999, 102, 998, 104, 105]


def by_definition(tokens: np.ndarray, noise: np.ndarray) -> list[int]:
    """T5's noise_span_to_unique_sentinel, token by token."""
    out, count = [], 0
    for i, token in enumerate(tokens):
        if not noise[i]:
            out.append(int(token))
        elif i == 0 or not noise[i - 1]:
            out.append(SENTINELS[count])
            count += 1
    return out


@pytest.mark.parametrize("n", [2, 3, 17, 200])
def test_source_and_target_are_those_of_t5(n: int) -> None:
    """Its target is the same function of the complement, for rows that begin with a kept token."""
    rng = np.random.default_rng(n)
    for _ in range(200):
        dropped = rng.random(n) < rng.random()
        dropped[0] = False
        tokens = text(n, int(rng.integers(1000)))
        source, targets = s.drop_spans(tokens, dropped, SENTINELS)
        assert source.tolist() == by_definition(tokens, dropped)
        theirs = by_definition(tokens, ~dropped)
        assert targets.tolist() == (theirs if dropped.any() else [])


@pytest.mark.parametrize("density", [0.05, 0.15, 0.5, 0.85])
@pytest.mark.parametrize("mean", [1.0, 3.0, 8.0, 64.0])
def test_lengths_are_exact_and_nothing_is_lost(density: float, mean: float) -> None:
    rng = np.random.default_rng(0)
    for n in [0, 1, 2, 3, 4, 5, 10, 31, 100, 128]:
        tokens = text(n, n)
        row = s.span_corruption(tokens, V, rng, density=density, mean_length=mean)
        source, targets = spelled(row)
        assert (len(source), len(targets)) == s.span_lengths(n, density, mean)
        assert (len(row["source"]), len(row["targets"])) == (len(source), len(targets))
        assert source[-1] == targets[-1] == EOS
        assert restored(source[:-1], targets[:-1]) == tokens.tolist()
        if n > 1:
            assert targets[0] == SENTINELS[0]


def test_numbers_are_rounded() -> None:
    assert s.span_counts(12, 0.15, 3.0) == (2, 1)  # 1.8
    assert s.span_counts(30, 0.15, 3.0) == (4, 1)  # 4.5, 1.33
    assert s.span_counts(100, 0.15, 4.0) == (15, 4)  # 3.75
    assert s.span_counts(3, 0.99, 3.0) == (2, 1)  # one stays
    assert s.span_counts(10, 0.8, 1.0) == (8, 2)  # kept tokens for two spans


def test_t5s_lengths() -> None:
    # What its random_spans_helper says for 512.
    assert s.raw_length(512, 0.15, 3.0) == (568, 114)
    assert s.span_lengths(568, 0.15, 3.0) == (512, 114)
    for density in (0.15, 0.3, 0.5):
        for mean in (1, 3, 8, 64):
            for eos in (False, True):
                for length in (4, 5, 63, 64, 512):
                    n, target = s.raw_length(length, density, mean, add_eos=eos)
                    source = s.span_lengths(n, density, mean, add_eos=eos)
                    # With a span to each kept token, the source grows by two at a time.
                    one_to_one = (density, mean) == (0.5, 1)
                    assert length - one_to_one <= source[0] <= length
                    assert source[1] == target
                    assert s.span_lengths(n + 1, density, mean, add_eos=eos)[0] > length


def test_statistics_over_100k_tokens() -> None:
    """15 % of the tokens in spans of 3 on average: of 568, T5 drops 85 in 28 spans."""
    rng = np.random.default_rng(1)
    masks = np.stack([s.noise_spans(568, rng) for _ in range(200)])
    assert masks.size > 100_000
    assert (masks.sum(axis=1) == 85).all()
    begins = masks & ~np.pad(masks, ((0, 0), (1, 0)))[:, :-1]
    assert (begins.sum(axis=1) == 28).all()
    assert abs(masks.mean() - 0.15) < 1e-3
    # A span's length is 1 + what 57 tokens put into 28 boxes leave it: (57 - k choose ...).
    lengths = np.concatenate([np.diff(np.flatnonzero(np.diff(np.pad(m, 1))))[::2] for m in masks])
    assert lengths.mean() == pytest.approx(85 / 28)
    share = (lengths == 1).mean()
    expected = 27 / 84
    assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / len(lengths))
    # Every place in the middle is as likely to drop out, within the standard error.
    middle = masks[:, 100:468].mean(axis=1)
    assert abs(middle.mean() - 0.15) < 5 * middle.std() / np.sqrt(len(middle))


def test_every_mask_is_as_likely() -> None:
    rng = np.random.default_rng(2)
    draws = 9000
    seen: dict[tuple[bool, ...], int] = {}
    for _ in range(draws):
        mask = tuple(s.noise_spans(8, rng, density=0.5, mean_length=2.0).tolist())
        seen[mask] = seen.get(mask, 0) + 1
    assert len(seen) == 9  # 3 ways to cut 4 kept tokens in two, times 3 for the dropped
    assert all(not m[0] and m[-1] for m in seen)
    error = np.sqrt(draws / 9 * 8 / 9)
    assert all(abs(count - draws / 9) < 5 * error for count in seen.values())


def test_short_rows_are_padded_to_the_longest_rows_lengths() -> None:
    rng = np.random.default_rng(0)
    row = s.span_corruption(text(20), V, rng, length=100)
    assert (len(row["source"]), len(row["targets"])) == s.span_lengths(100)
    source, targets = spelled(row)
    assert restored(source[:-1], targets[:-1]) == text(20).tolist()
    with pytest.raises(UserError, match="does not fit"):
        s.span_corruption(text(101), V, rng, length=100)


def test_equal_generators_give_equal_rows() -> None:
    def make(seed: int) -> dict[str, np.ndarray]:
        return s.mixture_of_denoisers(text(200), V, np.random.default_rng(seed), modes=MODES)

    first, again = make(5), make(5)
    assert all((first[name] == again[name]).all() for name in first)
    assert any((make(6)[name] != first[name]).any() for name in first)


def test_tokens_are_not_written_to() -> None:
    tokens = text(100)
    before = tokens.copy()
    tokens.flags.writeable = False
    s.span_corruption(tokens, V, np.random.default_rng(0))
    assert (tokens == before).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(density=0.0), "density"),
        (dict(density=1.0), "density"),
        (dict(mean_length=0.5), "mean length"),
        (dict(density=0.5, mean_length=1.0), "sentinels"),
    ],
)
def test_what_cannot_be_meant(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        s.span_corruption(text(400), V, np.random.default_rng(0), **arguments)


def test_sentinels_and_eos_are_needed() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="0 sentinels"):
        s.span_corruption(text(9), vocabulary(sentinels=()), rng)
    with pytest.raises(ConfigError, match="eos"):
        s.span_corruption(text(9), vocabulary(eos_id=None), rng)
    row = s.span_corruption(text(9), vocabulary(eos_id=None), rng, add_eos=False)
    assert (len(row["source"]), len(row["targets"])) == s.span_lengths(9, add_eos=False)
    with pytest.raises(ConfigError, match="too short"):
        s.raw_length(2)


# UL2


def test_ul2_is_the_papers_table() -> None:
    table = [(d.mode, d.density, d.mean_length) for d in s.UL2 if d.mode != "S"]
    assert table == [
        ("R", 0.15, 3),
        ("R", 0.15, 8),
        ("X", 0.5, 3),
        ("X", 0.5, 8),
        ("X", 0.15, 64),
        ("X", 0.5, 64),
    ]
    assert [d.density for d in s.UL2 if d.mode == "S"] == [0.25]


def test_mixture_of_denoisers() -> None:
    rng = np.random.default_rng(3)
    n, draws = 128, 2100
    tokens = text(n)
    room = s.mixture_lengths(n, modes=MODES)
    counts = np.zeros(7)
    suffixes = []
    for _ in range(draws):
        row = s.mixture_of_denoisers(tokens, V, rng, modes=MODES)
        assert (len(row["source"]), len(row["targets"])) == room
        which = int(row["denoiser"])
        denoiser = s.UL2[which]
        counts[which] += 1
        source, targets = spelled(row)
        assert source[0] == MODES[denoiser.mode]
        assert source[-1] == targets[-1] == EOS
        source, targets = source[1:-1], targets[:-1]
        if denoiser.mode == "S":
            assert source + targets == tokens.tolist()
            suffixes.append(len(targets))
        else:
            assert restored(source, targets) == tokens.tolist()
            noise, spans = s.span_counts(n, denoiser.density, denoiser.mean_length)
            assert len(targets) == noise + spans
    error = np.sqrt(draws / 7 * 6 / 7)
    assert (abs(counts - draws / 7) < 5 * error).all()
    # A quarter on average, uniform from 1 to a half less one.
    assert abs(np.mean(suffixes) - n / 4) < 5 * np.std(suffixes) / np.sqrt(len(suffixes))
    assert max(suffixes) <= n // 2 - 1


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 64])
def test_mixture_of_short_rows(n: int) -> None:
    rng = np.random.default_rng(0)
    for length in (None, 64):
        for _ in range(50):
            row = s.mixture_of_denoisers(text(n), V, rng, length=length)
            room = s.mixture_lengths(n if length is None else length)
            assert (len(row["source"]), len(row["targets"])) == room
            spelled(row)


def test_rates_and_modes() -> None:
    rng = np.random.default_rng(0)
    rates = [0, 0, 3, 0, 0, 0, 1]
    seen = [
        int(s.mixture_of_denoisers(text(50), V, rng, rates=rates)["denoiser"]) for _ in range(800)
    ]
    assert set(seen) == {2, 6}
    assert abs(seen.count(2) / 800 - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 800)
    with pytest.raises(ConfigError, match="7 denoisers"):
        s.mixture_of_denoisers(text(50), V, rng, rates=[1, 2])
    with pytest.raises(ConfigError, match="no token for denoiser"):
        s.mixture_of_denoisers(text(50), V, rng, denoisers=s.UL2[:1], modes={"S": S})
    with pytest.raises(ConfigError, match="mode"):
        s.Denoiser("Q", 0.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="density"):
        s.Denoiser("R", 1.5)
