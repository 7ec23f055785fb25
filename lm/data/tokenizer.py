"""Tokenizers: built from a config, saved and loaded, and decoded as a stream.

kind            special tokens                          decode(encode(text)) == text
byte            <pad> <bos> <eos>                       always
character       none                                    always (unknown characters are refused)
words           <pad> <bos> <eos> <unk>                 but for white space and unknown words
bpe             <|endoftext|> as bos and eos            always, unless a loaded file normalises
wordpiece       [PAD] [CLS] [SEP] [MASK] [UNK]          no: see lm/data/tokenizers/wordpiece.py
huggingface     the tokenizer.json's                    where it splits bytes and changes nothing
sentencepiece   the model's                             no: see lm/data/tokenizers/sentence_piece.py
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

from lm.config import (
    BPETokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    TokenizerConfig,
    WordPieceTokenizer,
    WordsTokenizer,
    fingerprint,
)
from lm.data.cache import build_folder
from lm.data.tokenizers.base import (
    FORMAT,
    METADATA,
    StreamDecoder,
    Tokenizer,
    TokenizerBase,
    cut_lines,
    read_json,
    utf8,
)
from lm.data.tokenizers.bpe import FILE_PAIRS, ByteLevelBPE, byte_level
from lm.data.tokenizers.huggingface import HuggingFace
from lm.data.tokenizers.sentence_piece import SentencePiece
from lm.data.tokenizers.settings import SETTINGS
from lm.data.tokenizers.simple import Bytes, Characters, Words
from lm.data.tokenizers.wordpiece import WordPiece
from lm.errors import ConfigError, UserError

__all__ = [
    "METADATA",
    "SAVED_FILES",
    "StreamDecoder",
    "Tokenizer",
    "build_tokenizer",
    "load_any",
    "load_tokenizer",
    "spans_of",
    "stream_decoder",
    "train_tokenizer",
]

# Every file that `save` may write.
SAVED_FILES = (
    *(METADATA, Characters.FILE, Words.FILE, ByteLevelBPE.FILE, SentencePiece.FILE, SETTINGS),
)
Texts = Callable[[], Iterator[str]]
# More than any vocabulary; the trainers do not say what is wrong with larger numbers.
_LARGEST = 1 << 24


def build_tokenizer(
    config: TokenizerConfig,
    *,
    data_root: Path,
    cache_dir: Path,
    texts: Texts | None = None,
    texts_fingerprint: str | None = None,
) -> Tokenizer:
    """The tokenizer a config names: loaded from its `path`, or trained on `texts`.

    A relative `path` is below `data_root`; it may also be a folder that `save` wrote. A trained
    tokenizer is kept in `cache_dir`, found again by the config and `texts_fingerprint` (when not
    given, a hash over the texts). `texts` is called once for each pass over the text.

    Raises:
      ConfigError: neither path nor texts, no vocab_size to train to, or one that differs from the
        loaded tokenizer's.
      UserError: a missing or damaged file.
    """
    if isinstance(config, ByteTokenizer):
        return Bytes()
    if config.path is not None:
        return _load_configured(config, _resolve(config.path, Path(data_root)))
    _trained_size(config)
    if texts is None:
        raise ConfigError(
            f"a {config.kind} tokenizer needs tokenizer.path (one to load) or text to train on"
        )
    key = fingerprint(
        {
            "format": FORMAT,
            "config": dataclasses.asdict(config),
            "texts": texts_fingerprint or _hash_texts(texts()),
        }
    )
    folder = Path(cache_dir) / "tokenizers" / f"{config.kind}-{key}"
    train = partial(train_tokenizer, config, texts)
    build_folder(folder, lambda new: cast(TokenizerBase, train()).write(new))
    try:
        return load_tokenizer(folder)
    except UserError as error:
        raise UserError(f"{error}; delete {folder} to train it again") from None


def train_tokenizer(config: TokenizerConfig, texts: Texts) -> Tokenizer:
    """Trains without a cache. Equal texts give equal tokenizers, in any process.

    Raises:
      ConfigError: a vocab_size that these texts cannot fill, or that is missing.
      UserError: texts without a character, or with a lone surrogate.
    """
    if isinstance(config, ByteTokenizer):
        return Bytes()

    def checked() -> Iterator[str]:
        empty = True
        for text in texts():
            utf8(text)
            empty = empty and not text
            # The words of a text are those of its parts, which take the trainers less memory.
            yield from cut_lines(text)
        if empty:
            raise UserError(f"no text to train a {config.kind} tokenizer on: the sources are empty")

    if isinstance(config, CharacterTokenizer):
        return Characters.train(checked())
    vocab_size = _trained_size(config)
    if isinstance(config, WordsTokenizer):
        return Words.train(checked(), vocab_size or None)
    if isinstance(config, BPETokenizer):
        return ByteLevelBPE.train(checked(), vocab_size)
    if isinstance(config, WordPieceTokenizer):
        return WordPiece.train(checked, vocab_size, config.lowercase)
    assert isinstance(config, SentencePieceTokenizer)
    return SentencePiece.train(checked(), vocab_size, config.model_type)


def load_tokenizer(directory: Path | str) -> Tokenizer:
    """Reads what `Tokenizer.save` wrote. Raises UserError for a folder that is none, or damaged."""
    directory = Path(directory)
    if not (directory / METADATA).is_file():
        raise UserError(f"no tokenizer in {directory}: it has no {METADATA}")
    metadata = read_json(directory / METADATA)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise UserError(
            f"{directory / METADATA} is damaged, or of another version: expected format {FORMAT}"
        )
    kind = metadata.get("kind")
    if kind == "byte":
        tokenizer: TokenizerBase = Bytes()
    elif kind == "character":
        tokenizer = Characters.load(directory / Characters.FILE)
    elif kind == "words":
        tokenizer = Words.load(directory / Words.FILE)
    elif kind == "bpe":
        tokenizer = ByteLevelBPE.load(directory / ByteLevelBPE.FILE)
    elif kind == "wordpiece":
        tokenizer = WordPiece.load(directory / WordPiece.FILE)
    elif kind == "sentencepiece":
        tokenizer = SentencePiece.load(directory / SentencePiece.FILE)
    elif kind == "huggingface":
        tokenizer = HuggingFace.load_saved(directory)
    else:
        raise UserError(f"{directory / METADATA}: no such kind of tokenizer: {kind!r}")
    if tokenizer.fingerprint != metadata.get("fingerprint"):
        raise UserError(
            f"the tokenizer in {directory} is damaged: its fingerprint is {tokenizer.fingerprint}, "
            f"{METADATA} says {metadata.get('fingerprint')}"
        )
    return tokenizer


def load_any(path: Path | str) -> Tokenizer:
    """A tokenizer from whatever `path` holds: a saved folder, a .model (SentencePiece), a
    vocab.txt (WordPiece), a tokenizer.json (any kind), GPT-2's two files, or their folder."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"no tokenizer at {path.absolute()}")
    if (path / METADATA).is_file():
        return load_tokenizer(path)
    names = {p.name for p in path.iterdir()} if path.is_dir() else {path.name}
    if any(name.endswith(".model") for name in names):
        return SentencePiece.load(path)
    pair_names = {name for pair in FILE_PAIRS for name in pair}
    if path.is_file() and path.name in pair_names:
        return ByteLevelBPE.load(path)
    if "tokenizer.json" in names or (path.is_file() and path.suffix == ".json"):
        file = path / "tokenizer.json" if path.is_dir() else path
        content = read_json(file)
        model = content.get("model", {}) if isinstance(content, dict) else {}
        if isinstance(model, dict) and model.get("type") == "WordPiece":
            return WordPiece.load(file)
        if _other_model(content):
            return HuggingFace.load(file)
        return ByteLevelBPE.load(path)
    if names & pair_names:
        return ByteLevelBPE.load(path)
    if "vocab.txt" in names or (path.is_file() and path.suffix == ".txt"):
        return WordPiece.load(path)
    raise UserError(
        f"{path} is no tokenizer: expected a folder from `lm tokenizer train`, tokenizer.json, "
        "encoder.json with vocab.bpe, vocab.txt, or a SentencePiece .model"
    )


