"""Rows with masked tokens: what is never chosen, how many are, packed rows, and refusals."""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Any

import numpy as np
import pytest

from lm.config import MaskedLM, ReplacedTokens
from lm.data.tokenizers.simple import Characters
from lm.errors import ConfigError
from lm.objectives.masking import MaskedRows, TranslationRows, most_predictions
from tests.objectives.cases import GENERATOR, LENGTH, TOKENIZER, VOCAB

CONFIGS: dict[str, Any] = {
    **{
        f"{selection} wrap={wrap} exact={exact}": MaskedLM(
            selection=selection, wrap=wrap, exact=exact
        )
        for selection, wrap, exact in itertools.product(
            ("tokens", "whole_words", "spans"), (False, True), (False, True)
        )
    },
    "rate": MaskedLM(rate=0.5),
    "all": MaskedLM(rate=1.0, random_share=0.2),
    "few": MaskedLM(rate=0.4, max_predictions=3),
    "few, not exact": MaskedLM(rate=0.4, max_predictions=3, exact=False),
    "next_sentence": MaskedLM(pairs="next_sentence", rate=0.3),
    "sentence_order": MaskedLM(pairs="sentence_order", selection="whole_words"),
    "replaced": ReplacedTokens(generator=GENERATOR, rate=0.25),
}
SPECIAL = (TOKENIZER.pad_id, TOKENIZER.bos_id, TOKENIZER.eos_id)


def text(rng: np.random.Generator, most: int) -> np.ndarray:
    """Lower-case words with bos and eos around them, or only one of these, and one somewhere."""
    size = int(rng.integers(1, most + 1))
    tokens = rng.choice(np.frombuffer(b"abcdefg    .", np.uint8), size).astype(np.int32)
    ends = int(rng.integers(4))
    if ends & 1:
        tokens[0] = TOKENIZER.bos_id
    if ends & 2:
        tokens[-1] = TOKENIZER.eos_id
    if rng.random() < 0.3:
        tokens[rng.integers(size)] = TOKENIZER.eos_id
    return tokens


def other(rng: np.random.Generator) -> np.ndarray:
    return text(rng, LENGTH)


def made(config: Any, count: int, pieces: int = 1, length: int = LENGTH) -> list[dict[str, Any]]:
    make = MaskedRows(config, TOKENIZER, length, VOCAB)
    rng = np.random.default_rng(0)
    joined = pieces == 1 and getattr(config, "pairs", "none") == "none"
    room = make.positions // pieces
    return [
        make([text(rng, room) for _ in range(pieces)], rng, joined=joined, other=other)
        for _ in range(count)
    ]


def real(row: dict[str, Any]) -> np.ndarray:
    return row["segment_ids"] > 0 if "segment_ids" in row else row["positions"] >= 0


@pytest.mark.parametrize("name", CONFIGS)
def test_special_tokens_and_padding_are_left_alone(name: str) -> None:
    for row in made(CONFIGS[name], 300):
        special = np.isin(row["targets"], SPECIAL)
        assert not row["weights"][special | ~real(row)].any()
        changed = row["tokens"] != row["targets"]
        assert not changed[row["weights"] == 0].any()
        drawn = row["tokens"][changed]
        assert np.all((drawn < 256) | (drawn == TOKENIZER.vocab_size))
        assert row["tokens"].shape == row["targets"].shape == row["weights"].shape == (LENGTH,)
        positions = row["positions"][real(row)]
        assert positions.tolist() == list(range(len(positions)))


@pytest.mark.parametrize("name", CONFIGS)
def test_no_more_are_chosen_than_the_loss_looks_at(name: str) -> None:
    config = CONFIGS[name]
    counts = [int((row["weights"] > 0).sum()) for row in made(config, 1500)]
    bound = most_predictions(config, LENGTH, several_texts=False)
    assert max(counts) <= bound <= LENGTH
    if config.exact and config.selection == "tokens":
        assert max(counts) == bound


def test_the_bound_holds_for_every_length_and_rate() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        config = MaskedLM(rate=float(rng.uniform(0.01, 1)), exact=bool(rng.integers(4)))
        length = int(rng.integers(2, 70))
        for row in made(config, 4, length=length):
            count = int((row["weights"] > 0).sum())
            assert count <= most_predictions(config, length, several_texts=False)


@pytest.mark.parametrize("pieces", [1, 3])
def test_texts_of_a_row_are_kept_apart(pieces: int) -> None:
    """Also where a row holds one of them only: all rows of a run have the same features."""
    make = MaskedRows(MaskedLM(), TOKENIZER, LENGTH, VOCAB)
    given = [np.arange(97, 97 + n, dtype=np.int32) for n in (9, 1, 5)][:pieces]
    row = make(given, np.random.default_rng(0), joined=False, other=other)
    sizes = [len(x) for x in given]
    missing = LENGTH - sum(sizes)
    segments = [i for i, n in enumerate(sizes, 1) for _ in range(n)]
    assert row["segment_ids"].tolist() == segments + [0] * missing
    positions = [i for n in sizes for i in range(n)]
    assert row["positions"].tolist() == positions + [0] * missing
    assert row["targets"].tolist() == np.concatenate(given).tolist() + [0] * missing
    assert set(row) == {"tokens", "targets", "weights", "segment_ids", "positions"}
    # Each has its own share, of at least one.
    for number in range(1, pieces + 1):
        assert row["weights"][row["segment_ids"] == number].sum() == 1
    total = row["weights"].sum()
    assert total == pieces <= most_predictions(MaskedLM(), LENGTH, several_texts=True)


