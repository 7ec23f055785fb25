"""WordPiece with BERT's normalisation (Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, trainers

from lm.data.tokenizers.base import read_text
from lm.data.tokenizers.library import LibraryTokenizer, check_size, load_backend
from lm.errors import UserError

PREFIX = "##"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class WordPiece(LibraryTokenizer):
    """WordPiece. Not lossless.

    The normaliser drops control characters and, with `lowercase`, case and accents; white space
    is only kept as word boundaries, and words out of reach of the vocabulary become [UNK].
    `decode` puts one space between words, and none between two Chinese characters, which the
    normaliser had set apart.
    """

    kind = "wordpiece"
    model_type = "WordPiece"

    def __init__(self, backend: tokenizers.Tokenizer, origin: str = "the tokenizer") -> None:
        super().__init__(backend, origin)
        self.set_special(
            pad=("[PAD]",), bos=("[CLS]",), eos=("[SEP]",), unk=("[UNK]",), mask=("[MASK]",)
        )
        if self.unk_id is None:
            raise UserError(f"{origin}: the vocabulary lacks [UNK]")
        self.lowercase = _lowercases(self.spec["normalizer"])
        kinds = [(self.spec[key] or {}).get("type") for key in ("normalizer", "pre_tokenizer")]
        self.cuts_lines = kinds == ["BertNormalizer", "BertPreTokenizer"] and all(
            a["special"] for a in self.spec["added_tokens"]
        )

    @classmethod
    def train(
        cls, texts: Callable[[], Iterable[str]], vocab_size: int, lowercase: bool
    ) -> WordPiece:
        """`vocab_size` tokens by merging frequent pairs inside words; reads `texts` twice."""
        backend = _bert(models.WordPiece(unk_token="[UNK]"), lowercase)
        # The trainer numbers the ## characters in an order that changes from process to process,
        # and ties between merges follow the numbers. Handing them over as special tokens, sorted,
        # fixes the order; the tokenizer built from the vocabulary has them as ordinary tokens.
        continuing = [PREFIX + c for c in sorted(_continuing_characters(backend, texts()))]
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size, special_tokens=[*SPECIAL, *continuing], show_progress=False
        )
        backend.train_from_iterator(texts(), trainer)
        check_size(backend, vocab_size)
        return cls(from_vocabulary(backend.get_vocab(with_added_tokens=True), lowercase))

    @classmethod
    def load(cls, path: Path, lowercase: bool = True) -> WordPiece:
        """From a tokenizer.json, which says whether it folds case, or a vocab.txt (a token a
        line), which does so with `lowercase`; or a folder with one."""
        if path.is_dir():
            names = [n for n in (cls.FILE, "vocab.txt") if (path / n).exists()]
            if not names:
                raise UserError(
                    f"{path} has neither a tokenizer.json nor a vocab.txt for WordPiece"
                )
            path = path / names[0]
        if path.suffix == ".json":
            return cls(load_backend(path), str(path))
        lines = read_text(path).replace("\r\n", "\n").removesuffix("\n").split("\n")
        vocabulary = {token: number for number, token in enumerate(lines)}
        if "[UNK]" not in vocabulary:
            raise UserError(f"{path}: no line is [UNK]; is this a WordPiece vocab.txt?")
        if len(vocabulary) != len(lines):
            twice = next(t for n, t in enumerate(lines) if vocabulary[t] != n)
            raise UserError(f"{path}: the token {twice!r} is there twice")
        return cls(from_vocabulary(vocabulary, lowercase), str(path))

    def decoder(self) -> Callable[[int], bytes]:
        return join_words(self.tokens)


def join_words(tokens: Sequence[str]) -> Callable[[int], bytes]:
    """A decoder that puts a space between words, and none between two Chinese characters."""
    started = after_chinese = False

    def add(token_id: int) -> bytes:
        nonlocal started, after_chinese
        text, continues, begins_chinese, ends_chinese = _part(tokens[token_id])
        joined = not started or continues or (after_chinese and begins_chinese)
        started, after_chinese = True, ends_chinese
        return text if joined else b" " + text

    return add


def _part(token: str) -> tuple[bytes, bool, bool, bool]:
    """(bytes, does it go on a word, does it begin and end with a Chinese character) of a token."""
    continues = token.startswith(PREFIX) and len(token) > len(PREFIX)
    text = token[len(PREFIX) :] if continues else token
    return text.encode(), continues, _is_chinese(text[:1]), _is_chinese(text[-1:])


def _bert(model: models.Model, lowercase: bool) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend


def from_vocabulary(vocabulary: dict[str, int], lowercase: bool) -> tokenizers.Tokenizer:
    backend = _bert(models.WordPiece(vocabulary, unk_token="[UNK]"), lowercase)
    named = [name for name in SPECIAL if name in vocabulary]
    backend.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in named])
    return backend


def _lowercases(normalizer: dict | None) -> bool:
    """Whether a normaliser of a tokenizer.json (or one of a sequence) folds case."""
    if normalizer is None:
        return False
    if normalizer["type"] == "Sequence":
        return any(map(_lowercases, normalizer["normalizers"]))
    return normalizer["type"] == "Lowercase" or bool(normalizer.get("lowercase"))


def _continuing_characters(backend: tokenizers.Tokenizer, texts: Iterable[str]) -> set[str]:
    """Every character that follows another one within a word."""
    return {c for word in _words(backend, texts) for c in word[1:]}


def _words(backend: tokenizers.Tokenizer, texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        split = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
        yield from {word for word, _ in split}


def _is_chinese(character: str) -> bool:
    """The blocks of ideographs that BERT's normaliser surrounds with spaces."""
    if not character:
        return False
    code = ord(character)
    blocks = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F))
    return any(low <= code <= high for low, high in blocks)
