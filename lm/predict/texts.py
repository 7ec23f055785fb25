"""Predictions of models whose answer is a text: translations, summaries, replies, continuations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from lm.config import Instruction
from lm.data.examples_read import Example
from lm.errors import ConfigError
from lm.generate.arrange import arrange
from lm.generate.beam import Hypothesis, beam_search, check_search
from lm.generate.beam_config import BeamConfig
from lm.objectives.tasks.instruction import InstructionObjective
from lm.predict.base import Predictor, placed
from lm.predict.reading import ContinuationReader, Reader, ReplyReader, SourceReader
from lm.predict.roles import picked
from lm.train.workdir import Run

# Batches that are read ahead, so that texts of similar lengths come together.
AHEAD = 8


class TextPredictor(Predictor):
    """Answers {"text", "score", "finish_reason"}, the best that a search finds; with
    `num_return_sequences` above 1 also "candidates": a list of such, best first.

    score: the log-probability after penalties, as `lm.generate.beam.Hypothesis` has it: over the
      length where nothing else is said. finish_reason: "eos" (the end-of-sequence token), "stop"
      (what a conversation's template puts after an answer, of however many tokens; `lm serve` says
      "stop" of both, as OpenAI does) or "length": it was cut at `max_new_tokens`, or where the
      model's positions end.

    Without `beam`, sequence_to_sequence is searched as `BeamConfig()` says, and replies and
    continuations take the likeliest token each time. `max_new_tokens` is by default what
    `lm.predict.reading` says.

    Raises:
      ConfigError: a length that the model's positions do not hold, or more sequences than beams.
    """

    def __init__(
        self,
        run: Run,
        *,
        beam: BeamConfig | None = None,
        max_new_tokens: int | None = None,
        batch_size: int = 32,
        num_return_sequences: int = 1,
    ) -> None:
        super().__init__(run)
        if max_new_tokens is not None and max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
        self._reader = self._reader_of(run, max_new_tokens)
        self._beams = beam or self._reader.beams
        self._batch_size, self._sequences = batch_size, num_return_sequences
        check_search(
            self._beams, num_return_sequences, self._reader.max_new_tokens, self._reader.eos_id
        )
        # Once, and not for every call.
        self._params = arrange(run.model, run.params)

    def _reader_of(self, run: Run, max_new_tokens: int | None) -> Reader:
        if isinstance(run.config.objective, Instruction):
            assert isinstance(run.objective, InstructionObjective)
            return ReplyReader(run, run.objective, max_new_tokens)
        if "target" in self.forms[0].targets:
            return SourceReader(run, max_new_tokens)
        return ContinuationReader(run, max_new_tokens)

    @property
    def max_new_tokens(self) -> int:
        """The most tokens of an answer."""
        return self._reader.max_new_tokens

    def answers(self, examples: Iterable[Example]) -> Iterator[dict[str, Any]]:
        waiting = iter(examples)
        while group := list(islice(waiting, self._batch_size * AHEAD)):
            yield from self._answered(group)

    def _answered(self, examples: list[Example]) -> Iterator[dict[str, Any]]:
        prompts, left_out = [], []
        for example in examples:
            with placed(example):
                tokens, over = self._reader.read(picked(example, self.forms))
            prompts.append(tokens)
            left_out.append(over)
        found = self._searched(prompts)
        for prompt, hypotheses, over in zip(prompts, found, left_out):
            candidates = [self._answer(prompt, hypothesis) for hypothesis in hypotheses]
            answer = dict(candidates[0])
            if self._sequences > 1:
                answer["candidates"] = candidates
            yield answer | ({"left_out": over} if over else {})

    def _searched(self, prompts: list[list[int]]) -> list[list[Hypothesis]]:
        """What is found after each prompt; those with room for as many new tokens together."""
        rooms: dict[int, list[int]] = {}
        for number, prompt in enumerate(prompts):
            rooms.setdefault(self._reader.new_tokens(prompt), []).append(number)
        found: list[list[Hypothesis]] = [[] for _ in prompts]
        for new_tokens, members in rooms.items():
            some = beam_search(
                self.run.model, self._params, [prompts[number] for number in members],
                beams=self._beams, max_new_tokens=new_tokens, eos_id=self._reader.eos_id,
                num_return_sequences=self._sequences, vocab_size=self.run.tokenizer.vocab_size,
                batch_size=self._batch_size, both_ways=self._reader.both_ways,
            )  # fmt: skip
            for number, hypotheses in zip(members, some):
                found[number] = hypotheses
        return found

    def _answer(self, prompt: list[int], hypothesis: Hypothesis) -> dict[str, Any]:
        text, reason = self._reader.said(prompt, hypothesis.tokens)
        reason = reason or hypothesis.finish_reason
        return {"text": text, "score": hypothesis.score, "finish_reason": reason}
