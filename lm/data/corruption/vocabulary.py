"""What corruption has to know of a tokenizer: its special ids, and where words begin."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from lm.data.tokenizer import Tokenizer
from lm.errors import ConfigError

SPACE, CONTINUES, ENDS = "\u2581", "##", "</w>"
_SENTINEL = re.compile(f"{SPACE}?<extra_id_([0-9]+)>")
_BYTES = re.compile("(?:<0x[0-9A-F]{2}>)+")
# Blocks of ideographs, as BERT's tokenizer takes them.
_IDEOGRAPHS = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F))
# The first bytes of U+4000 to U+9FFF, for tokens that are parts of an ideograph.
_IDEOGRAPH_BYTES = range(0xE4, 0xEA)
_SENTENCE_ENDS = frozenset(".!?。！？…")
_CLOSING = "\"')]}»”’」』）"


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A tokenizer's ids, as corruption sees them."""

    size: int
    pad_id: int | None
    bos_id: int | None
    """BERT's [CLS]."""
    eos_id: int | None
    """BERT's [SEP]."""
    unk_id: int | None
    mask_id: int | None
    special: Bool[np.ndarray, "V"]
    """Ids that are never masked, replaced, or drawn as replacement: the special tokens (the
    unknown one too: that a word was out of reach is nothing to learn), sentinels, unused ids."""
    starts_word: Bool[np.ndarray, "V"]
    """Whether a token begins a word wherever it stands: by its space, its lack of "##", or as an
    ideograph. Special tokens do."""
    sentinels: tuple[int, ...] = ()
    """T5's <extra_id_0>, <extra_id_1> and so on."""
    pieces: tuple[str, ...] = field(default=(), repr=False)
    """The tokens' spellings, [V]; () where ids stand for no text."""

    @cached_property
    def ordinary(self) -> Int[np.ndarray, "N"]:
        """The ids that are not special."""
        return np.flatnonzero(~self.special).astype(np.int32)

    @cached_property
    def ends_word(self) -> Bool[np.ndarray, "V"]:
        """Whether the next token begins a word whatever it is: by the end of a line, an
        ideograph, or "</w>"."""
        return _filled(map(_ends_word, self.pieces), self.size)

    @cached_property
    def ends_sentence(self) -> Bool[np.ndarray, "V"]:
        """Whether a token is the punctuation that ends a sentence."""
        return _filled(map(_ends_sentence, self.pieces), self.size) & ~self.special

    @cached_property
    def ideographs(self) -> tuple[str, ...]:
        """The text of each token that is nothing but ideographs, "" of the others; [V]."""
        texts = [surface(p) for p in self.pieces]
        found = [t if all(map(is_ideograph, t)) else "" for t in texts]
        return (*found, *[""] * (self.size - len(found)))

    @cached_property
    def ideographic(self) -> Bool[np.ndarray, "V"]:
        """Whether a token is nothing but ideographs."""
        return np.fromiter(map(bool, self.ideographs), bool)

    def require(self, role: str, purpose: str) -> int:
        """The id of "pad", "bos", "eos", "unk" or "mask". Raises ConfigError where there is
        none."""
        found = getattr(self, f"{role}_id")
        if found is None:
            raise ConfigError(
                f"{purpose} needs a {role} token, and this tokenizer has none: use one that does, "
                "such as wordpiece"
            )
        return found


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """The vocabulary of a tokenizer of any kind; `size` is the tokenizer's, `sentinels` are its
    tokens <extra_id_N>, in order."""
    size = tokenizer.vocab_size
    pieces = tuple(tokenizer.pieces(range(size)))
    numbers = {i: found for i, p in enumerate(pieces) if (found := _SENTINEL.fullmatch(p))}
    sentinels = tuple(sorted(numbers, key=lambda i: int(numbers[i][1])))
    roles = {
        name: getattr(tokenizer, f"{name}_id") for name in ("pad", "bos", "eos", "unk", "mask")
    }
    special = np.zeros(size, bool)
    special[[i for i in roles.values() if i is not None]] = True
    special[list(getattr(tokenizer, "skipped", ()))] = True
    special[list(sentinels)] = True
    # A number that the tokenizer has no token for.
    special[[i for i, piece in enumerate(pieces) if not piece]] = True
    starts = _starts_word(tokenizer.kind, [p for p, s in zip(pieces, special) if not s])
    starts_word = np.ones(size, bool)
    starts_word[~special] = starts
    return Vocabulary(
        size=size,
        **{f"{name}_id": i for name, i in roles.items()},
        special=special,
        starts_word=starts_word,
        sentinels=sentinels,
        pieces=pieces,
    )


