"""What a model says on its way: samples at every evaluation, a pure function of parameters, seed
and step, so that a resumed run takes those that an uninterrupted one does."""

from __future__ import annotations

from typing import Any

import jax

from lm.config import Config, Samples
from lm.data.tokenizer import Tokenizer
from lm.errors import ConfigError, UserError
from lm.generate.prompts import (
    check_architecture,
    check_prompts,
    check_sources,
    reads_both_ways,
    reads_sources,
)
from lm.generate.sampling import SamplingConfig
from lm.generate.text import encode_prompt, encode_source, generate_text
from lm.model.cache import position_limit
from lm.model.lora import merged
from lm.objectives.base import Objective
from lm.train.workdir import model_params
from lm.types import Params


class Sampler:
    """Takes the samples that a config asks for.

    Raises:
      ConfigError: a model that writes no text, a prompt that it cannot read, settings out of
        range, or a run of several processes: what would else end it at its first evaluation.
    """

    def __init__(self, config: Config, objective: Objective, tokenizer: Tokenizer) -> None:
        assert config.evaluation.samples is not None
        self._config, self._objective, self._tokenizer = config, objective, tokenizer
        self._settings: Samples = config.evaluation.samples
        try:
            self._sampling = SamplingConfig(
                temperature=self._settings.temperature,
                top_k=self._settings.top_k,
                top_p=self._settings.top_p,
            )
            self._check()
        except UserError as error:
            raise ConfigError(f"evaluation.samples: {error}") from None

    def _check(self) -> None:
        model, data = self._config.model, self._config.data
        if jax.process_count() > 1:
            raise ConfigError("a run of several processes takes none: leave them out")
        check_architecture(model, None)
        limit, vocab_size = position_limit(model), min(self._tokenizer.vocab_size, model.vocab_size)
        encode = encode_source if reads_sources(self._config) else encode_prompt
        prompts = [encode(self._tokenizer, text, data) for text in self._settings.prompts]
        joined = model.architecture == "encoder_decoder"
        if joined:
            check_sources(limit, prompts, model.source_vocab_size or vocab_size)
            assert model.decoder_start_id is not None
            prompts = [[model.decoder_start_id]]
        length = self._settings.max_new_tokens
        check_prompts(limit, prompts, length, 1, vocab_size, targets=joined)

    def take(self, params: Params, step: int) -> list[dict[str, Any]]:
        """What the model says after each prompt: lines of samples.jsonl without their step.

        Args:
          params: all that the objective trains, of the parameters' own shapes.
        """
        config = self._config
        if config.train.lora is not None:
            params = merged(params, config.train.lora)
        params = model_params(config, params)
        if config.parallel.fsdp == 1:
            # Of as many devices as train, one is enough: each has them all.
            params = jax.device_put(params, jax.local_devices()[0])
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        completions = generate_text(
            self._objective.model,
            params,
            self._tokenizer,
            self._settings.prompts,
            sampling=self._sampling,
            max_new_tokens=self._settings.max_new_tokens,
            seed=int(jax.random.bits(key)),
            data=config.data,
            both_ways=reads_both_ways(config),
            sources=reads_sources(config),
            logprobs=False,
        )
        return [
            {"prompt": prompt, "text": one.text, "finish_reason": one.finish_reason}
            for prompt, [one] in zip(self._settings.prompts, completions, strict=True)
        ]
