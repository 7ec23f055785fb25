"""Contrastive search against the paper's formula, token by token, without cache or batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.errors import ConfigError
from lm.generate.contrastive import ContrastiveConfig, contrastive_search
from lm.generate.decode import generate
from lm.generate.sampling import SamplingConfig
from tests.generate.test_beam import EOS, PROMPTS, Made, make

STEPS = 7


def search(
    made: Made, prompts: list[list[int]], alpha: float, k: int, **more: Any
) -> list[list[int]]:
    found = contrastive_search(
        made.model, made.params, prompts, contrast=ContrastiveConfig(alpha, k),
        max_new_tokens=STEPS, **more,
    )  # fmt: skip
    return [completion.tokens for [completion] in found]


def direct(made: Made, prompt: list[int], alpha: float, k: int) -> list[int]:
    """Equation 5, with whole forward passes."""
    more = {"source": jnp.asarray([prompt])} if made.joined else {}

    def states(tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
        padded = np.zeros((1, 24), np.int32)
        padded[0, : len(tokens)] = tokens
        hidden = run(made.params, padded)[0, : len(tokens)]
        logits = made.model.apply({"params": made.params}, hidden[-1:], method="logits")
        return np.asarray(hidden, np.float64), np.asarray(jax.nn.softmax(logits[0]))

    @jax.jit
    def run(params: Any, tokens: Any) -> Any:
        return made.model.apply({"params": params}, tokens, method="hidden", **more)[0]

    tokens = [3] if made.joined else list(prompt)
    begun = len(tokens)
    for _ in range(STEPS):
        hidden, probabilities = states(tokens)
        scores = {}
        for token in np.argsort(-probabilities, kind="stable")[:k].tolist():
            new = states([*tokens, token])[0][-1]
            cosines = hidden @ new / np.linalg.norm(hidden, axis=-1) / np.linalg.norm(new)
            scores[token] = (1 - alpha) * probabilities[token] - alpha * cosines.max()
        tokens.append(max(scores, key=scores.__getitem__))
    return tokens[begun:]


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_a_batch_equals_the_formula_for_each_prompt(kind: str) -> None:
    made = make(kind)
    found = search(made, PROMPTS, 0.5, 4)
    assert found == [direct(made, prompt, 0.5, 4) for prompt in PROMPTS]
    assert found != search(made, PROMPTS, 0.0, 4)


def test_without_a_penalty_it_is_greedy_and_ends() -> None:
    made = make("decoder")
    greedy = generate(made.model, made.params, PROMPTS, sampling=SamplingConfig(temperature=0.0),
                      max_new_tokens=STEPS, eos_id=EOS)  # fmt: skip
    found = contrastive_search(
        made.model, made.params, PROMPTS, contrast=ContrastiveConfig(0.0, 4),
        max_new_tokens=STEPS, eos_id=EOS,
    )  # fmt: skip
    for [mine], [expected] in zip(found, greedy, strict=True):
        assert (mine.tokens, mine.finish_reason) == (expected.tokens, expected.finish_reason)
        np.testing.assert_allclose(mine.logprobs, expected.logprobs, atol=1e-5)
    assert {completion.finish_reason for [completion] in found} == {"eos", "length"}


def test_what_cannot_be_meant_is_refused() -> None:
    made = make("decoder")
    with pytest.raises(ConfigError, match="penalty_alpha must be between 0 and 1, not 1.1"):
        ContrastiveConfig(1.1)
    with pytest.raises(ConfigError, match="top_k must be at least 1, not 0"):
        ContrastiveConfig(top_k=0)
    with pytest.raises(ConfigError, match="top_k=14 is more than the 13 tokens there are"):
        search(made, PROMPTS, 0.5, 14)
