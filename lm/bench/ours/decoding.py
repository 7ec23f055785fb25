"""`lm.generate` on one batch of prompts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lm.bench.ours.export import read_parameters
from lm.bench.ours.loop import device_memory
from lm.config import ModelConfig, from_dict
from lm.generate.decode import generate
from lm.generate.sampling import SamplingConfig
from lm.model import build_model


class Decode:
    """Greedy continuations of `prompts`, all of `new_tokens`; a unit is a token of every row."""

    def __init__(
        self, model: dict[str, Any], folder: str, prompts: list[list[int]], new_tokens: int
    ) -> None:
        self._config, self._folder = from_dict(ModelConfig, model), Path(folder)
        self._prompts, self._new_tokens = prompts, new_tokens

    def prepare(self) -> dict[str, Any]:
        self._model = build_model(self._config)
        self._params = jax.tree.map(jnp.asarray, read_parameters(self._folder))
        for _ in range(2):
            self.round()
        return {"units": self._new_tokens, "tokens_per_unit": len(self._prompts)}

    def round(self) -> float:
        began = time.perf_counter()
        completions = generate(
            self._model, self._params, self._prompts,
            sampling=SamplingConfig(temperature=0.0), max_new_tokens=self._new_tokens,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        self._tokens = [first.tokens for (first,) in completions]
        return seconds

    def finish(self) -> dict[str, Any]:
        return {"tokens": self._tokens, **device_memory()}
