from typing import Any

import numpy as np
import pytest

from lm.data.corruption import denoising as d
from lm.data.corruption.vocabulary import Vocabulary, vocabulary_of
from lm.data.tokenizers.simple import Characters
from lm.errors import ConfigError, UserError

SIZE = 1000
PAD, BOS, EOS, UNK, MASK, STOP, IDEOGRAPHIC_STOP = range(7)


def vocabulary(**changes: Any) -> Vocabulary:
    """Every third id goes on with a word; 5 is "." and 6 is "。"."""
    special = np.zeros(SIZE, bool)
    special[[PAD, BOS, EOS, UNK, MASK]] = True
    starts = np.arange(SIZE) % 3 != 0
    starts[: IDEOGRAPHIC_STOP + 1] = True
    pieces = ["<pad>", "<s>", "</s>", "<unk>", "<mask>", ".", "。"]
    values: dict[str, Any] = dict(
        size=SIZE,
        pad_id=PAD,
        bos_id=BOS,
        eos_id=EOS,
        unk_id=UNK,
        mask_id=MASK,
        special=special,
        starts_word=starts,
        pieces=(*pieces, *(f"x{i}" for i in range(len(pieces), SIZE))),
    )
    return Vocabulary(**{**values, **changes})


V = vocabulary()
EACH_A_WORD = vocabulary(starts_word=np.ones(SIZE, bool))


