"""Dialogue and instruction tuning: a conversation as tokens, of which the answers are learned."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lm.config import ChatTemplate, DataConfig, Instruction, ModelConfig
from lm.data.corruption.seq2seq import padded
from lm.data.corruption.vocabulary import Vocabulary, vocabulary_of
from lm.data.examples import Encoded, ExampleMaker
from lm.data.examples_read import Example
from lm.data.tokenizer import Tokenizer
from lm.errors import UserError, did_you_mean
from lm.model import build_model
from lm.objectives.base import Term
from lm.objectives.cross_entropy import CrossEntropy
from lm.objectives.tasks.body import initial_params
from lm.objectives.tasks.rows import checked_text, text_of, value_of
from lm.types import Batch, Key, Params

Message = Mapping[str, Any]
ROLES = ("system", "user", "assistant")
ANSWERS = "assistant"


class Chat:
    """Conversations as token ids, by a template. Of a marker what is spelled as one of the
    tokenizer's special tokens becomes that token; of a content never: nobody can write one."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, data: DataConfig) -> None:
        self._template, self._tokenizer = template, tokenizer
        vocabulary = vocabulary_of(tokenizer)
        self._special = {
            piece: number
            for number, piece in enumerate(vocabulary.pieces)
            if piece and vocabulary.special[number]
        }
        unknown = vocabulary.unk_id
        self.special = frozenset(i for i in self._special.values() if i != unknown)
        """The ids that markers have and contents never."""
        spellings = sorted(map(re.escape, self._special), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(spellings)})") if spellings else None
        self._begin = [vocabulary.require("bos", "data.add_bos")] if data.add_bos else []
        self._end = [vocabulary.require("eos", "data.add_eos")] if data.add_eos else []
        self.after = self._marker(template.after)
        """What stands after every content."""
        own = [token for token in self.after if token in self.special]
        self.end = next(iter(own or self.after), None) if own or len(self.after) == 1 else None
        """The token of `after` that ends an answer: the first special one, as no content has any,
        or the only one. None where the marker is several plain tokens, or nothing."""

    def _marker(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self._split.split(text) if self._split else [text]:
            if part in self._special:
                ids.append(self._special[part])
            elif part:
                ids += self._tokenizer.encode(part)
        return ids

    def tokens(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """The ids of a conversation, and which of them an answer has: learned, and generated."""
        ids, learned = list(self._begin), [False] * len(self._begin)
        for number, message in enumerate(messages):
            answers = message["role"] == ANSWERS
            between = self._marker(self._template.between) if number else []
            before = between + self._before(message["role"])
            content = self._tokenizer.encode(message["content"])
            content += self.after + (self._end if answers else [])
            ids += before + content
            learned += [False] * len(before) + [answers] * len(content)
        return ids, learned

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids after which the answer to these messages begins."""
        between = self._marker(self._template.between) if messages else []
        return self.tokens(messages)[0] + between + self._before(ANSWERS)

    def _before(self, role: str) -> list[int]:
        name = self._template.roles.get(role, role)
        return self._marker(self._template.before.replace("{role}", name))


def messages_of(example: Example) -> list[dict[str, str]]:
    """The conversation of an example.

    Raises:
      UserError: no messages, or one without a known role and a content; it names the place.
    """
    place = example.place
    if "prompt" in example.values:
        given = [{"role": "user", "content": text_of(example, "prompt")}]
        if example.values.get("system"):
            given.insert(0, {"role": "system", "content": text_of(example, "system")})
        if "response" in example.values:
            given.append({"role": ANSWERS, "content": text_of(example, "response")})
        return given
    messages = value_of(example, "messages")
    if not isinstance(messages, (list, tuple)) or not messages:
        raise UserError(f"{place}: messages should be a list of objects with role and content")
    found = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise UserError(f"{place}: message {number} should have role and content")
        role = message["role"]
        if role not in ROLES:
            raise UserError(f"{place}: no such role {role!r}{did_you_mean(str(role), ROLES)}")
        content = checked_text(message["content"], f"content of message {number}", place)
        found.append({"role": role, "content": content})
    return found


class ChatRows:
    """A `lm.data.examples.ExampleMaker`: a conversation a row, cut at its end; of one whose
    answers are all cut off there is no row.

    Features: tokens, targets (one place ahead), positions (-1 at padding) int32 [T], and weights
    float32 [T], 1 where the target is an answer's.
    """

    def __init__(self, chat: Chat, vocabulary: Vocabulary, length: int) -> None:
        self.chat, self._vocabulary, self._length = chat, vocabulary, length

    @property
    def room(self) -> str:
        return f"{self._length + 1} tokens of a conversation"

    def __call__(self, example: Example, *, labelled: bool) -> Encoded:
        messages = messages_of(example)
        if labelled and all(message["role"] != ANSWERS for message in messages):
            raise UserError(f"{example.place}: nobody answers: there is no message of {ANSWERS!r}")
        ids, learned = self.chat.tokens(messages)
        # The last token is a target only.
        kept = np.array(ids[: self._length + 1], np.int32)
        count = len(kept) - 1
        weights = np.zeros(self._length, np.float32)
        weights[:count] = np.array(learned[1 : count + 1]) & labelled
        positions = np.full(self._length, -1, np.int32)
        positions[:count] = np.arange(count)
        row = {
            "tokens": padded(kept[:-1], self._length, self._vocabulary),
            "targets": padded(kept[1:], self._length, self._vocabulary),
            "positions": positions,
            "weights": weights,
        }
        rows = [row] if weights.any() or not labelled else []
        return Encoded(rows, len(ids) - len(kept))


class InstructionObjective:
    """Cross-entropy of the answers' tokens, in nats. A batch is what `ChatRows` make, [B, T]; the
    terms are those of `CrossEntropy`. Answers are generated: `Chat.prompt` is what before."""

    def __init__(self, config: Instruction, model: ModelConfig) -> None:
        self.config = config
        self.model = build_model(model)
        self._cross_entropy = CrossEntropy(
            model.vocab_size,
            label_smoothing=config.label_smoothing,
            chunk_tokens=config.chunk_tokens,
        )

    def chat(self, tokenizer: Tokenizer, data: DataConfig) -> Chat:
        """How conversations are written. Raises ConfigError for a token that is lacking."""
        return Chat(self.config.template, tokenizer, data)

    def example_maker(
        self, tokenizer: Tokenizer, data: DataConfig, training: Sequence[Example] = ()
    ) -> ExampleMaker:
        """See `ChatRows`."""
        chat = self.chat(tokenizer, data)
        return ChatRows(chat, vocabulary_of(tokenizer), data.sequence_length)

    def init(self, rng: Key, batch: Batch) -> Params:
        """Initial parameters, with their logical axis names."""
        return initial_params(self.model, rng, batch["tokens"])

    def loss(
        self, params: Params, batch: Batch, rng: Key | None, *, train: bool
    ) -> dict[str, Term]:
        """The terms of one batch. Device, pure; `rng` feeds dropout while training."""
        hidden, _ = self.model.apply(
            {"params": params},
            batch["tokens"],
            positions=batch["positions"],
            train=train,
            rngs={"dropout": rng} if train and rng is not None else None,
            method="hidden",
        )

        def logits_of(hidden: jax.Array) -> Any:
            return self.model.apply({"params": params}, hidden, method="logits")

        return self._cross_entropy.terms(
            logits_of, hidden, batch["targets"], batch["weights"], train=train
        )
