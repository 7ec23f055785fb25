"""Every family computes what transformers computes, from the same files, and gives them back."""

from __future__ import annotations

import pytest

from tests.parity.cases import CASES, Case, batches
from tests.parity.errors import CLEAR
from tests.parity.measure import study

PAIRS = [(case, batch) for case in CASES for batch in batches(case)]
GENERATING = [case for case in CASES if case.generation is not None]
# Fewer distinct tokens than this could be a model that ignores what it reads.
VARIED = 3


@pytest.mark.parametrize(
    ("case", "batch"), PAIRS, ids=[f"{case.name}-{batch}" for case, batch in PAIRS]
)
def test_outputs_gradients_and_step(case: Case, batch: str) -> None:
    """Logits, every layer's hidden states, the loss, the gradient of every parameter, and every
    parameter after one step of AdamW."""
    columns = study(case).compare(batches(case)[batch])

    assert all(columns.values())
    wrong = {
        f"{column}: {name}": error
        for column, errors in columns.items()
        for name, error in errors.items()
        if not error.good
    }
    assert not wrong


@pytest.mark.parametrize("case", GENERATING, ids=lambda case: case.name)
def test_greedy_generation(case: Case) -> None:
    """Token for token, from a cache, prompts of different lengths in one batch."""
    tokens, reference, apart = study(case, decisive=True).generate()

    assert tokens == reference.tokens
    assert len({token for row in tokens for token in row}) >= VARIED
    assert apart * CLEAR <= reference.lead


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_round_trip(case: Case) -> None:
    """From the reference's files to parameters and back: the same tensors bit for bit, all of
    them, and transformers computes from them what it computed before."""
    assert study(case).round_trip() == []
