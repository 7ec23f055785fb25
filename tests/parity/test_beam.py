"""Beam search finds what transformers' finds: the same tokens and scores, in the same order."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.generation import logits_process as processors

from lm.generate import sampling
from lm.generate.beam import BeamConfig, Constraints, Hypothesis, beam_search
from lm.model import build_model
from tests.parity import ours, reference
from tests.parity.cases import CASES, prompts
from tests.parity.measure import study

NEW_TOKENS = 10
BY_NAME = {case.name: case for case in CASES}

OPTIONS: dict[str, dict[str, Any]] = {
    "two": dict(num_beams=2),
    "five": dict(num_beams=5),
    "short": dict(num_beams=4, length_penalty=-1.5),
    "sum": dict(num_beams=4, length_penalty=0.0),
    "long": dict(num_beams=4, length_penalty=2.0),
    "early": dict(num_beams=4, early_stopping=True),
    "never": dict(num_beams=4, early_stopping="never", length_penalty=0.6),
    "least": dict(num_beams=3, min_new_tokens=4),
    "ngrams": dict(num_beams=4, no_repeat_ngram_size=2),
    "unigrams": dict(num_beams=3, no_repeat_ngram_size=1),
    "penalty": dict(num_beams=4, repetition_penalty=1.4),
    "wide": dict(num_beams=40),
}


@functools.cache
def eos_of(name: str) -> int:
    """A token that ends some hypotheses early: the one most of the likeliest completions say."""
    found = mine(name, dict(num_beams=4), None, 4)
    counts = np.zeros(100)
    for hypotheses in found:
        for hypothesis in hypotheses:
            counts[list(set(hypothesis.tokens[2:]))] += 1
    return int(counts.argmax())


def mine(
    name: str, options: dict[str, Any], eos: int | None, count: int, **more: Any
) -> list[list[Hypothesis]]:
    case = study(BY_NAME[name], decisive=True)
    return beam_search(
        build_model(case.converted.config),
        ours.nested(case.parameters),
        prompts(case.case),
        beams=BeamConfig(**options),
        max_new_tokens=NEW_TOKENS,
        eos_id=eos,
        num_return_sequences=count,
        **more,
    )


@functools.cache
def _loaded(name: str) -> Any:
    made = study(BY_NAME[name], decisive=True)
    return reference._load(made.case, made.folder)


def theirs(
    name: str, options: dict[str, Any], eos: int, count: int, rows: Sequence[list[int]]
) -> list[list[tuple[list[int], float]]]:
    """Tokens up to the end of sequence and the score, of every prompt's completions."""
    case, model = BY_NAME[name], _loaded(name)
    longest = max(map(len, rows))
    tokens = np.full((len(rows), longest), case.pad_id)
    mask = np.zeros_like(tokens)
    for row, prompt in enumerate(rows):
        left = longest - len(prompt) if case.task == "causal" else 0
        tokens[row, left : left + len(prompt)] = prompt
        mask[row, left : left + len(prompt)] = 1
    result = model.generate(
        input_ids=torch.from_numpy(tokens),
        attention_mask=torch.from_numpy(mask),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=eos,
        pad_token_id=case.pad_id,
        num_return_sequences=count,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    begun = longest if case.task == "causal" else 1
    found = []
    for new, score in zip(result.sequences[:, begun:].tolist(), result.sequences_scores.tolist()):
        ends = new.index(eos) + 1 if eos in new else len(new)
        found.append((new[:ends], score))
    return [found[i : i + count] for i in range(0, len(found), count)]


def assert_same(
    found: list[list[Hypothesis]], expected: list[list[tuple[list[int], float]]]
) -> None:
    assert [[h.tokens for h in row] for row in found] == [[t for t, _ in row] for row in expected]
    scores = [[h.score for h in row] for row in found]
    wanted = [[s for _, s in row] for row in expected]
    np.testing.assert_allclose(scores, wanted, rtol=2e-5, atol=2e-5)


# One decoder with everything; rotary positions, encoder-decoders with relative and learned ones.
PAIRS = [("gpt2", options) for options in OPTIONS]
PAIRS += [(name, options) for name in ("llama", "t5", "bart") for options in ("five", "never")]


@pytest.mark.parametrize(("name", "options"), PAIRS)
def test_beam_search(name: str, options: str) -> None:
    """Prompts of different lengths in one batch, all that is found of each."""
    given, eos = OPTIONS[options], eos_of(name)
    count = given["num_beams"]
    found = mine(name, given, eos, count)
    # Padding is part of a prompt to the reference's n-grams: it is given them one by one.
    rows = prompts(BY_NAME[name])
    parts = [[row] for row in rows] if "ngram" in options or "unigram" in options else [rows]
    expected = [row for part in parts for row in theirs(name, given, eos, count, part)]
    assert_same(found, expected)
    reasons = {h.finish_reason for row in found for h in row}
    assert "eos" in reasons, "nothing ended: the case shows less than it could"


def test_what_may_not_be_said_and_what_alone_may() -> None:
    """Bad words of one token and of two, and a tree of completions, one a prompt."""
    name, given = "gpt2", dict(num_beams=4)
    eos, rows = eos_of(name), prompts(BY_NAME[name])
    plain = [
        hypothesis.tokens for hypotheses in mine(name, given, eos, 4) for hypothesis in hypotheses
    ]
    said = next(tokens for tokens in plain if len(tokens) > 3)
    bad = [said[:1], said[1:3]]
    found = mine(name, given, eos, 4, constraints=Constraints(suppress=bad))
    expected = theirs(name, {**given, "bad_words_ids": bad}, eos, 4, rows)
    assert_same(found, expected)
    assert [[h.tokens for h in row] for row in found] != [plain[:4], plain[4:8], plain[8:]]

    words = [[5, 6], [5, 7, 8], [9], [9, 9, 9], [5, 6, 7], [10, 11], [12, 4, 4, 4]]
    found = mine(name, given, eos, 4, constraints=Constraints(choices=[words] * len(rows)))
    for row, hypotheses in zip(rows, found, strict=True):

        def allowed(batch: int, tokens: Any, begun: int = len(row)) -> list[int]:
            new = tokens[begun:].tolist()
            return [
                ([*word, eos])[len(new)]
                for word in words
                if [*word, eos][: len(new)] == new and len(new) <= len(word)
            ] or [eos]

        options = {**given, "prefix_allowed_tokens_fn": allowed}
        assert_same([hypotheses], theirs(name, options, eos, 4, [row]))


@pytest.mark.parametrize("scale", [0.5, 2.0, 6.0])
def test_sampling_keeps_the_same_tokens(scale: float) -> None:
    logits = np.random.default_rng(0).normal(size=(50, 60)).astype(np.float32) * scale
    mine, given = jnp.asarray(logits), torch.from_numpy(logits)
    pairs = []
    for p in (0.1, 0.5, 0.9, 0.99):
        pairs += [
            (sampling.keep_typical(mine, p), processors.TypicalLogitsWarper(p)),
            (sampling.keep_top_p(mine, p), processors.TopPLogitsWarper(p)),
            (sampling.keep_min_p(mine, p), processors.MinPLogitsWarper(p)),
        ]
    for epsilon in (3e-4, 4e-3, 0.05, 0.3):
        pairs += [
            (sampling.keep_epsilon(mine, epsilon), processors.EpsilonLogitsWarper(epsilon)),
            (sampling.keep_eta(mine, epsilon), processors.EtaLogitsWarper(epsilon)),
        ]
    for found, warper in pairs:
        np.testing.assert_array_equal(np.asarray(found), warper(None, given).numpy())
