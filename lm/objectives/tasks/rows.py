"""Texts of an example as a row: what stands before, between and after them, and what is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm.config import ClassWeights, DataConfig, ModelConfig
from lm.data.corruption.seq2seq import shared_room
from lm.data.examples_read import Example
from lm.data.tokenizer import Tokenizer
from lm.errors import ConfigError, UserError, did_you_mean
from lm.types import Features

# XLNet's segments: the first text, the second one, and the token that is read at the end.
_CLASS_TYPE = 2


@dataclass(frozen=True)
class Layout:
    """How one text or two stand in a row of `length` tokens.

    `typed`: rows have token_types, 0 for the first text with what stands before and after it, and 1
    for the second one; with `reads_last` 2 for the last token (XLNet).
    """

    length: int
    pad_id: int
    before: tuple[int, ...]
    between: tuple[int, ...] | None
    after: tuple[int, ...]
    typed: bool
    reads_last: bool

    def room(self, texts: int) -> int:
        """Tokens of text in a row of one text, or of two."""
        return self.length - len(self.before) - len(self.after) - (texts - 1) * len(self._between())

    def fitted(self, parts: Sequence[Sequence[int]]) -> tuple[list[Sequence[int]], int]:
        """The texts, cut to fit a row, and how many tokens that took: of two texts the longer one
        gives way."""
        room = self.room(len(parts))
        if len(parts) == 1:
            kept = [parts[0][:room]]
        else:
            first, second = shared_room(np.array([len(parts[0])]), np.array([len(parts[1])]), room)
            kept = [parts[0][: int(first[0])], parts[1][: int(second[0])]]
        return kept, sum(map(len, parts)) - sum(map(len, kept))

    def row(self, parts: Sequence[Sequence[int]]) -> tuple[Features, list[int]]:
        """{"tokens", "positions" (-1 at padding), "token_types" where `typed`}, int32 [length]
        each, of texts that fit; and where each text begins."""
        ids = list(self.before)
        begins: list[int] = []
        types: list[int] = []
        for number, part in enumerate(parts):
            if number:
                ids += self._between()
                types += [0] * (len(ids) - len(types))
            begins.append(len(ids))
            ids += part
        ids += self.after
        types += [len(parts) - 1] * (len(ids) - len(types))
        if self.reads_last:
            types[-1] = _CLASS_TYPE
        tokens = np.full(self.length, self.pad_id, np.int32)
        tokens[: len(ids)] = ids
        positions = np.full(self.length, -1, np.int32)
        positions[: len(ids)] = np.arange(len(ids))
        features = {"tokens": tokens, "positions": positions}
        if self.typed:
            features["token_types"] = np.zeros(self.length, np.int32)
            features["token_types"][: len(ids)] = types
        return features, begins

    def _between(self) -> tuple[int, ...]:
        if self.between is None:
            raise ConfigError(
                "a pair of texts needs an eos token between them, and this tokenizer has none: use "
                "one that does, such as wordpiece or bpe"
            )
        return self.between


def layout_of(
    tokenizer: Tokenizer, model: ModelConfig, data: DataConfig, separators: int = 1
) -> Layout:
    """How a model's rows look: see `lm.config.SequenceTask`.

    Raises:
      ConfigError: an encoder's tokenizer without bos or eos, to be [CLS] and [SEP]; no room.
    """
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    between: tuple[int, ...] | None = None if eos is None else (eos,) * separators
    if model.architecture in ("encoder", "two_stream"):
        before, after = (tuple(ids) for ids in tokenizer.wrapping)
        if not after:
            if bos is None or eos is None:
                raise ConfigError(
                    "an encoder's task needs a tokenizer with bos and eos tokens, to be [CLS] and "
                    f"[SEP], and this {tokenizer.kind} tokenizer has none: use one that does, such "
                    "as wordpiece"
                )
            reads_last = model.architecture == "two_stream"
            before, after = ((), (eos, bos)) if reads_last else ((bos,), (eos,))
        between = after[:1] * separators
    else:
        before = (_needed(bos, "bos"),) if data.add_bos else ()
        after = (_needed(eos, "eos"),) if data.add_eos else ()
    found = Layout(
        length=data.sequence_length,
        pad_id=tokenizer.pad_id or 0,
        before=before,
        between=between,
        after=after,
        typed=model.token_types >= 2,
        reads_last=model.architecture == "two_stream",
    )
    if found.room(1) < 1:
        raise ConfigError(f"data.sequence_length={data.sequence_length} leaves no room for text")
    return found


def _needed(token_id: int | None, role: str) -> int:
    if token_id is None:
        raise ConfigError(
            f"data.add_{role} is set, and this tokenizer has no {role} token: set "
            f"data.add_{role}=False, or use another tokenizer"
        )
    return token_id


def value_of(example: Example, role: str) -> Any:
    """Raises UserError where the example lacks it."""
    if role not in example.values:
        raise UserError(f"{example.place} has no {role}")
    return example.values[role]


def text_of(example: Example, role: str) -> str:
    """Raises UserError for what is missing, not text, or empty."""
    return checked_text(value_of(example, role), role, example.place)


def checked_text(value: Any, role: str, place: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{place}: the {role} is {type(value).__name__}, not text")
    if not value.strip():
        raise UserError(f"{place}: the {role} is empty; remove that example, or repair it")
    return value


def list_of(example: Example, role: str) -> list[Any]:
    """A list, or the words of a string. Raises UserError for anything else, and an empty one."""
    value = value_of(example, role)
    value = value.split() if isinstance(value, str) else value
    if not isinstance(value, (list, tuple)) or not value:
        raise UserError(f"{example.place}: the {role} should be a list, not {value!r}")
    return list(value)


class Labels:
    """The labels of an objective, and the number of each."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.names = tuple(labels)
        self._numbers = {name: number for number, name in enumerate(labels)}
        self._unknown: UserError | None = None

    def number(self, value: Any, place: str) -> int:
        """Raises UserError for a label that is none of them."""
        name = spelled(value)
        if name not in self._numbers:
            raise UserError(
                f"{place}: the label {name!r} is not in objective.labels"
                f"{did_you_mean(name, self.names)}"
            )
        return self._numbers[name]

    def check_all(self, examples: Sequence[Example], values: Any) -> None:
        """Raises UserError for the first unknown label, with all that the examples have."""
        found: dict[str, None] = {}
        first: tuple[str, str] | None = None
        for example in examples:
            for value in values(example):
                name = spelled(value)
                found.setdefault(name)
                if name not in self._numbers and first is None:
                    first = name, example.place
        if first is not None:
            shown = ", ".join(map(repr, list(found)[:20])) + (" ..." if len(found) > 20 else "")
            raise UserError(
                f"{first[1]}: the label {first[0]!r} is not in objective.labels "
                f"({', '.join(map(repr, self.names))}); the training data has {shown}"
            )

    def weights(
        self,
        given: ClassWeights,
        training: Sequence[Example],
        names: Callable[[Example], Sequence[str]],
    ) -> tuple[float, ...] | None:
        """What `class_weights` of a config are: "balanced" ones by how often each of the labels is
        among the `names` of the training examples (without any, 1).

        Raises:
          UserError: "balanced", and a label that no training example has.
        """
        if given != "balanced":
            return given
        counts = Counter(name for example in training for name in names(example))
        missing = [name for name in self.names if training and not counts[name]]
        if missing:
            raise UserError(
                'class_weights="balanced": no training example has the label '
                f"{', '.join(map(repr, missing))}"
            )
        total, number = sum(counts.values()), len(self.names)
        return tuple(total / (number * counts[name]) if training else 1.0 for name in self.names)


def spelled(value: Any) -> str:
    """A label as text: numbers and truth values as JSON has them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).strip() if isinstance(value, (str, int)) else repr(value)