def _other_model(content: Any) -> bool:
    """Whether a tokenizer.json is neither WordPiece's nor over bytes."""
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or "pre_tokenizer" not in content:
        return False
    return model.get("type") in ("Unigram", "WordLevel") or not byte_level(content["pre_tokenizer"])


def stream_decoder(tokenizer: Tokenizer) -> StreamDecoder:
    """A decoder for tokens as they come: `push(id)` gives finished text, `finish()` the rest."""
    return StreamDecoder(cast(TokenizerBase, tokenizer))


def spans_of(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """The ids of a text, and the characters [begin, end) that each is, or is a part of."""
    return cast(TokenizerBase, tokenizer).encode_with_spans(text)


def _trained_size(config: TokenizerConfig) -> int:
    """The vocabulary to train to; 0 for the kinds that need no number, and have none."""
    if isinstance(config, (ByteTokenizer, CharacterTokenizer)):
        return 0
    if isinstance(config, HuggingFaceTokenizer):
        raise ConfigError("a huggingface tokenizer is loaded, never trained: set tokenizer.path")
    if config.vocab_size is None:
        if isinstance(config, WordsTokenizer):
            return 0
        raise ConfigError(
            f"tokenizer.vocab_size (--vocab_size) is required to train a {config.kind} tokenizer"
        )
    if not 1 <= config.vocab_size <= _LARGEST:
        raise ConfigError(
            f"tokenizer.vocab_size (--vocab_size) must be from 1 to {_LARGEST}, "
            f"not {config.vocab_size}"
        )
    return config.vocab_size


def _resolve(path: str, data_root: Path) -> Path:
    resolved = (data_root / Path(path).expanduser()).absolute()
    if not resolved.exists():
        raise UserError(
            f"no tokenizer at {resolved}: tokenizer.path is {path!r}, and relative paths are below "
            f"the data root, now {data_root.absolute()}; set it with --data_root or LM_DATA"
        )
    return resolved


def _load_configured(config: Any, path: Path) -> Tokenizer:
    tokenizer: Tokenizer
    if (path / METADATA).is_file():
        tokenizer = load_tokenizer(path)
        if tokenizer.kind != config.kind:
            raise ConfigError(
                f"tokenizer.kind is {config.kind!r}, but {path} holds a {tokenizer.kind} tokenizer"
            )
    elif isinstance(config, CharacterTokenizer):
        tokenizer = Characters.load(path / Characters.FILE if path.is_dir() else path)
    elif isinstance(config, WordsTokenizer):
        tokenizer = Words.load(path / Words.FILE if path.is_dir() else path)
    elif isinstance(config, BPETokenizer):
        tokenizer = ByteLevelBPE.load(path)
    elif isinstance(config, WordPieceTokenizer):
        tokenizer = WordPiece.load(path, config.lowercase)
    elif isinstance(config, HuggingFaceTokenizer):
        tokenizer = HuggingFace.load(path)
    else:
        tokenizer = SentencePiece.load(path)
    if isinstance(tokenizer, WordPiece) and tokenizer.lowercase != config.lowercase:
        raise ConfigError(
            f"tokenizer.lowercase is {config.lowercase}, but the tokenizer at {path} was made with "
            f"lowercase={tokenizer.lowercase}; set tokenizer.lowercase={tokenizer.lowercase}"
        )
    wanted = getattr(config, "vocab_size", None)
    if wanted is not None and wanted != tokenizer.vocab_size:
        raise ConfigError(
            f"tokenizer.vocab_size is {wanted}, but the tokenizer at {path} has "
            f"{tokenizer.vocab_size} tokens; unset one of path and vocab_size, or set it to "
            f"{tokenizer.vocab_size}"
        )
    return tokenizer


def _hash_texts(texts: Iterator[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        data = utf8(text)
        # With its length, so that the boundaries between texts count.
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
