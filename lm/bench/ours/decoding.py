"""`lm.generate` on one batch of prompts."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from lm.bench.ours.export import read_parameters
from lm.bench.ours.loop import device_memory
from lm.config import ModelConfig, from_dict
from lm.generate.arrange import arrange
from lm.generate.decode import Completion, generate
from lm.generate.sampling import SamplingConfig
from lm.model import build_model
from lm.types import Params


class Decode:
    """Greedy continuations of `prompts`, all of `new_tokens`; a unit is a token of every row."""

    def __init__(
        self, model: dict[str, Any], folder: str, prompts: list[list[int]], new_tokens: int
    ) -> None:
        self._config, self._folder = from_dict(ModelConfig, model), Path(folder)
        self._prompts, self._new_tokens = prompts, new_tokens

    def prepare(self) -> dict[str, Any]:
        self._model = build_model(self._config)
        params = jax.tree.map(jnp.asarray, read_parameters(self._folder))
        self._params = arrange(self._model, params, rows=len(self._prompts), greedy=True)
        for _ in range(2):
            self.round()
        return {"units": self._new_tokens, "tokens_per_unit": len(self._prompts)}

    def round(self) -> float:
        began = time.perf_counter()
        completions = self._generate(logprobs=False)
        seconds = time.perf_counter() - began
        self._tokens = [first.tokens for (first,) in completions]
        return seconds

    def _generate(self, logprobs: bool) -> list[list[Completion]]:
        # transformers.generate gives no log-probabilities either.
        return generate(
            self._model, self._params, self._prompts, sampling=SamplingConfig(temperature=0.0),
            max_new_tokens=self._new_tokens, logprobs=logprobs,
        )  # fmt: skip

    def finish(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"tokens": self._tokens, **device_memory()}
        again = [first for (first,) in self._generate(logprobs=True)]
        facts["as_with_logprobs"] = [one.tokens for one in again] == self._tokens
        # A row at a time: its logits alone are tens of megabytes.
        rows = [
            self._look_again(prompt, one.tokens, one.logprobs)
            for prompt, one in zip(self._prompts, again)
        ]
        facts["runners_up"], facts["margins"] = ([row[i] for row in rows] for i in (0, 1))
        return {**facts, "rounding": max(row[2] for row in rows)}

    def _look_again(
        self, prompt: list[int], tokens: list[int], logprobs: list[float]
    ) -> tuple[list[int], list[float], float]:
        """For each of `tokens`, the other that was likeliest in its place, and the logits between
        the two (0: equal); how far from its log-probability it is without a cache, at most."""
        read = jnp.asarray([prompt + tokens])
        logits = _forward(self._model, self._params, read)[0, len(prompt) - 1 : -1]
        own = logits[jnp.arange(len(tokens)), jnp.asarray(tokens)]
        others = logits.at[jnp.arange(len(tokens)), jnp.asarray(tokens)].set(-jnp.inf)
        differences = own - jax.nn.logsumexp(logits, axis=-1) - jnp.asarray(logprobs)
        margins = own - others.max(-1)
        return others.argmax(-1).tolist(), margins.tolist(), float(jnp.abs(differences).max())


@functools.partial(jax.jit, static_argnames="model")
def _forward(model: nn.Module, params: Params, tokens: Array) -> Array:
    result: Any = model.apply({"params": params}, tokens)
    return result[0]