def with_sentinels(vocabulary: Vocabulary, count: int, size: int) -> Vocabulary:
    """The vocabulary with `count` sentinels and the model's `size`.

    Where the tokenizer has none, the last ids of the model's vocabulary serve, the last one as the
    first sentinel (T5's order). The ids between are special: nothing draws them.

    Raises:
      ConfigError: a tokenizer with too few, or no room above its ids.
    """
    grown = _grown(vocabulary, size)
    if vocabulary.sentinels:
        if len(vocabulary.sentinels) < count:
            raise ConfigError(
                f"the tokenizer has {len(vocabulary.sentinels)} sentinels <extra_id_N>, fewer than "
                f"the {count} asked for: ask for at most {len(vocabulary.sentinels)}"
            )
        return grown
    if size - count < vocabulary.size:
        raise ConfigError(
            f"{count} sentinels need as many ids above the tokenizer's {vocabulary.size}, and the "
            f"model's vocab_size is {size}: set it to at least {vocabulary.size + count}"
        )
    return dataclasses.replace(grown, sentinels=tuple(range(size - 1, size - 1 - count, -1)))


def with_mask(vocabulary: Vocabulary, size: int) -> Vocabulary:
    """The vocabulary with a mask token: where the tokenizer has none, the first id above its own,
    if the model's vocabulary of `size` has one. To be called before `with_sentinels`.

    Raises:
      ConfigError: no room for it.
    """
    if vocabulary.mask_id is not None:
        return vocabulary
    mask_id = vocabulary.size
    if size <= mask_id:
        raise ConfigError(
            f"the tokenizer has no mask token, and the model's vocab_size {size} has no id above "
            f"the tokenizer's {mask_id} to serve as one: set it to at least {mask_id + 1}"
        )
    return dataclasses.replace(_grown(vocabulary, mask_id + 1), mask_id=mask_id)


def is_ideograph(character: str) -> bool:
    return any(low <= ord(character) <= high for low, high in _IDEOGRAPHS)


def surface(piece: str) -> str:
    """A token's text without the signs for where words begin and end, and without spaces."""
    piece = piece.removesuffix(ENDS)
    if piece.startswith(CONTINUES) and len(piece) > len(CONTINUES):
        piece = piece[len(CONTINUES) :]
    return piece.replace(SPACE, " ").strip()


def _grown(vocabulary: Vocabulary, size: int) -> Vocabulary:
    more = size - vocabulary.size
    if more < 0:
        raise ConfigError(
            f"the tokenizer has {vocabulary.size} ids, more than the model's vocab_size {size}: "
            f"set it to at least {vocabulary.size}"
        )
    return dataclasses.replace(
        vocabulary,
        size=size,
        special=np.pad(vocabulary.special, (0, more), constant_values=True),
        starts_word=np.pad(vocabulary.starts_word, (0, more), constant_values=True),
    )


def _starts_word(kind: str, pieces: Sequence[str]) -> list[bool]:
    """Whether each of a tokenizer's ordinary tokens begins a word."""
    if kind == "words":
        return [True] * len(pieces)
    continued = sum(p.startswith(CONTINUES) and len(p) > len(CONTINUES) for p in pieces)
    spaced = sum(_text(p).startswith((" ", SPACE)) for p in pieces)
    ended = sum(p.endswith(ENDS) for p in pieces)
    most = max(continued, spaced, ended)
    if kind == "wordpiece" or (kind == "huggingface" and most and continued == most):
        return [not p.startswith(CONTINUES) or len(p) == len(CONTINUES) for p in pieces]
    if kind == "huggingface" and not most:
        # Neither spaces nor signs for them: its tokens are words.
        return [True] * len(pieces)
    return [_begins(p) for p in pieces]


def _begins(piece: str) -> bool:
    """Whether a token of a tokenizer that keeps spaces begins a word."""
    if _BYTES.fullmatch(piece):
        byte = int(piece[3:5], 16)
        return byte in _IDEOGRAPH_BYTES or (byte < 128 and chr(byte).isspace())
    first = piece[:1]
    return first == SPACE or first.isspace() or is_ideograph(first)


def _text(piece: str) -> str:
    """The text of a token, also of one that is spelled as bytes."""
    if not _BYTES.fullmatch(piece):
        return piece
    return bytes.fromhex(piece.replace("<0x", "").replace(">", "")).decode("utf-8", "replace")


def _ends_word(piece: str) -> bool:
    """A space goes with the word after it, the end of a line with none."""
    last = _text(piece)[-1:]
    alone = (last.isspace() and last != " ") or (bool(last) and is_ideograph(last))
    return alone or piece.endswith(ENDS)


def _ends_sentence(piece: str) -> bool:
    text = surface(piece).rstrip(_CLOSING)
    return text[-1:] in _SENTENCE_ENDS and not any(map(str.isalnum, text))


def _filled(values: Iterable[bool], size: int) -> Bool[np.ndarray, "V"]:
    """[size]: the values, then False."""
    filled = np.zeros(size, bool)
    known = np.fromiter(values, bool)
    filled[: len(known)] = known
    return filled
