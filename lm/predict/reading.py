"""What a model that writes reads of an example, and what of its tokens is the answer."""

from __future__ import annotations

from collections.abc import Sequence

from lm.config import SequenceToSequence
from lm.data.examples_read import Example
from lm.data.tokenizer import stream_decoder
from lm.errors import ConfigError, UserError
from lm.generate.beam_config import BeamConfig
from lm.generate.text import around_source, encode_prompt
from lm.model.cache import position_limit
from lm.objectives.tasks.instruction import ANSWERS, Chat, InstructionObjective, messages_of
from lm.objectives.tasks.rows import checked_text, value_of
from lm.train.workdir import Run

# Most tokens of an answer where nothing in the run says how long answers are.
NEW_TOKENS = 128
GREEDY = BeamConfig(num_beams=1)


class Reader:
    """How a run's examples are read. `beams` is how its answers are searched for where nobody says,
    `eos_id` what ends them, `both_ways` whether a decoder's prompt sees itself so."""

    beams: BeamConfig = GREEDY
    both_ways = False

    def __init__(self, run: Run, max_new_tokens: int) -> None:
        self.tokenizer, self.data = run.tokenizer, run.config.data
        self.max_new_tokens = max_new_tokens
        self.eos_id = run.tokenizer.eos_id
        self._limit = position_limit(run.config.model)

    def read(self, example: Example) -> tuple[list[int], int]:
        """The tokens of an example, and how many more did not fit.

        Raises:
          UserError: an example without a text, or one that leaves no room for an answer.
        """
        raise NotImplementedError

    def said(self, prompt: Sequence[int], tokens: Sequence[int]) -> tuple[str, bool]:
        """The text of the tokens that came after `prompt`, which may end with eos; and whether it
        has another end than that."""
        return self.tokenizer.decode(self._without_eos(tokens)), False

    def _without_eos(self, tokens: Sequence[int]) -> Sequence[int]:
        return tokens[:-1] if tokens and tokens[-1] == self.eos_id else tokens

    def _checked_room(self, tokens: list[int], what: str) -> list[int]:
        if self._limit is not None and len(tokens) + self.max_new_tokens > self._limit:
            raise UserError(
                f"the {what} has {len(tokens)} tokens, and with max_new_tokens="
                f"{self.max_new_tokens} after it the model's {self._limit} positions end: shorten "
                "it, or make fewer new tokens"
            )
        return tokens


class SourceReader(Reader):
    """The source of a pair: a document, cut at its end to what rows of training hold. The answer
    is its target, of at most objective.target_length tokens; where a decoder has both in one row,
    of half a row."""

    beams = BeamConfig()

    def __init__(self, run: Run, max_new_tokens: int | None) -> None:
        model, data = run.config.model, run.config.data
        self.both_ways = model.architecture == "decoder"
        limit, room = position_limit(model), data.sequence_length
        if max_new_tokens is None:
            max_new_tokens = self._target_length(run)
        if limit is not None:
            room = min(room, limit - max_new_tokens if self.both_ways else limit)
        super().__init__(run, max_new_tokens)
        self._before, self._after = around_source(run.tokenizer, data)
        self._room = room - len(self._before) - len(self._after)
        if self._room < 1:
            raise ConfigError(
                f"max_new_tokens={max_new_tokens} leaves no room for a source among the model's "
                f"{limit} positions: make it smaller"
            )

    def _target_length(self, run: Run) -> int:
        objective, limit = run.config.objective, position_limit(run.config.model)
        if self.both_ways:
            length = (run.config.data.sequence_length + 1) // 2
            return max(1, length if limit is None else min(length, limit // 2))
        length = run.config.data.sequence_length
        if isinstance(objective, SequenceToSequence):
            length = objective.target_length or length
        # The token that starts a target has a position too.
        return length if limit is None else max(1, min(length, limit - 1))

    def read(self, example: Example) -> tuple[list[int], int]:
        text = value_of(example, "text")
        if isinstance(text, (list, tuple)) and all(isinstance(part, str) for part in text):
            text = " ".join(text)
        ids = self.tokenizer.encode(checked_text(text, "text", example.place))
        kept = ids[: self._room]
        return [*self._before, *kept, *self._after], len(ids) - len(kept)


class ContinuationReader(Reader):
    """A text as the beginning of a document."""

    def __init__(self, run: Run, max_new_tokens: int | None) -> None:
        super().__init__(run, max_new_tokens or _new_tokens(run))

    def read(self, example: Example) -> tuple[list[int], int]:
        text = checked_text(value_of(example, "text"), "text", example.place)
        return self._checked_room(encode_prompt(self.tokenizer, text, self.data), "text"), 0

    def said(self, prompt: Sequence[int], tokens: Sequence[int]) -> tuple[str, bool]:
        # The prompt decides whether a space precedes the first word, in some tokenizers.
        decoder = stream_decoder(self.tokenizer)
        for token in prompt:
            decoder.push(token)
        text = "".join(decoder.push(token) for token in self._without_eos(tokens))
        return text + decoder.finish(), False


class ReplyReader(Reader):
    """A conversation up to where the next answer begins; an answer at its end is left out. What the
    template puts after an answer ends one."""

    def __init__(
        self, run: Run, objective: InstructionObjective, max_new_tokens: int | None
    ) -> None:
        super().__init__(run, max_new_tokens or _new_tokens(run))
        self._chat: Chat = objective.chat(run.tokenizer, run.config.data)
        self._marker = self._chat.after
        if len(self._marker) == 1:
            self.eos_id = self._marker[0]
        elif not self.data.add_eos:
            self.eos_id = None

    def read(self, example: Example) -> tuple[list[int], int]:
        messages = messages_of(example)
        if messages[-1]["role"] == ANSWERS:
            messages = messages[:-1]
        return self._checked_room(self._chat.prompt(messages), "conversation"), 0

    def said(self, prompt: Sequence[int], tokens: Sequence[int]) -> tuple[str, bool]:
        marker, size = self._marker, len(self._marker)
        for place in range(len(tokens) - size + 1 if size > 1 else 0):
            if list(tokens[place : place + size]) == marker:
                return self.tokenizer.decode(tokens[:place]), True
        return super().said(prompt, tokens)


def _new_tokens(run: Run) -> int:
    """NEW_TOKENS, and where positions end half of them at most: prompts are read too."""
    limit = position_limit(run.config.model)
    return NEW_TOKENS if limit is None else max(1, min(NEW_TOKENS, limit // 2))
