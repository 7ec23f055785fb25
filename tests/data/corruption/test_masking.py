from typing import Any

import numpy as np
import pytest

from lm.data.corruption import masking
from lm.data.corruption.masking import SELECTIONS, mask_tokens
from lm.data.corruption.vocabulary import Vocabulary
from lm.data.corruption.words import word_ids
from lm.errors import ConfigError

PAD, BOS, EOS, UNK, MASK, SPECIALS = 0, 1, 2, 3, 4, 5
SIZE = 1000


def vocabulary(mask_id: int | None = MASK) -> Vocabulary:
    """Three of ten ordinary ids go on a word."""
    ids = np.arange(SIZE)
    starts = (ids < SPECIALS) | (ids % 10 > 2)
    return Vocabulary(SIZE, PAD, BOS, EOS, UNK, mask_id, ids < SPECIALS, starts)


V = vocabulary()


def rows(count: int, length: int = 512, seed: int = 0) -> np.ndarray:
    """Rows with a special token at either end and three more inside."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(SPECIALS, SIZE, size=(count, length)).astype(np.int32)
    tokens[:, 0], tokens[:, -1] = BOS, EOS
    tokens[:, length // 2], tokens[:, length // 3], tokens[:, length // 4] = EOS, UNK, MASK
    return tokens


def masked(tokens: np.ndarray, seed: int = 1, **settings: Any) -> dict[str, np.ndarray]:
    """Each row masked, stacked."""
    rng = np.random.default_rng(seed)
    done = [mask_tokens(row, V, rng, **settings) for row in tokens]
    return {name: np.stack([row[name] for row in done]) for name in done[0]}


def near(count: float, trials: int, share: float) -> bool:
    """Whether a count of so many trials is within 5 standard errors of a share."""
    return abs(count - trials * share) <= 5 * np.sqrt(trials * share * (1 - share))


def stretches(chosen: np.ndarray) -> list[tuple[int, int]]:
    edges = np.diff(np.pad(chosen, 1).astype(int))
    return list(zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist()))


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("exact", [True, False])
def test_what_every_selection_keeps_to(selection: str, exact: bool) -> None:
    tokens = rows(60)
    tokens[:30, 400:] = PAD
    done = masked(tokens, selection=selection, exact=exact)
    chosen = done["weights"] == 1
    assert np.array_equal(done["targets"], tokens)
    assert done["tokens"].dtype == done["targets"].dtype == np.int32
    assert done["weights"].dtype == np.float32 and set(np.unique(done["weights"])) == {0, 1}
    assert np.array_equal(done["tokens"][~chosen], tokens[~chosen])
    assert not chosen[tokens < SPECIALS].any()
    # What stands in for a token is the mask or an ordinary one.
    assert not np.isin(done["tokens"][chosen], [PAD, BOS, EOS, UNK]).any()
    again = masked(tokens, selection=selection, exact=exact)
    other = masked(tokens, seed=2, selection=selection, exact=exact)
    assert all(np.array_equal(done[name], again[name]) for name in done)
    assert not np.array_equal(done["weights"], other["weights"])


def test_bert_masks_15_percent_and_80_10_10_of_them() -> None:
    tokens = rows(250)
    done = masked(tokens)
    chosen = done["weights"] == 1
    assert (chosen.sum(1) == round(512 * 0.15)).all()
    total = int(chosen.sum())
    became_mask = int((done["tokens"] == MASK)[chosen].sum())
    kept = int((done["tokens"] == tokens)[chosen].sum())
    same = 1 / (SIZE - SPECIALS)
    assert near(became_mask, total, 0.8)
    assert near(kept, total, 0.1 + 0.1 * same)
    assert near(total - became_mask - kept, total, 0.1 * (1 - same))
    drawn = done["tokens"][chosen & (done["tokens"] != MASK) & (done["tokens"] != tokens)]
    # Evenly from all ordinary ids: means of halves and ends.
    assert drawn.min() >= SPECIALS and drawn.max() < SIZE
    assert near((drawn < (SIZE + SPECIALS) // 2).sum(), len(drawn), 0.5)
    # Every place is as likely.
    ordinary = tokens >= SPECIALS
    left = ordinary[:, :256]
    assert near(chosen[:, :256].sum(), total, left.sum() / ordinary.sum())


def test_each_token_by_itself_with_the_rate() -> None:
    tokens = rows(300)
    chosen = masked(tokens, exact=False)["weights"] == 1
    ordinary = tokens >= SPECIALS
    assert near(chosen.sum(), int(ordinary.sum()), 0.15)
    counts, trials = chosen.sum(1), int(ordinary[0].sum())
    # The spread between rows is the binomial's, which has a standard error of about 1/sqrt(2 n).
    spread = counts.std() / np.sqrt(trials * 0.15 * 0.85)
    assert abs(spread - 1) < 5 / np.sqrt(2 * len(counts))


@pytest.mark.parametrize(("rate", "mask_share"), [(0.15, 0.85), (0.25, 0.85), (0.25, 1.0)])
def test_electra_masks_without_random_tokens(rate: float, mask_share: float) -> None:
    tokens = rows(250)
    done = masked(tokens, rate=rate, mask_share=mask_share, random_share=0)
    chosen = done["weights"] == 1
    assert chosen.sum(1).tolist() == [round(512 * rate)] * 250
    became_mask = (done["tokens"] == MASK) & chosen
    assert near(became_mask.sum(), int(chosen.sum()), mask_share)
    assert np.array_equal(done["tokens"][~became_mask], tokens[~became_mask])


def test_the_number_counts_special_tokens_but_no_padding_and_is_at_least_one() -> None:
    tokens = rows(1, 40)[0]
    assert mask_tokens(tokens, V, np.random.default_rng(0))["weights"].sum() == 6
    tokens[20:] = PAD
    assert mask_tokens(tokens, V, np.random.default_rng(0))["weights"].sum() == 3
    few = np.array([BOS, 7, EOS], np.int32)
    assert mask_tokens(few, V, np.random.default_rng(0))["weights"].tolist() == [0, 1, 0]
    valid = np.arange(40) < 14
    done = mask_tokens(rows(1, 40)[0], V, np.random.default_rng(0), rate=0.5, valid=valid)
    assert done["weights"].sum() == 7 and not done["weights"][14:].any()


@pytest.mark.parametrize("selection", SELECTIONS)
def test_no_more_than_max_predictions(selection: str) -> None:
    for exact in (True, False):
        done = masked(rows(40), max_predictions=20, selection=selection, exact=exact)
        counts = done["weights"].sum(1)
        assert counts.max() <= 20 and counts.mean() > 19


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("exact", [True, False])
def test_rows_with_little_or_nothing_to_mask(selection: str, exact: bool) -> None:
    rng = np.random.default_rng(0)
    settings: dict[str, Any] = {"selection": selection, "exact": exact, "rate": 1.0}
    for row in ([], [BOS], [BOS, EOS, PAD, MASK, UNK]):
        done = mask_tokens(np.array(row, np.int32), V, rng, **settings)
        assert done["tokens"].tolist() == row and not done["weights"].any()
    done = mask_tokens(np.array([9], np.int32), V, rng, mask_share=1, random_share=0, **settings)
    assert done["tokens"].tolist() == [MASK] and done["weights"].tolist() == [1]
    row = [BOS, 11, 12, 13, EOS, 14, PAD]
    done = mask_tokens(np.array(row, np.int32), V, rng, mask_share=1, random_share=0, **settings)
    assert done["tokens"].tolist() == [BOS, MASK, MASK, MASK, EOS, MASK, PAD]
    assert done["weights"].tolist() == [0, 1, 1, 1, 0, 1, 0]


def test_whole_words_are_masked_whole_in_berts_order() -> None:
    tokens = rows(40)
    for number, row in enumerate(tokens):
        words = word_ids(row, V)
        chosen = masked(row[None], seed=number, selection="whole_words")["weights"][0] == 1
        # BERT's loop: words in a random order, skipping those that no longer fit.
        members = [np.flatnonzero(words == w) for w in range(words.max() + 1)]
        expected = np.zeros(len(row), bool)
        for w in np.random.default_rng(number).permutation(len(members)):
            if expected.sum() + len(members[w]) <= 77:
                expected[members[w]] = True
        assert np.array_equal(chosen, expected)
    sizes = np.array([len(m) for m in members])
    assert sizes.max() > 2


def test_a_word_longer_than_the_number_is_left_alone() -> None:
    row = np.array([BOS, *[10] * 9, EOS], np.int32)
    done = mask_tokens(row, V, np.random.default_rng(0), selection="whole_words")
    assert not done["weights"].any()
    done = mask_tokens(row, V, np.random.default_rng(0), selection="whole_words", rate=0.9)
    assert done["weights"].sum() == 9


def test_words_may_be_given() -> None:
    row = np.arange(10, 22, dtype=np.int32)
    words = np.repeat(np.arange(4), 3)
    for seed in range(20):
        done = masked(row[None], seed, selection="whole_words", rate=0.5, words=words)
        by_word = done["weights"][0].reshape(4, 3)
        assert by_word.sum() == 6 and (by_word.min(1) == by_word.max(1)).all()


def test_whole_words_choose_80_10_10_by_token() -> None:
    tokens = rows(250)
    done = masked(tokens, selection="whole_words")
    chosen = done["weights"] == 1
    # Nearly the whole number fits: what is left is shorter than a word.
    assert chosen.sum(1).max() == 77 and chosen.sum(1).mean() > 76.5
    assert near((done["tokens"] == MASK)[chosen].sum(), int(chosen.sum()), 0.8)


def test_span_lengths_are_spanberts() -> None:
    shares = np.diff(masking._LENGTHS, prepend=0)
    mean = float(shares @ np.arange(1, 11))
    assert mean == pytest.approx(3.8, abs=0.005)
    assert shares[:-1] * 0.8 == pytest.approx(shares[1:])
    # Words of one token, and spans so far between that few touch.
    row = np.full(200_000, 19, np.int32)
    words = np.arange(len(row))
    lengths: list[int] = []
    for seed in range(30):
        done = masked(row[None], seed, selection="spans", rate=0.005, words=words)
        assert done["weights"].sum() == 1000
        lengths += [end - begin for begin, end in stretches(done["weights"][0] == 1)]
    deviation = float(np.sqrt(shares @ np.arange(1, 11) ** 2 - mean**2))
    # One in 200 spans touches another.
    assert abs(np.mean(lengths) - mean) < 5 * deviation / np.sqrt(len(lengths)) + 0.005 * mean
    counts = np.bincount(lengths, minlength=12)
    for length in range(1, 10):
        share = shares[length - 1]
        error = 5 * np.sqrt(len(lengths) * share) + 0.01 * len(lengths)
        assert abs(counts[length] - share * len(lengths)) < error


def test_spans_are_whole_words_between_special_tokens() -> None:
    tokens = rows(60)
    split = 0
    for row, weights in zip(tokens, masked(tokens, selection="spans")["weights"]):
        assert weights.sum() == 77
        words = word_ids(row, V)
        for begin, end in stretches(weights == 1):
            assert begin == 0 or words[begin] != words[begin - 1]
            # Only the last span may be cut in a word, where the number is reached.
            split += words[end - 1] == words[min(end, len(row) - 1)]
            assert (row[begin:end] >= SPECIALS).all()
    assert 0 < split <= 60


def test_a_span_is_masked_replaced_or_kept_as_one() -> None:
    tokens = rows(400)
    done = masked(tokens, selection="spans", rate=0.1)
    counts = {"mask": 0, "kept": 0, "random": 0}
    for row, new, weights in zip(tokens, done["tokens"], done["weights"]):
        for begin, end in stretches(weights == 1):
            old, now = row[begin:end], new[begin:end]
            if (now == MASK).any():
                assert (now == MASK).all()
                counts["mask"] += 1
            elif np.array_equal(now, old):
                counts["kept"] += 1
            else:
                assert (now == old).mean() <= 0.5
                counts["random"] += 1
    total = sum(counts.values())
    assert near(counts["mask"], total, 0.8) and near(counts["kept"], total, 0.1)


def test_spans_cover_a_whole_row_if_asked() -> None:
    tokens = rows(3)
    done = masked(tokens, selection="spans", rate=1.0)
    assert np.array_equal(done["weights"] == 1, tokens >= SPECIALS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0}, "rate must be above 0"),
        ({"rate": 1.5}, "rate must be above 0"),
        ({"mask_share": -0.1}, "mask_share must be from 0 to 1"),
        ({"mask_share": 0.95}, "more than 1 together"),
        ({"max_predictions": 0}, "at least 1"),
        ({"selection": "token"}, "did you mean 'tokens'"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mask_tokens(rows(1)[0], V, np.random.default_rng(0), **settings)


def test_a_mask_token_is_needed_only_for_a_mask_share() -> None:
    row, rng = rows(1)[0], np.random.default_rng(0)
    with pytest.raises(ConfigError, match="needs a mask token"):
        mask_tokens(row, vocabulary(None), rng)
    done = mask_tokens(row, vocabulary(None), rng, mask_share=0, random_share=1)
    assert done["weights"].sum() == 77
