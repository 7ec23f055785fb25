from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lm.data.corruption import pairs as pairs_module
from lm.data.corruption.pairs import (
    LONGEST_SENTENCE,
    next_sentence,
    sentence_order,
    translation,
)
from lm.data.corruption.vocabulary import Vocabulary
from lm.errors import ConfigError, UserError

PAD, CLS, SEP, STOP = 0, 1, 2, 3
DOCUMENT = 400
SIZE = 4 + 80 * DOCUMENT
LENGTH = 64
PIECES = ("[PAD]", "[CLS]", "[SEP]", ".")


def vocabulary(**changes: Any) -> Vocabulary:
    """Ids from 4 on are words of their own; 3 ends a sentence."""
    ids = np.arange(SIZE)
    settings: dict[str, Any] = {
        "size": SIZE, "pad_id": PAD, "bos_id": CLS, "eos_id": SEP, "unk_id": None, "mask_id": None,
        "special": ids < 3, "starts_word": np.ones(SIZE, bool),
        "pieces": (*PIECES, *[" a"] * (SIZE - 4)), **changes,
    }  # fmt: skip
    return Vocabulary(**settings)


V = vocabulary()


def document(number: int, length: int = DOCUMENT, sentence: int = 9) -> np.ndarray:
    """Tokens whose ids tell the document and the place; every ninth ends a sentence."""
    tokens = np.arange(length) + DOCUMENT * number + 4
    tokens[sentence - 1 :: sentence] = STOP
    return tokens.astype(np.uint32)


def another(rng: np.random.Generator) -> np.ndarray:
    return document(int(rng.integers(40, 80)))


def pairs(
    count: int, make: Callable[..., Any] = next_sentence, length: int = LENGTH, **settings: Any
) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    others = (another,) if make is next_sentence else ()
    return [
        make(document(1 + n % 39), *others, V, rng, length=length, **settings) for n in range(count)
    ]