def test_wrapped_rows_have_one_of_each_end() -> None:
    make = MaskedRows(MaskedLM(wrap=True), TOKENIZER, 8, VOCAB)
    assert make.positions == 6
    for given in ([97, 98, 99], [257, 97, 98, 99, 258]):
        for joined in (False, True):
            row = make(
                [np.array(given, np.int32)], np.random.default_rng(0), joined=joined, other=other
            )
            assert row["targets"].tolist() == [257, 97, 98, 99, 258, 0, 0, 0]
            assert row["positions"].tolist() == [0, 1, 2, 3, 4, -1, -1, -1]
    # Documents that were joined keep what is between them.
    pieces = [np.array(x, np.int32) for x in ([97, 258], [98, 258])]
    row = make(pieces, np.random.default_rng(0), joined=True, other=other)
    assert row["targets"].tolist() == [257, 97, 258, 98, 258, 0, 0, 0]


def test_pairs_lose_the_ends_of_their_documents() -> None:
    make = MaskedRows(MaskedLM(pairs="next_sentence"), TOKENIZER, LENGTH, VOCAB)
    document = np.array([257, *b"one two", 258], np.int32)
    for seed in range(50):
        row = make(
            [document], np.random.default_rng(seed), joined=False, other=lambda rng: document
        )
        ends = [t for t in row["targets"][real(row)].tolist() if t in SPECIAL]
        assert ends == [257, 258, 258]
    # Where there is nothing else, as a row there has to be.
    empty = np.array([257, 258], np.int32)
    row = make([empty], np.random.default_rng(0), joined=False, other=lambda rng: empty)
    assert not row["weights"].any()


def test_a_mask_token_is_made_above_the_tokenizers() -> None:
    config = MaskedLM(rate=1.0, mask_share=1.0, random_share=0.0)
    row = MaskedRows(config, TOKENIZER, 4, 260)(
        [np.arange(4, dtype=np.int32)], np.random.default_rng(0), joined=True, other=other
    )
    assert row["tokens"].tolist() == [259] * 4
    with pytest.raises(ConfigError, match="no mask token.*set it to at least 260"):
        MaskedRows(config, TOKENIZER, 4, 259)
    # Nothing needs one where no token is masked.
    MaskedRows(dataclasses.replace(config, mask_share=0.0, random_share=1.0), TOKENIZER, 4, 259)


@pytest.mark.parametrize(
    ("config", "length", "pieces", "joined", "message"),
    [
        (MaskedLM(wrap=True), 8, 2, False, "takes a row for one text"),
        (MaskedLM(pairs="next_sentence"), 8, 2, False, "set data.packing='none'"),
        (MaskedLM(pairs="sentence_order"), 4, 1, False, "a length of at least 5, not 4"),
        (MaskedLM(wrap=True), 2, 1, True, "data.sequence_length=2 leaves no room"),
        (MaskedLM(), 1, 1, True, "data.sequence_length=1 leaves no room"),
    ],
)
def test_rows_that_cannot_be_made(
    config: MaskedLM, length: int, pieces: int, joined: bool, message: str
) -> None:
    given = [np.arange(97, 100, dtype=np.int32)] * pieces
    with pytest.raises(ConfigError, match=re.escape(message)):
        make = MaskedRows(config, TOKENIZER, length, VOCAB)
        make(given, np.random.default_rng(0), joined=joined, other=other)


@pytest.mark.parametrize("config", [MaskedLM(wrap=True), MaskedLM(pairs="sentence_order")])
def test_ends_are_needed(config: MaskedLM) -> None:
    with pytest.raises(ConfigError, match=r"objective\.wrap or objective\.pairs needs a bos token"):
        MaskedRows(config, Characters("abc"), LENGTH, VOCAB)


def test_both_sides_of_a_translation_are_masked_over_100k_tokens() -> None:
    """At the paper's 15 % and 80/10/10 (section 3.2) on either side, and no special token."""
    make = TranslationRows(MaskedLM(pairs="translation"), TOKENIZER, 128, VOCAB)
    rng = np.random.default_rng(0)
    made, ends = [], (TOKENIZER.bos_id, TOKENIZER.eos_id)
    for number in range(1300):
        sizes = rng.integers(20, 63, size=2)
        pieces = [np.array([ends[0], *rng.integers(0, 256, n), ends[1]], np.int32) for n in sizes]
        made.append(make(pieces, np.random.default_rng(number), joined=False, other=other))
    row = {name: np.stack([row[name] for row in made]) for name in made[0]}
    real, chosen = row["positions"] >= 0, row["weights"] > 0
    assert real.sum() > 100_000
    special = row["targets"] >= 256
    assert not chosen[special].any() and not chosen[~real].any()
    for side in (0, 1):
        mine = real & (row["token_types"] == side)
        count = int((mine & ~special).sum())
        # Special tokens count towards the rate, and are not chosen.
        share = 0.15 * mine.sum() / count
        assert abs((chosen & mine).sum() / count - share) < 5 * np.sqrt(share * 0.85 / count)
        of = row["tokens"][chosen & mine], row["targets"][chosen & mine]
        masked = (of[0] == TOKENIZER.vocab_size).mean()
        kept = (of[0] == of[1]).mean()
        error = 5 * np.sqrt(0.8 * 0.2 / len(of[0]))
        assert abs(masked - 0.8) < error and abs(kept - 0.1 - 0.1 / 256) < error