def rng_of(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def text(n: int, seed: int = 0) -> np.ndarray:
    """Ordinary tokens, all different where there are enough, without full stops."""
    rng = rng_of(seed)
    if n <= SIZE - 7:
        return (rng.permutation(SIZE - 7)[:n] + 7).astype(np.int32)
    return rng.integers(7, SIZE, n).astype(np.int32)


def documents(n: int, seed: int = 0) -> np.ndarray:
    """Some, with bos and eos, full stops, and unknown words."""
    rng = rng_of(seed)
    tokens = rng.integers(7, SIZE, n)
    tokens[rng.random(n) < 0.1] = STOP
    tokens[rng.random(n) < 0.05] = UNK
    ends = np.flatnonzero(rng.random(n - 1) < 0.05)
    tokens[ends], tokens[ends + 1] = EOS, BOS
    return tokens.astype(np.int32)


# Infilling


def test_spans_go_where_they_are_placed() -> None:
    """Of five slots of four words and spans of 2, 0 and 1, in the order of slots."""

    class Fixed:
        def permutation(self, x: Any) -> Any:
            return np.array([2, 0, 1])

        def poisson(self, mean: float, size: int) -> Any:
            return np.array([2, 0, 3] + [9] * size)

        def choice(self, n: int, k: int, replace: bool) -> Any:
            assert (n, k, replace) == (7 + 3, 3, False)
            return np.array([8, 1, 4])

    tokens = np.arange(101, 111, dtype=np.int32)
    found = d.infill(tokens, EACH_A_WORD, Fixed(), rate=0.3)  # type: ignore[arg-type]
    # Slots: word, SPAN of 2, word, word, INSERTED, word, word, word, SPAN of 1, word.
    assert found.tolist() == [101, MASK, 104, 105, MASK, 106, 107, 108, MASK, 110]


@pytest.mark.parametrize("words", [False, True])
def test_infilling_over_100k_tokens(words: bool) -> None:
    """30 % of the text, Poisson(3) spans, each a single mask token."""
    n = 100_000
    tokens = np.arange(7, n + 7)
    starts = np.ones(n + 7, bool)
    starts[np.arange(n + 7) % 3 == 0] = False
    special = np.zeros(n + 7, bool)
    special[:5] = True
    v = vocabulary(size=n + 7, special=special, starts_word=starts, pieces=())
    corrupted = d.infill(tokens, v, rng_of(1), whole_words=words)
    assert len(corrupted) < n
    masks = int((corrupted == MASK).sum())
    kept = corrupted[corrupted != MASK]
    missing = np.setdiff1d(tokens, kept)
    units = int(starts[7:].sum()) if words else n
    lost = int(starts[missing].sum()) if words else len(missing)
    assert lost == np.ceil(0.3 * units)  # exact
    if words:  # no half words
        first = missing[~starts[missing]]
        assert np.isin(first - 1, missing).all()
        assert abs(len(missing) / n - 0.3) < 5 * np.sqrt(0.3 * 0.7 / n)
    assert abs(lost / masks - 3) < 5 * np.sqrt(3 / masks)
    if words:
        return
    # Poisson: those of length 0 are inserted between kept tokens, or stand beside another.
    lengths = d._poisson_lengths(30_000, 3.0, rng_of(2))
    assert lengths.sum() == 30_000
    for k, share in enumerate(np.exp(-3) * np.array([1, 3, 4.5, 4.5, 3.375])):
        error = np.sqrt(share * (1 - share) / len(lengths))
        assert abs((lengths == k).mean() - share) < 5 * error
    # An inserted mask stands between neighbours, if no other span is beside it: of 80k slots, 70k
    # hold a kept token.
    middle = (corrupted[1:-1] == MASK) & (corrupted[:-2] + 1 == corrupted[2:])
    expected = np.exp(-3) * masks * (7 / 8) ** 2
    assert abs(middle.sum() - expected) < 5 * np.sqrt(expected)


def test_all_placements_are_as_likely() -> None:
    rng = rng_of(3)
    draws = 6000
    found = np.array([d._place(np.array([2, 1]), 6, rng) for _ in range(draws)])
    pairs, counts = np.unique(found, axis=0, return_counts=True)
    # Three kept words and two spans: 5 choose 2.
    assert len(pairs) == 10
    assert (pairs[:, 1] >= pairs[:, 0] + 2).all()
    assert (pairs[:, 1] <= 5).all()
    assert (abs(counts - draws / 10) < 5 * np.sqrt(draws * 0.09)).all()


@pytest.mark.parametrize("seed", range(20))
def test_infilling_keeps_order_and_specials(seed: int) -> None:
    tokens = documents(200, seed)
    for words in (False, True):
        corrupted = d.infill(tokens, V, rng_of(seed), whole_words=words, rate=0.5)
        assert len(corrupted) <= len(tokens)
        fixed = [int(t) for t in tokens if V.special[t]]
        assert [t for t in corrupted.tolist() if V.special[t] and t != MASK] == fixed
        # What is kept is a subsequence, document by document.
        rest = iter(tokens.tolist())
        assert all(token in rest for token in corrupted.tolist() if token != MASK)


def test_a_span_over_a_special_token_has_a_mask_on_either_side() -> None:
    tokens = np.array([11, 13, UNK, 14, 16])
    corrupted = d.infill(tokens, EACH_A_WORD, rng_of(0), rate=0.99, mean_length=50.0)
    assert corrupted.tolist() == [MASK, UNK, MASK]


def test_infilling_never_lengthens_a_row() -> None:
    """Even where insertions are drawn before the only span."""
    lengths = set()
    for seed in range(500):
        for n in (1, 2, 3, 5):
            corrupted = d.infill(text(n, seed), V, rng_of(seed), mean_length=1.0)
            assert 0 < len(corrupted) <= n
            assert (corrupted == MASK).any()
            lengths.add((n, len(corrupted)))
    assert (5, 5) in lengths


def test_insertions_come_before_a_last_special_token() -> None:
    tokens = np.append(text(12), EOS)
    ended = 0
    for seed in range(3000):
        corrupted = d.infill(tokens, EACH_A_WORD, rng_of(seed))
        assert corrupted[-1] == EOS
        ended += corrupted[-2] == MASK and corrupted[-3] == tokens[-2]
    assert ended > 5


def test_the_span_that_is_cut_may_be_anywhere() -> None:
    rng = rng_of(8)
    drawn = [d._poisson_lengths(10, 3.0, rng) for _ in range(4000)]
    first, last = (np.array([lengths[i] for lengths in drawn]) for i in (0, -1))
    for k in range(5):
        share = (np.mean(first == k) + np.mean(last == k)) / 2
        error = np.sqrt(2 * share * (1 - share) / 4000)
        assert abs(np.mean(first == k) - np.mean(last == k)) < 5 * error


def test_nothing_to_infill() -> None:
    for tokens in (np.array([], np.int32), np.array([BOS, EOS, PAD])):
        for words in (False, True):
            assert d.infill(tokens, V, rng_of(), whole_words=words).tolist() == tokens.tolist()
    assert d.infill(text(9), vocabulary(mask_id=None), rng_of(), rate=0).tolist() == (
        text(9).tolist()
    )


# Sentences


def test_sentences() -> None:
    tokens = np.array(
        [BOS, 11, 12, STOP, STOP, 13, UNK, IDEOGRAPHIC_STOP, 14, EOS, BOS, STOP, 15, EOS]
    )
    expected = [-1, 0, 0, 0, 0, 1, 1, 1, 2, -1, -1, 3, 4, -1]
    assert d.sentence_ids(tokens, V).tolist() == expected


def test_sentences_of_a_tokenizer() -> None:
    tokenizer = Characters.train(["abc. 你好。你们"])
    v = vocabulary_of(tokenizer)
    tokens = np.array(tokenizer.encode("ab.c你。们."))
    assert d.sentence_ids(tokens, v).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_permuted_sentences_literally() -> None:
    tokens = np.array([BOS, 11, 12, STOP, 13, STOP, 14, EOS, BOS, 15, STOP, 16, EOS])
    firsts = [[11, 12, STOP], [13, STOP], [14]]
    seconds = [[15, STOP], [16]]
    seen: dict[tuple[int, ...], int] = {}
    draws = 6000
    rng = rng_of(4)
    for _ in range(draws):
        permuted = tuple(d.permute_sentences(tokens, V, rng).tolist())
        seen[permuted] = seen.get(permuted, 0) + 1
    orders = [(a, b, c) for a in range(3) for b in range(3) for c in range(3) if a + b + c == 3]
    orders = [o for o in orders if len(set(o)) == 3]
    expected = {
        (BOS, *firsts[a], *firsts[b], *firsts[c], EOS, BOS, *seconds[e], *seconds[1 - e], EOS)
        for a, b, c in orders
        for e in range(2)
    }
    assert set(seen) == expected
    error = np.sqrt(draws / 12 * 11 / 12)
    assert all(abs(count - draws / 12) < 5 * error for count in seen.values())


def test_given_sentences() -> None:
    tokens = np.arange(11, 17)
    ids = np.array([0, 0, 0, 1, 1, 2])
    seen = {tuple(d.permute_sentences(tokens, V, rng_of(s), ids).tolist()) for s in range(60)}
    assert len(seen) == 6
    assert (14, 15, 16, 11, 12, 13) in seen


# Rotation, deletion, single masks


def test_rotation() -> None:
    tokens = np.array([BOS, 11, 12, UNK, EOS, 21, 22, EOS, EOS, 31])
    rng = rng_of(5)
    seen = [tuple(d.rotate(tokens, V, rng).tolist()) for _ in range(3000)]
    firsts = [(11, 12, UNK), (12, UNK, 11), (UNK, 11, 12)]
    seconds = [(21, 22), (22, 21)]
    expected = {(BOS, *a, EOS, *b, EOS, EOS, 31) for a in firsts for b in seconds}
    assert set(seen) == expected
    assert all(abs(seen.count(e) - 500) < 5 * np.sqrt(3000 / 6 * 5 / 6) for e in expected)


def test_deletion_and_masks_over_100k_tokens() -> None:
    tokens = documents(100_000, 6)
    ordinary = ~V.special[tokens]
    count = int(np.ceil(0.15 * ordinary.sum()))
    masked = d.mask_each(tokens, V, rng_of(1), rate=0.15)
    changed = masked != tokens
    assert changed.sum() == count
    assert (masked[changed] == MASK).all()
    assert not changed[~ordinary].any()
    # Anywhere: as many in the first half as in the second.
    half = changed[:50_000].sum() / count
    assert abs(half - 0.5) < 5 * np.sqrt(0.25 / count) + abs(ordinary[:50_000].mean() - 0.85)
    shorter = d.delete_tokens(tokens, V, rng_of(1), rate=0.15)
    assert len(shorter) == len(tokens) - count
    assert (shorter[V.special[shorter]] == tokens[~ordinary]).all()
    rest = iter(tokens.tolist())
    assert all(token in rest for token in shorter.tolist())


# All together


def test_the_papers_recipe() -> None:
    assert d.Denoising() == d.Denoising(
        permute_sentences=True, infill=0.3, mean_length=3.0, rotate=False, delete=0, mask=0
    )


@pytest.mark.parametrize(
    "noise",
    [
        d.Denoising(),
        d.Denoising(permute_sentences=False, infill=0.0, rotate=True),
        d.Denoising(whole_words=False, delete=0.1, mask=0.1, rotate=True),
    ],
)
def test_rows(noise: d.Denoising) -> None:
    for n in (1, 2, 3, 50, 200):
        tokens = documents(n, n)
        for length in (None, 256):
            row = d.denoise(tokens, V, rng_of(n), noise, add_bos=True, length=length)
            side = (length or n) + 2
            assert row["source"].shape == row["targets"].shape == row["weights"].shape == (side,)
            real = row["source_positions"] >= 0
            assert row["source"][0] == BOS
            assert row["source"][real][-1] == EOS
            assert (row["source"][~real] == PAD).all()
            assert row["targets"][: n + 2].tolist() == [BOS, *tokens.tolist(), EOS]
            # No loss on bos and padding.
            expected = (np.arange(side) < n + 2) & (row["targets"] != BOS)
            assert ((row["weights"] > 0) == expected).all()
            assert set(row["source"][real].tolist()) <= {*tokens.tolist(), BOS, EOS, MASK}


def test_without_noise_the_source_is_the_target() -> None:
    noise = d.Denoising(permute_sentences=False, infill=0.0)
    row = d.denoise(documents(100), V, rng_of(), noise)
    assert (row["source"] == row["targets"]).all()


def test_equal_generators_give_equal_rows() -> None:
    tokens = documents(300)
    tokens.flags.writeable = False
    noise = d.Denoising(rotate=True, delete=0.1, mask=0.1)
    first, again, other = (d.denoise(tokens, V, rng_of(s), noise)["source"] for s in (7, 7, 8))
    assert (first == again).all()
    assert (first != other).any()


def test_what_cannot_be_meant() -> None:
    for bad in (dict(infill=1.0), dict(delete=-0.1), dict(mask=2.0), dict(mean_length=0.5)):
        with pytest.raises(ConfigError):
            d.Denoising(**bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="mask token"):
        d.denoise(text(20), vocabulary(mask_id=None), rng_of())
    with pytest.raises(ConfigError, match="eos token"):
        d.denoise(text(20), vocabulary(eos_id=None), rng_of())
    with pytest.raises(UserError, match="does not fit"):
        d.denoise(text(20), V, rng_of(), length=19)