def segments(row: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A and B, after checks of everything around them."""
    tokens, types, positions = row["tokens"], row["token_types"], row["positions"]
    assert all(a.dtype == np.int32 for a in (tokens, types, positions, row["is_next"]))
    assert len(tokens) == len(types) == len(positions) and row["is_next"].shape == ()
    end = int((positions >= 0).sum())
    assert positions.tolist() == [*range(end), *[-1] * (len(tokens) - end)]
    assert (tokens[end:] == PAD).all() and not types[end:].any()
    seps = np.flatnonzero(tokens == SEP)
    assert len(seps) == 2 and seps[1] == end - 1 and tokens[0] == CLS
    border = seps[0] + 1
    assert not types[:border].any() and types[border:end].all()
    first, second = tokens[1 : seps[0]], tokens[border : seps[1]]
    assert first.min(initial=3) >= STOP and second.min(initial=3) >= STOP
    return first, second


def origin(segment: np.ndarray) -> tuple[int, int, int]:
    """Which document a segment is of, and its places there from begin to end."""
    words = np.flatnonzero(segment != STOP)
    number, place = divmod(int(segment[words[0]]) - 4, DOCUMENT)
    begin = place - int(words[0])
    expected = document(number)[begin : begin + len(segment)]
    assert np.array_equal(segment, expected)
    return number, begin, begin + len(segment)


def near(count: float, trials: int, share: float) -> bool:
    """Whether a count of so many trials is within 5 standard errors of a share."""
    return abs(count - trials * share) <= 5 * np.sqrt(trials * share * (1 - share))


def real(row: dict[str, np.ndarray]) -> int:
    return int((row["positions"] >= 0).sum())


def test_half_of_the_pairs_follow_each_other() -> None:
    made = pairs(3000)
    following = 0
    for number, row in enumerate(made):
        first, second = segments(row)
        source, _, end = origin(first)
        assert source == 1 + number % 39
        if not (second != STOP).any():
            continue
        source_of_second, start, _ = origin(second)
        if row["is_next"]:
            # Truncation may have taken some of A's end or of B's beginning.
            assert source_of_second == source and 0 <= start - end < 20
        else:
            assert source_of_second >= 40
        following += int(row["is_next"])
    assert sum(len(r["tokens"]) for r in made) > 100_000
    assert near(sum(int(r["is_next"]) for r in made), len(made), 0.5)
    assert all(r["pair_weights"] == 1 for r in made)


def test_a_tenth_of_the_pairs_are_short() -> None:
    # 61 tokens of text, and sentences of 9: a full row unless a shorter length was drawn.
    made = pairs(3000, next_share=1)
    full = sum(real(r) == LENGTH for r in made)
    # Of lengths from 2 to 61, those past 54 end with a sentence past 61 (63) anyway.
    share = 0.1 * 53 / 60
    assert near(len(made) - full, len(made), share)
    assert all(real(r) == LENGTH for r in pairs(300, next_share=1, short_share=0))
    lengths = {real(r) for r in pairs(2000, next_share=1, short_share=1)}
    assert min(lengths) <= 12 and max(lengths) == LENGTH


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_the_share_can_be_set(share: float) -> None:
    made = pairs(1000, next_share=share)
    assert near(sum(int(r["is_next"]) for r in made), len(made), share)
    swapped = pairs(1000, sentence_order, swap_share=share)
    assert near(sum(1 - int(r["is_next"]) for r in swapped), len(swapped), share)


def test_segments_are_cut_between_sentences() -> None:
    # Long enough that nothing is truncated.
    tokens, rng = document(1, 45), np.random.default_rng(0)
    cuts = []
    for _ in range(500):
        row = next_sentence(tokens, another, V, rng, length=LENGTH, next_share=1, short_share=0)
        first, second = segments(row)
        assert np.array_equal(np.concatenate([first, second]), tokens)
        cuts.append(len(first))
    # All four places, as often.
    assert set(cuts) == {9, 18, 27, 36}
    assert all(near(cuts.count(c), len(cuts), 0.25) for c in set(cuts))


def test_without_sentences_segments_are_cut_between_words() -> None:
    words = vocabulary(pieces=(), starts_word=np.arange(SIZE) % 5 == 4)
    rng = np.random.default_rng(0)
    tokens = np.arange(4, 44)
    lengths = set()
    for _ in range(300):
        row = sentence_order(tokens, words, rng, length=LENGTH, swap_share=0, short_share=0)
        first, second = segments(row)
        assert np.array_equal(np.concatenate([first, second]), tokens)
        lengths.add(len(first))
    assert lengths == set(range(5, 40, 5))
    # And anywhere where no word begins.
    rest = vocabulary(pieces=(), starts_word=np.zeros(SIZE, bool))
    made = [sentence_order(tokens, rest, rng, length=LENGTH, short_share=0) for _ in range(600)]
    assert {len(segments(r)[0]) for r in made} == set(range(1, 40))


def test_a_stretch_goes_on_to_the_end_of_a_sentence_only_if_that_is_near() -> None:
    rng = np.random.default_rng(0)
    for more, goes_on in ((20, True), (LONGEST_SENTENCE - 1, True), (LONGEST_SENTENCE, False)):
        tokens = np.arange(4, 4 + LENGTH - 3 + more)
        tokens[-1] = STOP
        row = sentence_order(tokens, V, rng, length=LENGTH, swap_share=0, short_share=0)
        both = np.concatenate(segments(row))
        assert len(both) == LENGTH - 3
        assert np.array_equal(both, tokens[: LENGTH - 3]) != goes_on


def test_a_random_segment_is_as_long_as_there_is_room_beside_the_first() -> None:
    tokens, rng = np.arange(4, 65), np.random.default_rng(0)
    tokens[44] = STOP
    for _ in range(50):
        row = next_sentence(tokens, another, V, rng, length=LENGTH, next_share=0, short_share=0)
        first, second = segments(row)
        # 16 tokens and what is left of a sentence of 9: no more than that is cut from the first.
        assert len(first) + len(second) == 61 and 45 - 8 <= len(first) <= 45


def berts_loop(first: list[int], second: list[int], room: int, rng: np.random.Generator) -> None:
    while len(first) + len(second) > room:
        longer = first if len(first) > len(second) else second
        longer.pop(0 if rng.random() < 0.5 else -1)


def test_truncation_leaves_what_berts_loop_does() -> None:
    rng = np.random.default_rng(0)
    for count in range(600):
        room = int(rng.integers(2, 20))
        a, b = rng.integers(1, 30, 2).tolist()
        first, second = np.arange(4, 4 + a), np.arange(100, 100 + b)
        expected = first.tolist(), second.tolist()
        berts_loop(*expected, room, rng)
        done = pairs_module._fit(first, second, room, rng)
        assert [len(x) for x in done] == [len(x) for x in expected], count
        for left, whole in zip(done, (first, second)):
            assert not len(left) or np.array_equal(left, np.arange(left[0], left[-1] + 1))
            assert set(left.tolist()) <= set(whole.tolist())
    # From the front as often as from the back.
    cuts = [
        [int(x[0]) for x in pairs_module._fit(np.arange(20), np.arange(20), 17, rng)]
        for _ in range(2000)
    ]
    assert near(np.sum(cuts), 23 * len(cuts), 0.5)
    assert {c[0] for c in cuts} >= set(range(3, 10))


def test_orders_are_swapped_half_of_the_time() -> None:
    made = pairs(2000, sentence_order)
    for row in made:
        first, second = segments(row)
        if (first != STOP).any() and (second != STOP).any():
            one, other = origin(first), origin(second)
            assert one[0] == other[0]
            assert (one[1] < other[1]) == bool(row["is_next"])
    assert near(sum(int(r["is_next"]) for r in made), len(made), 0.5)
    assert all(r["pair_weights"] == 1 for r in made)


def test_lengths_do_not_tell_what_follows() -> None:
    made = pairs(3000)
    lengths = {kind: [real(r) for r in made if r["is_next"] == kind] for kind in (0, 1)}
    deviation = np.std([real(r) for r in made])
    error = deviation * np.sqrt(1 / len(lengths[0]) + 1 / len(lengths[1]))
    assert abs(np.mean(lengths[0]) - np.mean(lengths[1])) < 5 * error


@pytest.mark.parametrize("make", [next_sentence, sentence_order])
def test_equal_generators_make_equal_pairs(make: Callable[..., Any]) -> None:
    for one, two in zip(pairs(20, make), pairs(20, make)):
        assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(pairs(2, make)[0]["tokens"], pairs(2, make)[1]["tokens"])


def test_a_document_of_one_token() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        row = next_sentence(np.array([9]), another, V, rng, length=LENGTH, next_share=1)
        first, second = segments(row)
        assert first.tolist() == [9] and row["is_next"] == 0 and origin(second)[0] >= 40
        row = sentence_order(np.array([9]), V, rng, length=LENGTH)
        first, second = segments(row)
        assert first.tolist() == [9] and not len(second)
        assert row["pair_weights"] == 0 and row["is_next"] == 1


def test_a_document_of_two_tokens_and_the_shortest_row() -> None:
    rng = np.random.default_rng(0)
    for length in (5, LENGTH):
        row = sentence_order(np.array([9, 8]), V, rng, length=length, swap_share=0)
        assert row["tokens"][:5].tolist() == [CLS, 9, SEP, 8, SEP]
        assert row["token_types"][:5].tolist() == [0, 0, 0, 1, 1]
        row = sentence_order(np.array([9, 8]), V, rng, length=length, swap_share=1)
        assert row["tokens"][:5].tolist() == [CLS, 8, SEP, 9, SEP] and row["is_next"] == 0


def test_without_a_pad_token_a_special_one_fills_the_row() -> None:
    row = sentence_order(
        np.array([9, 8]), vocabulary(pad_id=None), np.random.default_rng(0), length=8
    )
    assert row["tokens"][5:].tolist() == [SEP] * 3 and row["positions"][5:].tolist() == [-1] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 4}, "at least 5"),
        ({"next_share": 1.1}, "from 0 to 1"),
        ({"short_share": -1}, "short_share must be from 0 to 1"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pairs(1, **settings)


def test_missing_special_tokens_and_empty_documents() -> None:
    rng = np.random.default_rng(0)
    for role in ("bos", "eos"):
        with pytest.raises(ConfigError, match=f"needs a {role} token"):
            sentence_order(document(1), vocabulary(**{f"{role}_id": None}), rng, length=LENGTH)
    with pytest.raises(UserError, match="no tokens"):
        sentence_order(np.zeros(0, np.int32), V, rng, length=LENGTH)
    with pytest.raises(UserError, match="no tokens"):
        next_sentence(document(1), lambda rng: np.zeros(0), V, rng, length=LENGTH, next_share=0)


def test_a_translation_literally() -> None:
    text, target = np.array([CLS, 7, 8, SEP]), np.array([CLS, 9, SEP])
    row = translation(text, target, V, length=9)
    assert row["tokens"].tolist() == [CLS, 7, 8, SEP, CLS, 9, SEP, PAD, PAD]
    assert row["token_types"].tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 0]
    assert row["positions"].tolist() == [0, 1, 2, 3, 0, 1, 2, -1, -1]
    assert translation(text, target, vocabulary(pad_id=None), length=8)["tokens"][-1] == SEP
    with pytest.raises(UserError, match="a pair of 4 and 3 tokens does not fit a row's 6"):
        translation(text, target, V, length=6)
