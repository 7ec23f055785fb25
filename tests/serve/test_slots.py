"""Rows that come and go say what they say alone."""

from __future__ import annotations

import gc
import random

import jax
import numpy as np
import pytest

from lm.errors import ConfigError
from lm.generate.decode import generate
from lm.generate.sampling import SamplingConfig
from lm.serve.device import ALTERNATIVES
from lm.serve.slots import Made, Row, Sampling, Slots
from tests.serve.running import tiny_run

SETTINGS = ((0.0, 1.0), (0.7, 0.6), (2.0, 1.0))


def slots(**options) -> Slots:
    run = tiny_run()
    return Slots(run.model, run.params, **{
        "vocab_size": 13, "eos_id": None, "max_batch": 4, "max_tokens": 64, "chunk": 5, **options
    })  # fmt: skip


def run_all(crowd: Slots, rows: list[Row], rng: random.Random) -> dict[Row, list[Made]]:
    """Rows join a few at a time, and leave when they are done."""
    said: dict[Row, list[Made]] = {row: [] for row in rows}
    waiting = list(rows)
    while waiting or crowd.rows:
        count = min(len(waiting), 4 - len(crowd.rows), rng.randint(0, 2))
        new, waiting = waiting[:count], waiting[count:]
        made = list(zip(new, ([token] for token in crowd.join(new)))) if new else []
        made += crowd.advance() if crowd.rows else []
        for row, tokens in made:
            said[row] += tokens
        for row in crowd.rows:
            if row.made >= row.max_new_tokens:
                crowd.remove(row)
    return said


def test_a_row_in_a_crowd_says_what_generate_says():
    rng = random.Random(0)
    rows = []
    for number in range(24):
        temperature, top_p = SETTINGS[number % 3]
        sampling = Sampling(rng.choice((0, 7, 2**32 - 1)), number % 2, number % 4, temperature,
                            top_p, alternatives=number % 5 == 0)  # fmt: skip
        # Two lengths: 48 + 16 tokens fill every position, so rows have to be moved.
        length = 48 if number % 3 == 1 and number % 2 else rng.randint(1, 16)
        rows.append(Row([rng.randrange(13) for _ in range(length)], rng.randint(1, 16), sampling))
    said = run_all(slots(), rows, rng)
    run = tiny_run()
    for row in rows:
        s = row.sampling
        top_p = None if s.top_p == 1.0 else s.top_p
        # A row's numbers follow from which prompt and sequence it is, so it is given as that.
        together = generate(
            run.model, run.params, [row.prompt] * 2, vocab_size=13, seed=s.seed,
            sampling=SamplingConfig(s.temperature, top_p=top_p), max_new_tokens=16,
            num_return_sequences=4,
        )  # fmt: skip
        alone = together[s.prompt][s.sequence]
        assert [m.token for m in said[row]] == alone.tokens[: row.max_new_tokens]
        np.testing.assert_allclose(
            [m.logprob for m in said[row]], alone.logprobs[: row.max_new_tokens], atol=1e-4
        )
        for made in said[row]:
            assert len(made.alternatives) == (ALTERNATIVES if s.alternatives else 0)
            if s.alternatives and s.temperature == 0:
                token, logprob = made.alternatives[0]
                assert (token, logprob) == (made.token, pytest.approx(made.logprob, abs=1e-5))


def test_a_row_ends_with_eos():
    crowd = slots(eos_id=3)
    rows = [Row([1, 2], 40, Sampling(seed=seed)) for seed in range(4)]
    said = {row: [token] for row, token in zip(rows, crowd.join(rows))}
    for _ in range(8):
        for row, made in crowd.advance():
            said[row] += made
    for made in said.values():
        tokens = [m.token for m in made]
        assert 3 not in tokens[:-1] and (tokens[-1] == 3 or len(tokens) == 40)
    assert any(len(made) < 40 for made in said.values())


def test_memory_is_given_back():
    crowd = slots()
    gc.collect()
    before = len(jax.live_arrays())
    rows = [Row([1, 2], 9, Sampling()) for _ in range(3)]
    crowd.join(rows)
    assert len(jax.live_arrays()) > before
    for row in rows:
        crowd.remove(row)
    gc.collect()
    assert len(jax.live_arrays()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 65}, "up to 65 tokens, but the model has 64 positions"),
        ({"max_batch": 10**12}, "reduce --max_batch"),
    ],
)
def test_what_does_not_fit_is_said(options, message):
    with pytest.raises(ConfigError, match=message):
        slots(**options)
