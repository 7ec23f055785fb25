"""Beam search: the likeliest completions, found by going on with several hypotheses at a time.

What is found follows from a prompt alone: neither its neighbours, nor padding, nor the order of the
prompts matter, up to rounding (see `lm.generate.decode`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm.config import ModelConfig
from lm.errors import ConfigError
from lm.generate import beam_loop
from lm.generate.arrange import arrange
from lm.generate.batching import Batch, batches, checked_start
from lm.generate.beam_config import BeamConfig
from lm.generate.beam_select import Finished, Given, Settings, State
from lm.generate.constraints import (
    Constraints,
    Trie,
    check_constraints,
    make_trie,
    phrase_table,
)
from lm.generate.decode import Completion
from lm.generate.prompts import bucket
from lm.types import Params

# New tokens that the cache has room for at first, and how much more it has each time they run out:
# every step moves the rows of all of it.
FIRST_STAGE, GROWTH = 32, 4


@dataclass(frozen=True)
class Hypothesis(Completion):
    """A completion that beam search found.

    score: sum of its log-probabilities, after penalties, over the length penalty; the higher the
      better.
    """

    score: float


def beam_search(
    model: nn.Module,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    beams: BeamConfig,
    max_new_tokens: int,
    eos_id: int | None = None,
    num_return_sequences: int = 1,
    vocab_size: int | None = None,
    start: Sequence[int] | None = None,
    constraints: Constraints | None = None,
    batch_size: int | None = None,
    both_ways: bool = False,
) -> list[list[Hypothesis]]:
    """The best completions of token prompts, best first; `lm.generate.text` does it for text.

    Prompts of similar lengths are searched together, `batch_size` at a time; the result is in their
    own order.

    Args:
      model, params, prompts, max_new_tokens, eos_id, vocab_size, start: see
        `lm.generate.decode.generate`. What is cut at max_new_tokens is a hypothesis like others.
      beams: how to search.
      num_return_sequences: completions a prompt, at most num_beams.
      constraints: what may be said.
      batch_size: prompts at a time; None is as many as the memory has room for, up to 128. It
        changes nothing but the speed.
      both_ways: a decoder's prompts see themselves both ways, as it learned from prefixes and from
        pairs (`lm.objectives.seq2seq`).

    Returns:
      One list of completions a prompt: num_return_sequences, or as many as the constraints and a
      small vocabulary allow.

    Raises:
      ConfigError, UserError: as `generate`; more sequences than beams; constraints under which
        nothing can be said.
    """
    config: ModelConfig = model.config
    vocab_size = min(vocab_size or config.vocab_size, config.vocab_size)
    constraints = constraints or Constraints()
    begin = checked_start(config, prompts, start, max_new_tokens, vocab_size)
    check_search(beams, num_return_sequences, max_new_tokens, eos_id)
    check_constraints(
        constraints, prompts=len(prompts), eos_id=eos_id, vocab_size=vocab_size,
        max_new_tokens=max_new_tokens,
    )  # fmt: skip
    params = arrange(model, params)
    settings = Settings(model, dataclasses.replace(beams, length_penalty=0.0), eos_id, vocab_size)
    found: list[list[Hypothesis]] = [[] for _ in prompts]
    for numbers in batches(config, prompts, max_new_tokens, beams.num_beams, batch_size):
        own = [prompts[i] for i in numbers]
        batch = Batch(config, own, begin, max_new_tokens, beams.num_beams, both_ways=both_ways)
        trie = None
        if constraints.choices is not None and eos_id is not None:
            choices = [constraints.choices[i] for i in numbers]
            trie = make_trie([*choices, *choices[-1:] * int(np.sum(~batch.real))], eos_id)
        finished = _search(
            settings, params, batch, max_new_tokens, beams.length_penalty, constraints.suppress,
            trie,
        )  # fmt: skip
        for row, number in enumerate(numbers):
            hypotheses = _hypotheses(finished, row, eos_id)
            found[number] = hypotheses[:num_return_sequences]
    return found


def check_search(
    beams: BeamConfig, num_return_sequences: int, max_new_tokens: int, eos_id: int | None
) -> None:
    """Raises ConfigError for what a search cannot give."""
    if not 1 <= num_return_sequences <= beams.num_beams:
        raise ConfigError(
            f"num_return_sequences must be between 1 and num_beams={beams.num_beams}, not "
            f"{num_return_sequences}"
        )
    if beams.min_new_tokens > max_new_tokens:
        raise ConfigError(
            f"min_new_tokens={beams.min_new_tokens} is more than max_new_tokens={max_new_tokens}"
        )
    if beams.min_new_tokens and eos_id is None:
        raise ConfigError(
            "min_new_tokens says how early an end of sequence may come, and this tokenizer has none"
        )


def _search(
    settings: Settings,
    params: Params,
    batch: Batch,
    max_new_tokens: int,
    length_penalty: float,
    suppress: Sequence[Sequence[int]],
    trie: Trie | None,
) -> Finished:
    """The finished hypotheses of a batch, on the host."""
    given = Given(
        prompt=jnp.where(batch.positions < 0, -1, batch.tokens),
        position=jnp.asarray(batch.positions[:, -1]),
        real=jnp.asarray(batch.real),
        max_new_tokens=jnp.int32(max_new_tokens),
        length_penalty=jnp.float32(length_penalty),
        suppress=jnp.asarray(phrase_table(suppress)) if suppress else None,
        trie=trie,
    )
    stage = min(FIRST_STAGE, max_new_tokens)
    state: State = beam_loop.begin(
        settings, params, batch.tokens, batch.positions, batch.source, given,
        length=batch.slots(stage), new_tokens=bucket(max_new_tokens),
    )  # fmt: skip
    while True:
        state = beam_loop.advance(settings, params, given, state, jnp.int32(stage))
        if stage == max_new_tokens or not np.any(state.open):
            return jax.device_get(state.finished)
        stage = min(stage * GROWTH, max_new_tokens)
        cache = beam_loop.grown(state.cache, length=batch.slots(stage))
        state = state._replace(cache=cache)


def _hypotheses(finished: Finished, row: int, eos_id: int | None) -> list[Hypothesis]:
    """Those of one prompt, best first; of equals that of the earlier group."""
    found = []
    for group, place in np.ndindex(finished.scores.shape[1:]):
        at = (row, group, place)
        if finished.scores[at] == -np.inf:
            continue
        length = int(finished.lengths[at])
        tokens = finished.tokens[at][:length].tolist()
        found.append(
            Hypothesis(
                tokens=tokens,
                logprobs=finished.logprobs[at][:length].tolist(),
                finish_reason="eos" if tokens[-1] == eos_id else "length",
                score=float(finished.scores[at]),
            )
        )
    return sorted(found, key=lambda hypothesis: -hypothesis.score)
