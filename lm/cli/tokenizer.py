"""`lm tokenizer train|encode|decode`: makes a tokenizer from text files; shows what one does."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from lm.config import (
    BPETokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    SentencePieceTokenizer,
    TokenizerConfig,
    WordPieceTokenizer,
    WordsTokenizer,
    from_dict,
)
from lm.errors import ConfigError, UserError, did_you_mean

if TYPE_CHECKING:
    from lm.data.tokenizer import Tokenizer

SUMMARY = "train a tokenizer; encode and decode text"
EXAMPLES = """
lm tokenizer train --input='corpus/*.txt.gz' --kind=bpe --vocab_size=8000 --output=tokenizers/mine
lm tokenizer train --input=a.txt --input='more/*.txt' --kind=character --output=tokenizers/mine
lm tokenizer encode --tokenizer=tokenizers/mine "Hello world"
lm tokenizer encode --tokenizer=tokenizers/mine --lines --pieces < sentences.txt
lm tokenizer encode --tokenizer=tokenizers/mine -- "--a text that begins with a dash"
lm tokenizer decode --tokenizer=tokenizers/mine 15496 995
"""

_MARKED_UP = {".jsonl", ".json", ".tsv", ".csv", ".parquet"}
KINDS: dict[str, type] = {
    "byte": ByteTokenizer,
    "character": CharacterTokenizer,
    "words": WordsTokenizer,
    "bpe": BPETokenizer,
    "wordpiece": WordPieceTokenizer,
    "sentencepiece": SentencePieceTokenizer,
}


def define(values: flags.FlagValues) -> None:
    # The action stands before the flags.
    values.set_gnu_getopt(True)
    options: dict[str, Any] = {"flag_values": values}
    text, switch = flags.DEFINE_string, flags.DEFINE_bool
    flags.DEFINE_multi_string(
        "input",
        None,
        "train: UTF-8 text files (.gz too), a path or a quoted glob; may be given several times",
        **options,
    )
    text("kind", "bpe", f"train: {', '.join(KINDS)}", **options)
    flags.DEFINE_integer("vocab_size", None, "train: tokens in the vocabulary", **options)
    switch("lowercase", None, "train, wordpiece: fold case and accents (default: true)", **options)
    text("model_type", None, "train, sentencepiece: unigram (default) or bpe", **options)
    text("output", None, "train: folder to write the tokenizer to", **options)
    switch("overwrite", False, "train: replace the tokenizer in --output", **options)
    text(
        "tokenizer",
        None,
        "encode, decode: a folder from train, or a tokenizer.json, GPT-2's encoder.json and "
        "vocab.bpe, BERT's vocab.txt, a SentencePiece .model, or the folder of one",
        **options,
    )
    switch("lines", False, "encode, decode: each line of standard input on its own", **options)
    switch("pieces", False, "encode: print [id, piece] instead of id", **options)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    actions = {"train": _train, "encode": _encode, "decode": _decode}
    if not rest:
        raise ConfigError(f"what to do? lm tokenizer {'|'.join(actions)}")
    action, *arguments = rest
    if action not in actions:
        raise ConfigError(f"no action {action!r}{did_you_mean(action, actions)}")
    return actions[action](values, arguments)


def _train(values: flags.FlagValues, arguments: list[str]) -> int:
    from lm.data.tokenizer import train_tokenizer

    if arguments:
        raise ConfigError(f"unexpected argument {arguments[0]!r}; text files are given by --input")
    if not values.output:
        raise ConfigError("where to? give a folder: --output=DIR")
    config = _config(values)
    files = _files(values.input)
    output = Path(values.output)
    # Before the minutes of training.
    _check_output(output, values.overwrite)
    tokenizer = train_tokenizer(config, lambda: _texts(files))
    num_bytes = num_tokens = 0
    for part in (part for text in _texts(files) for part in tokenizer.parts(text)):
        num_bytes += len(part.encode())
        num_tokens += len(tokenizer.encode_to_array(part))
    tokenizer.save(output)
    _remove_other_kinds(tokenizer, output)
    summary = {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "fingerprint": tokenizer.fingerprint,
        "bytes_per_token": round(num_bytes / max(num_tokens, 1), 4),
    }
    print(json.dumps(summary))
    return 0


def _config(values: flags.FlagValues) -> TokenizerConfig:
    if values.kind not in KINDS:
        raise ConfigError(f"--kind: no such kind {values.kind!r}{did_you_mean(values.kind, KINDS)}")
    given = {
        name: values[name].value
        for name in ("vocab_size", "lowercase", "model_type")
        if values[name].value is not None
    }
    return from_dict(KINDS[values.kind], given, f"{values.kind} tokenizer")


def _files(patterns: list[str] | None) -> list[Path]:
    if not patterns:
        raise ConfigError("which text? give files: --input='corpus/*.txt'")
    from lm.data.files import find_files

    try:
        found = find_files(patterns, None)
    except UserError as error:
        hint = "; give --input once for each" if any("," in p for p in patterns) else ""
        raise type(error)(f"--input: {error}{hint}") from None
    for path in found:
        suffix = Path(path.name.removesuffix(".gz")).suffix
        if suffix in _MARKED_UP:
            raise UserError(
                f"--input: {path} is not plain text, and its {suffix[1:]} syntax would be learned "
                "too; write its text to a .txt, or name it as a source in a config with "
                "data.tokenizer.vocab_size, and `lm train` trains a tokenizer on its text"
            )
    return found


def _texts(files: list[Path]) -> Iterator[str]:
    from lm.data.files import read_text

    return map(read_text, files)


def _check_output(output: Path, overwrite: bool) -> None:
    from lm.data.cache import new_beside
    from lm.data.tokenizer import METADATA

    if output.exists() and not output.is_dir():
        raise UserError(f"--output: {output} is a file, not a folder")
    try:
        # The only sure way to know whether it can be made.
        new_beside(output.absolute()).rmdir()
    except OSError as error:
        raise UserError(f"--output: cannot make {output}: {error.strerror}") from None
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not (output / METADATA).exists():
        raise UserError(
            f"--output: {output} is not empty and holds no tokenizer; name another folder"
        )
    if not overwrite:
        raise UserError(f"--output: {output} has a tokenizer already; --overwrite replaces it")


def _remove_other_kinds(tokenizer: Tokenizer, output: Path) -> None:
    """The files of the tokenizer that was there before, where it was of another kind."""
    from lm.data.tokenizer import METADATA, SAVED_FILES

    for name in {*SAVED_FILES} - {METADATA, getattr(tokenizer, "FILE", METADATA)}:
        (output / name).unlink(missing_ok=True)


def _encode(values: flags.FlagValues, arguments: list[str]) -> int:
    tokenizer = _load(values)
    if len(arguments) > 1:
        raise ConfigError(
            f"one text, please: put quotes around it (got {len(arguments)} arguments)"
        )
    if arguments and values.lines:
        raise ConfigError("--lines splits standard input; leave out the text argument")
    text = arguments[0] if arguments else _standard_input()
    if not text:
        raise UserError("nothing to encode: the text is empty")
    for part in _split(text) if values.lines else [text]:
        ids = tokenizer.encode(part)
        shown = list(zip(ids, tokenizer.pieces(ids), strict=True)) if values.pieces else ids
        print(json.dumps(shown, ensure_ascii=False))
    return 0


def _decode(values: flags.FlagValues, arguments: list[str]) -> int:
    tokenizer = _load(values)
    if arguments and values.lines:
        raise ConfigError("--lines splits standard input; leave out the ids")
    text = " ".join(arguments) if arguments else _standard_input()
    if not text.strip():
        raise UserError("nothing to decode: no ids given")
    for part in _split(text) if values.lines else [text]:
        print(tokenizer.decode(_ids(part)))
    return 0


def _load(values: flags.FlagValues) -> Tokenizer:
    from lm.data.tokenizer import load_any

    if not values.tokenizer:
        raise ConfigError("which tokenizer? give its folder or file: --tokenizer=DIR")
    return load_any(values.tokenizer)


def _ids(text: str) -> list[int]:
    """Ids separated by spaces or commas; a JSON list will do."""
    words = [word for word in re.split(r"[\s,\[\]]+", text) if word]
    for word in words:
        if not re.fullmatch(r"[+-]?[0-9]+", word):
            raise ConfigError(f"token ids are whole numbers, got {word!r}")
        if len(word) > 20:
            raise UserError(f"token id {word[:20]}... is outside any vocabulary")
    return [int(word) for word in words]


def _split(text: str) -> list[str]:
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _standard_input() -> str:
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: byte {error.start} is not UTF-8") from None
