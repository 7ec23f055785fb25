"""What a model that writes reads of an example, and what of its tokens is the answer."""

from __future__ import annotations

from collections.abc import Sequence

from lm.config import SequenceToSequence
from lm.data.examples_read import Example
from lm.data.tokenizer import stream_decoder
from lm.errors import ConfigError, UserError
from lm.generate.beam_config import BeamConfig
from lm.generate.decode import FinishReason
from lm.generate.prompts import reads_both_ways
from lm.generate.text import around_source, encode_prompt
from lm.model.cache import position_limit
from lm.objectives.tasks.instruction import (
    ANSWERS,
    Chat,
    InstructionObjective,
    Message,
    messages_of,
)
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

    def new_tokens(self, prompt: Sequence[int]) -> int:
        """The most tokens of the answer to a prompt."""
        return self.max_new_tokens

    def said(self, prompt: Sequence[int], tokens: Sequence[int]) -> tuple[str, FinishReason | None]:
        """The text of the tokens that came after `prompt`, which may end with eos; and what ended
        it, None where the search knows."""
        return self.tokenizer.decode(self._without_eos(tokens)), None

    def _without_eos(self, tokens: Sequence[int]) -> Sequence[int]:
        return tokens[:-1] if tokens and tokens[-1] == self.eos_id else tokens


class SourceReader(Reader):
    """The source of a pair: a document, cut at its end to what rows of training hold. The answer
    is its target, of at most objective.target_length tokens; where a decoder has both in one row,
    of half a row."""

    beams = BeamConfig()

    def __init__(self, run: Run, max_new_tokens: int | None) -> None:
        model, data = run.config.model, run.config.data
        self.both_ways = reads_both_ways(run.config)
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


class PromptReader(Reader):
    """What an answer follows in the same row. Where nobody says how long answers are, they have at
    most NEW_TOKENS tokens and half of the positions, and after long prompts what is left."""

    def __init__(self, run: Run, max_new_tokens: int | None) -> None:
        limit = position_limit(run.config.model)
        most = NEW_TOKENS if limit is None else max(1, min(NEW_TOKENS, limit // 2))
        super().__init__(run, max_new_tokens or most)
        # What was asked for has to fit; else a prompt leaves room enough for one.
        self._least = max_new_tokens or 1

    def new_tokens(self, prompt: Sequence[int]) -> int:
        if self._limit is None:
            return self.max_new_tokens
        return min(self.max_new_tokens, self._limit - len(prompt))

    def _fits(self, tokens: Sequence[int]) -> bool:
        return self._limit is None or len(tokens) + self._least <= self._limit

    def _checked_room(self, tokens: list[int], what: str) -> list[int]:
        if not self._fits(tokens):
            after = f"max_new_tokens={self._least}" if self._least > 1 else "an answer"
            raise UserError(
                f"the {what} has {len(tokens)} tokens, and with {after} after it exceeds the "
                f"{self._limit} positions that the model has: shorten it"
                + (", or make fewer new tokens" if self._least > 1 else "")
            )
        return tokens


class ContinuationReader(PromptReader):
    """A text as the beginning of a document."""

    def read(self, example: Example) -> tuple[list[int], int]:
        text = checked_text(value_of(example, "text"), "text", example.place)
        return self._checked_room(encode_prompt(self.tokenizer, text, self.data), "text"), 0

    def said(self, prompt: Sequence[int], tokens: Sequence[int]) -> tuple[str, FinishReason | None]:
        # The prompt decides whether a space precedes the first word, in some tokenizers.
        decoder = stream_decoder(self.tokenizer)
        for token in prompt:
            decoder.push(token)
        text = "".join(decoder.push(token) for token in self._without_eos(tokens))
        return text + decoder.finish(), None


class ReplyReader(PromptReader):
    """A conversation up to where the next answer begins; an answer at its end is left out. What the
    template puts after an answer ends one, as in `lm serve`.

    Of a conversation that is too long for an answer to follow, the system message and the newest
    ones are read where the run's data.too_long is "cut", and of a single one its beginning.
    """

    def __init__(
        self, run: Run, objective: InstructionObjective, max_new_tokens: int | None
    ) -> None:
        super().__init__(run, max_new_tokens)
        self._chat: Chat = objective.chat(run.tokenizer, run.config.data)
        self._marker = self._chat.after
        if self._chat.end is not None:
            self.eos_id = self._chat.end
            # All that the search comes to.
            self._marker = self._marker[: self._marker.index(self._chat.end) + 1]
        elif not self.data.add_eos:
            self.eos_id = None

    def read(self, example: Example) -> tuple[list[int], int]:
        messages = messages_of(example)
        if messages[-1]["role"] == ANSWERS:
            messages = messages[:-1]
        tokens = self._chat.prompt(messages)
        kept = tokens
        if not self._fits(tokens) and self.data.too_long == "cut":
            kept = self._newest(messages)
        return self._checked_room(kept, "conversation"), len(tokens) - len(kept)

    def _newest(self, messages: Sequence[Message]) -> list[int]:
        """The prompt of as many of the newest messages as leave room for a whole answer."""
        assert self._limit is not None
        system = [message for message in messages[:1] if message["role"] == "system"]
        others, last = messages[len(system) :], messages[-1]
        if not others:
            return self._chat.prompt(messages)

        def of_last(content: str) -> list[int]:
            return self._chat.prompt([*system, {**last, "content": content}])

        room = self._limit - self.max_new_tokens
        if len(of_last("")) >= room:
            room = self._limit - self._least
        for first in range(1, len(others)):
            tokens = self._chat.prompt([*system, *others[first:]])
            if others[first]["role"] != ANSWERS and len(tokens) <= room:
                return tokens
        ids, tokens = self.tokenizer.encode(last["content"]), of_last(last["content"])
        kept = len(ids)
        # What is decoded and encoded again may have other tokens.
        while kept > 0 and len(tokens) > room:
            kept -= len(tokens) - room
            tokens = of_last(self.tokenizer.decode(ids[: max(0, kept)]).rstrip("\ufffd"))
        return tokens if kept > 0 else self._chat.prompt(messages)

    def said(self, prompt: Sequence[int], tokens: Sequence[int]) -> tuple[str, FinishReason | None]:
        for place, token in enumerate(tokens):
            marked = tokens[place : place + len(self._marker)]
            # Of a marker of several tokens the one that ends may come alone.
            if token == self._chat.end or (marked and list(marked) == self._marker):
                return self.tokenizer.decode(tokens[:place]), "stop"
            if token == self.tokenizer.eos_id:
                return self.tokenizer.decode(tokens[:place]), "eos"
        return self.tokenizer.decode(tokens), None
