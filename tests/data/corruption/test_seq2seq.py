from typing import Any

import numpy as np
import pytest

from lm.data.corruption.seq2seq import (
    decoder_row,
    encoder_decoder_row,
    prefix_lm,
    shared_room,
    shortened,
    split_point,
)
from lm.data.corruption.vocabulary import Vocabulary
from lm.errors import ConfigError, UserError

SIZE = 100
PAD, BOS, EOS = 0, 1, 2


def vocabulary(**changes: Any) -> Vocabulary:
    special = np.zeros(SIZE, bool)
    special[[PAD, BOS, EOS]] = True
    values: dict[str, Any] = dict(
        size=SIZE,
        pad_id=PAD,
        bos_id=BOS,
        eos_id=EOS,
        unk_id=None,
        mask_id=None,
        special=special,
        starts_word=np.ones(SIZE, bool),
    )
    return Vocabulary(**{**values, **changes})


V = vocabulary()


def text(n: int) -> np.ndarray:
    tokens = np.random.default_rng(0).integers(3, SIZE, n).astype(np.int32)
    tokens.flags.writeable = False
    return tokens


def test_splits_are_uniform() -> None:
    rng = np.random.default_rng(0)
    draws = 9000
    found = np.bincount([split_point(10, rng) for _ in range(draws)], minlength=11)
    assert found[0] == found[10] == 0
    error = np.sqrt(draws / 9 * 8 / 9)
    assert (abs(found[1:10] - draws / 9) < 5 * error).all()
    for share in (0.1, 0.25, 0.7):
        rests = [400 - split_point(400, rng, share) for _ in range(2000)]
        assert abs(np.mean(rests) - 400 * share) < 5 * np.std(rests) / np.sqrt(2000)
        assert 1 <= min(rests) <= max(rests) <= 399
    with pytest.raises(ConfigError, match="share"):
        split_point(10, rng, 1.0)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("add_eos", [False, True])
def test_prefix_lm_of_an_encoder_decoder(n: int, add_eos: bool) -> None:
    rng = np.random.default_rng(0)
    end = [EOS] * add_eos
    for length in (None, 60):
        row = prefix_lm(text(n), V, rng, add_eos=add_eos, length=length)
        side = max((length or n) - 1, 1) + add_eos
        assert len(row["source"]) == len(row["targets"]) == side
        count = int((row["source_positions"] >= 0).sum())
        assert row["source_positions"].tolist() == [*range(count), *[-1] * (side - count)]
        assert (row["source"][count:] == PAD).all()
        source = row["source"][:count].tolist()
        count = int(row["weights"].sum())
        assert row["weights"].tolist() == [1] * count + [0] * (side - count)
        assert (row["targets"][count:] == PAD).all()
        targets = row["targets"][:count].tolist()
        assert source[len(source) - add_eos :] == targets[len(targets) - add_eos :] == end
        joined = source[: len(source) - add_eos] + targets
        assert joined == text(n).tolist() + end
        if n > 1:
            assert len(source) > add_eos
            assert len(targets) > add_eos


@pytest.mark.parametrize("n", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("add_eos", [False, True])
def test_prefix_lm_of_a_decoder(n: int, add_eos: bool) -> None:
    rng = np.random.default_rng(0)
    for length in (None, 60):
        row = prefix_lm(text(n), V, rng, decoder=True, add_eos=add_eos, length=length)
        width = max((n if length is None else length) - 1, 0) + add_eos
        names = ("tokens", "targets", "weights", "positions")
        assert all(row[name].shape == (width,) for name in names)
        whole = text(n).tolist() + [EOS] * add_eos
        real = max(len(whole) - 1, 0)
        assert row["tokens"][:real].tolist() == whole[:-1]
        assert row["targets"][:real].tolist() == whole[1:]
        assert row["positions"].tolist() == list(range(real)) + [-1] * (width - real)
        prefix = int(row["prefix_length"])
        # No loss in the prefix nor on padding; the prefix's last token predicts the first after it.
        expected = [max(prefix - 1, 0) <= i < real for i in range(width)]
        assert (row["weights"] > 0).tolist() == expected
        if n > 1:
            assert 1 <= prefix < n


def test_decoder_row_literally() -> None:
    row = decoder_row(np.array([11, 12, 13]), np.array([14, 15]), V, length=6)
    assert row["tokens"].tolist() == [11, 12, 13, 14, 0, 0]
    assert row["targets"].tolist() == [12, 13, 14, 15, 0, 0]
    assert row["weights"].tolist() == [0, 0, 1, 1, 0, 0]
    assert row["positions"].tolist() == [0, 1, 2, 3, -1, -1]
    assert row["prefix_length"] == 3
    with pytest.raises(UserError, match="do not fit"):
        decoder_row(np.array([11, 12, 13]), np.array([14, 15]), V, length=3)


def test_encoder_decoder_row_literally() -> None:
    given = np.array([11, 12]), np.array([21, 22, 23, EOS])
    row = encoder_decoder_row(*given, V, source_length=3, length=5)
    assert row["source"].tolist() == [11, 12, PAD]
    assert row["source_positions"].tolist() == [0, 1, -1]
    assert row["targets"].tolist() == [21, 22, 23, EOS, PAD]
    assert row["weights"].tolist() == [1, 1, 1, 1, 0]
    with pytest.raises(UserError, match="a target of 4 tokens"):
        encoder_decoder_row(*given, V, source_length=2, length=3)


def test_what_a_row_of_both_holds_of_pairs() -> None:
    rng = np.random.default_rng(0)
    texts, targets = rng.integers(1, 40, size=(2, 500))
    kept = shared_room(texts, targets, 31)
    fits = texts + targets <= 31
    assert fits.any() and not fits.all()
    np.testing.assert_array_equal(kept[0][fits], texts[fits])
    np.testing.assert_array_equal(kept[1][fits], targets[fits])
    # Full rows, of which a text that is cut has its half.
    assert set((kept[0] + kept[1])[~fits]) == {31}
    for own, of in zip(kept, (texts, targets)):
        assert (own <= of).all() and (own[own < of] >= 15).all() and (own > 0).all()


def test_shortened_keeps_an_end() -> None:
    ended, plain = np.array([5, 6, 7, EOS]), np.array([5, 6, 7, 8])
    assert shortened(ended, 2, V).tolist() == [5, EOS] and ended.tolist() == [5, 6, 7, EOS]
    assert shortened(plain, 2, V).tolist() == [5, 6]
    assert shortened(ended, 4, V).tolist() == ended.tolist()


def test_no_pad_token() -> None:
    row = encoder_decoder_row(
        np.array([11]), np.array([12]), vocabulary(pad_id=None), source_length=2, length=3
    )
    assert row["source"].tolist() == [11, 0]
