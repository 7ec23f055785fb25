"""Beam search against all completions there are, and against a direct search in Python without
cache, batch or padding."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import InitConfig, Learned, ModelConfig, NormConfig, T5Relative
from lm.errors import ConfigError, UserError
from lm.generate import beam
from lm.generate.beam import BeamConfig, Constraints, Hypothesis, beam_search
from lm.generate.decode import generate
from lm.generate.sampling import SamplingConfig
from lm.model import build_model

DECODER = ModelConfig(
    vocab_size=13,
    num_layers=1,
    d_model=16,
    num_heads=2,
    d_ff=32,
    position=Learned(max_length=48),
    # Large weights, so that the next token depends on what stands before it.
    init=InitConfig(stddev=0.5, scale_residual=False),
)
JOINED = dataclasses.replace(
    DECODER, position=T5Relative(8, 16), architecture="encoder_decoder", decoder_start_id=3,
    norm=NormConfig(kind="rms"),
)  # fmt: skip
CONFIGS = {"decoder": DECODER, "encoder_decoder": JOINED}
PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [7], [11, 12, 10], list(range(12)), [5, 5, 5]]
EOS = 2
# Every program is compiled for one of these numbers of prompts.
SIX = 6


@dataclasses.dataclass(frozen=True)
class Made:
    """A model and its log-probabilities of the next token, by whole forward passes."""

    model: Any
    params: Any
    joined: bool

    def logprobs(self, prompt: Sequence[int], said: Iterable[Sequence[int]]) -> np.ndarray:
        """[row, token] after each completion said so far, all of the same length."""
        rows = np.array([[*([3] if self.joined else prompt), *tokens] for tokens in said])
        padded = np.zeros((-(-len(rows) // 64) * 64, 24), np.int32)
        padded[: len(rows), : rows.shape[1]] = rows
        source = np.zeros((len(padded), 12), np.int32)
        positions = np.full(source.shape, -1, np.int32)
        source[:, : len(prompt)] = prompt
        positions[:, : len(prompt)] = np.arange(len(prompt))
        last = rows.shape[1] - 1
        return np.concatenate(
            [
                np.asarray(
                    self._forward(
                        padded[i : i + 64], source[i : i + 64], positions[i : i + 64], last
                    )
                )
                for i in range(0, len(padded), 64)
            ]
        )[: len(rows)]

    def _forward(self, tokens: Any, source: Any, positions: Any, last: int) -> Any:
        key = self.joined
        if key not in FORWARD:
            FORWARD[key] = jax.jit(self._apply)
        return FORWARD[key](self.params, tokens, source, positions, last)

    def _apply(self, params: Any, tokens: Any, source: Any, positions: Any, last: Any) -> Any:
        more = {"source": source, "source_positions": positions} if self.joined else {}
        logits = self.model.apply({"params": params}, tokens, **more)[0]
        return jax.nn.log_softmax(logits[:, last])


FORWARD: dict[bool, Any] = {}


@pytest.fixture(scope="module", params=CONFIGS)
def made(request: pytest.FixtureRequest) -> Made:
    return make(request.param)


@pytest.fixture(scope="module")
def decoder() -> Made:
    return make("decoder")


@functools.cache
def make(kind: str) -> Made:
    model = build_model(CONFIGS[kind])
    tokens = jnp.zeros((1, 4), jnp.int32)
    joined = kind == "encoder_decoder"
    more = {"source": tokens} if joined else {}
    variables = jax.jit(model.init)(jax.random.key(3), tokens, **more)
    return Made(model, nn.unbox(variables)["params"], joined)


def search(
    made: Made, prompts: Sequence[Sequence[int]] = PROMPTS, count: int | None = None, **options: Any
) -> list[list[Hypothesis]]:
    """Everything found by a search of up to six new tokens."""
    passed = {
        name: options.pop(name)
        for name in ("vocab_size", "start", "constraints", "batch_size", "eos_id")
        if name in options
    }
    beams = BeamConfig(**options)
    return beam_search(
        made.model,
        made.params,
        prompts,
        beams=beams,
        max_new_tokens=SIX,
        num_return_sequences=beams.num_beams if count is None else count,
        **{"eos_id": EOS, **passed},
    )


Found = list[tuple[list[int], float]]
Rule = Callable[[list[int], np.ndarray], np.ndarray]


def direct(
    made: Made,
    prompt: Sequence[int],
    beams: BeamConfig,
    rule: Rule = lambda said, logprobs: logprobs,
) -> Found:
    """The definition, in plain Python: groups of running hypotheses and of finished ones."""
    size = beams.num_beams // beams.num_groups
    running: list[Found] = [[([], 0.0)] for _ in range(beams.num_groups)]
    finished: list[Found] = [[] for _ in range(beams.num_groups)]
    closed = [False] * beams.num_groups

    def penalty(length: int) -> float:
        base = (5 + length) / 6 if beams.normalization == "gnmt" else length
        return base**beams.length_penalty

    for step in range(SIX):
        said_now = np.zeros(DECODER.vocab_size)
        for group in range(beams.num_groups):
            if closed[group]:
                continue
            logprobs = made.logprobs(prompt, [said for said, _ in running[group]])
            candidates = [
                ([*said, token], total + value)
                for (said, total), row in zip(running[group], logprobs)
                for token, value in enumerate(rule(said, row) - beams.diversity_penalty * said_now)
                if value > -np.inf
            ]
            candidates = sorted(candidates, key=lambda c: -c[1])[: 2 * size]
            over = step + 1 == SIX
            ends = [over or said[-1] == EOS for said, _ in candidates]
            finished[group] += [
                (said, total / penalty(step + 1))
                for (said, total), end in zip(candidates[:size], ends)
                if end
            ]
            finished[group] = sorted(finished[group], key=lambda c: -c[1])[:size]
            running[group] = [c for c, end in zip(candidates, ends) if not end][:size]
            for said, _ in running[group]:
                said_now[said[-1]] += 1
            full, best = (
                len(finished[group]) == size,
                max([t for _, t in running[group]], default=-np.inf),
            )
            longest = (
                SIX if beams.early_stopping == "never" and beams.length_penalty > 0 else step + 1
            )
            beaten = full and not best / penalty(longest) > finished[group][-1][1]
            closed[group] = not running[group] or beaten or (full and beams.early_stopping is True)
    return sorted(itertools.chain(*finished), key=lambda c: -c[1])


def assert_found(found: list[Hypothesis], expected: Found) -> None:
    assert [h.tokens for h in found] == [tokens for tokens, _ in expected]
    np.testing.assert_allclose([h.score for h in found], [s for _, s in expected], rtol=1e-4)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 1.0])
def test_a_search_wide_enough_finds_the_best_of_all_completions(made: Made, alpha: float) -> None:
    """Four tokens, one of them the end: 1 + 3 + 9 + ... completions, every one scored."""
    prompt, tokens, beams = [3, 1, 0, 1], range(4), 3**5
    scored: Found = []
    before: Found = [([], 0.0)]
    for length in range(1, SIX + 1):
        logprobs = made.logprobs(prompt, [said for said, _ in before])
        after = [
            ([*said, token], total + row[token])
            for (said, total), row in zip(before, logprobs)
            for token in tokens
        ]
        scored += [
            (said, total / length**alpha)
            for said, total in after
            if said[-1] == EOS or length == SIX
        ]
        before = [(said, total) for said, total in after if said[-1] != EOS]
    best = sorted(scored, key=lambda c: -c[1])[:30]
    [found] = search(made, [prompt], 30, num_beams=beams, vocab_size=4, length_penalty=alpha,
                     early_stopping="never")  # fmt: skip
    assert_found(found, best)
    assert len({len(h.tokens) for h in found}) > 1


SEARCHES: dict[str, dict[str, Any]] = {
    "plain": dict(num_beams=3, length_penalty=0.3),
    "early": dict(num_beams=3, early_stopping=True),
    "gnmt": dict(num_beams=3, early_stopping="never", length_penalty=4.0, normalization="gnmt"),
    "diverse": dict(num_beams=6, num_groups=3, diversity_penalty=0.7),
}
PAIRS = [("decoder", name) for name in SEARCHES] + [("encoder_decoder", "plain")]


@pytest.mark.parametrize(("kind", "options"), PAIRS)
def test_a_batch_equals_a_direct_search_of_each_prompt(kind: str, options: str) -> None:
    given, made = SEARCHES[options], make(kind)
    for prompt, found in zip(PROMPTS, search(made, **given), strict=True):
        assert_found(found, direct(made, prompt, BeamConfig(**given)))


def test_one_beam_is_greedy(made: Made) -> None:
    greedy = generate(made.model, made.params, PROMPTS, sampling=SamplingConfig(temperature=0.0),
                      max_new_tokens=SIX, eos_id=EOS)  # fmt: skip
    for [expected], [found] in zip(greedy, search(made, num_beams=1), strict=True):
        assert (found.tokens, found.finish_reason) == (expected.tokens, expected.finish_reason)
        np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-5)
        assert found.score == pytest.approx(np.mean(expected.logprobs), abs=1e-5)


def test_a_prompt_is_searched_alike_alone_in_any_order_and_in_batches_of_any_size(
    made: Made,
) -> None:
    together = search(made, num_beams=3)
    backwards = search(made, PROMPTS[::-1], num_beams=3)[::-1]
    for other in (backwards, search(made, num_beams=3, batch_size=1)):
        for found, expected in zip(other, together, strict=True):
            assert_found(found, [(h.tokens, h.score) for h in expected])


def test_hypotheses_are_sorted_distinct_and_end_once(made: Made) -> None:
    reasons = set()
    for found in search(made, num_beams=3):
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        assert len({tuple(h.tokens) for h in found}) == len(found) == 3
        for hypothesis in found:
            assert EOS not in hypothesis.tokens[:-1]
            ended = hypothesis.tokens[-1] == EOS
            assert hypothesis.finish_reason == ("eos" if ended else "length")
            assert ended or len(hypothesis.tokens) == SIX
            assert hypothesis.score == pytest.approx(np.mean(hypothesis.logprobs), rel=1e-5)
            reasons.add(hypothesis.finish_reason)
    assert reasons == {"eos", "length"}


def test_the_cache_grows_as_tokens_come(decoder: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = search(decoder, num_beams=3)
    monkeypatch.setattr(beam, "FIRST_STAGE", 1)
    monkeypatch.setattr(beam, "GROWTH", 2)
    for found, whole in zip(search(decoder, num_beams=3), expected, strict=True):
        assert_found(found, [(h.tokens, h.score) for h in whole])


def test_nothing_is_said_twice_early_or_against_a_penalty(decoder: Made) -> None:
    options = dict(num_beams=3, no_repeat_ngram_size=2, min_new_tokens=3, repetition_penalty=1.7)

    def rule(prompt: Sequence[int]) -> Rule:
        def change(said: list[int], logprobs: np.ndarray) -> np.ndarray:
            history = [*prompt, *said]
            logprobs = np.array(logprobs)
            logprobs[list(set(history))] *= 1.7
            pairs = set(itertools.pairwise(history))
            logprobs[[token for token in range(13) if (history[-1], token) in pairs]] = -np.inf
            if len(said) < 3:
                logprobs[EOS] = -np.inf
            return logprobs

        return change

    for prompt, found in zip(PROMPTS, search(decoder, **options), strict=True):
        assert_found(found, direct(decoder, prompt, BeamConfig(**options), rule(prompt)))
        assert all(len(h.tokens) > 3 for h in found)
        # What the model itself says of them, without penalties.
        for hypothesis in found:
            said = hypothesis.tokens
            rows = [decoder.logprobs(prompt, [said[:i]])[0][said[i]] for i in range(len(said))]
            np.testing.assert_allclose(hypothesis.logprobs, rows, atol=1e-4)


def test_phrases_are_never_completed_and_choices_alone_are_said(decoder: Made) -> None:
    plain = search(decoder, num_beams=3)
    longest = max(itertools.chain(*plain), key=lambda h: len(h.tokens)).tokens
    phrases = [tuple(plain[0][0].tokens[:1]), tuple(longest[2:4]), (4, 1, 12)]
    # The end of this prompt is the beginning of the last phrase.
    prompts = [*PROMPTS[:4], [4, 1]]

    def rule(prompt: Sequence[int]) -> Rule:
        def change(said: list[int], logprobs: np.ndarray) -> np.ndarray:
            history, logprobs = (*prompt, *said), np.array(logprobs)
            for *before, last in phrases:
                if history[len(history) - len(before) :] == tuple(before):
                    logprobs[last] = -np.inf
            return logprobs

        return change

    found = search(decoder, prompts, num_beams=3, constraints=Constraints(suppress=phrases))
    for prompt, hypotheses in zip(prompts, found, strict=True):
        assert_found(hypotheses, direct(decoder, prompt, BeamConfig(num_beams=3), rule(prompt)))

    words = [[5], [5, 6], [7, 8, 9], [0, 0, 0, 0]]
    choices = [words, words[:2], words, words[3:], words]
    # As many beams as there are words, and every word is found.
    found = search(decoder, num_beams=4, length_penalty=0.0, constraints=Constraints((), choices))
    for prompt, own, hypotheses in zip(PROMPTS, choices, found, strict=True):
        scored = []
        for word in own:
            said = [*word, EOS]
            rows = [decoder.logprobs(prompt, [said[:i]])[0][said[i]] for i in range(len(said))]
            scored.append((said, float(sum(rows))))
        assert_found(hypotheses, sorted(scored, key=lambda c: -c[1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_beams=0), "num_beams must be at least 1, not 0"),
        (dict(num_beams=5, num_groups=2), "num_beams=5 is not a multiple of num_groups=2"),
        (dict(num_beams=4, num_groups=2), "go together: without the penalty all groups find"),
        (dict(num_beams=4, diversity_penalty=0.5), "without groups there is nothing to differ"),
        (dict(length_penalty=float("nan")), "length_penalty must be between -100 and 100, not nan"),
        (dict(no_repeat_ngram_size=-1), "no_repeat_ngram_size must be at least 0, not -1"),
        (dict(repetition_penalty=0.0), "repetition_penalty must be between 0.001 and 1000"),
        (dict(min_new_tokens=7), "min_new_tokens=7 is more than max_new_tokens=6"),
        (dict(min_new_tokens=2, eos_id=None), "this tokenizer has none"),
        (dict(num_beams=2, count=3), "must be between 1 and num_beams=2, not 3"),
        (dict(batch_size=0), "batch_size must be at least 1, not 0"),
        (dict(constraints=Constraints([[]])), "suppress has an empty sequence"),
        (dict(constraints=Constraints([[3], [13]])), "suppress has tokens from 13 to 13, but the"),
        (dict(constraints=Constraints(choices=[[[1]]])), "for 1 prompts, and there are 5"),
        (dict(constraints=Constraints(choices=[[[1]], []] + [[[1]]] * 3)), "prompt 1 has no choi"),
        (dict(constraints=Constraints(choices=[[[1] * 6]] * 5)), "must be at least 7, not 6"),
        (dict(constraints=Constraints(choices=[[[1]]] * 5), eos_id=None), "need an end-of-sequen"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    decoder: Made, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        search(decoder, **options)


def test_what_cannot_be_read_is_refused(decoder: Made) -> None:
    with pytest.raises(UserError, match="prompt 1 is empty"):
        search(decoder, [[1], []])
    with pytest.raises(ConfigError, match="exceeds the 48 positions"):
        search(decoder, [[1] * 43])
    with pytest.raises(ConfigError, match="reduce max_new_tokens"):
        search(decoder, [[1]], num_beams=10**9)
    [[found]] = search(decoder, [[1] * 42], 1)
    assert found.tokens
