"""Files below the data root: found, hashed, read line by line; errors name file and place."""

from __future__ import annotations

import contextlib
import glob
import gzip
import hashlib
import os
import zlib
from collections.abc import Collection, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

from lm.errors import ConfigError, UserError, did_you_mean

# Where the corpora that the experiments name come from, by the first folder of their path.
ORIGINS = {
    "tinyshakespeare": (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    ),
    "gutenberg_books": "https://www.gutenberg.org",
    "tinystories": "https://huggingface.co/datasets/roneneldan/TinyStories",
    "wikitext2": "https://huggingface.co/datasets/Salesforce/wikitext",
    "zh_poetry": "https://github.com/chinese-poetry/chinese-poetry",
    "multi30k": "https://github.com/multi30k/dataset",
    "pydocs_en_zh": "https://github.com/python/python-docs-zh-cn",
    "glue": "https://gluebenchmark.com/tasks",
    "imdb": "https://ai.stanford.edu/~amaas/data/sentiment/",
    "trec": "https://cogcomp.seas.upenn.edu/Data/QA/QC/",
    "xquad": "https://github.com/google-deepmind/xquad",
    "cmrc2018": "https://github.com/ymcui/cmrc2018",
    "scitldr": "https://github.com/allenai/scitldr",
    "zh_chnsenticorp": "https://github.com/SophonPlus/ChineseNlpCorpus",
}
_BOM = b"\xef\xbb\xbf"
# What the first bytes say of a file that is no UTF-8 text, and what to do.
_RECODE = "convert it: iconv -f {} -t UTF-8"
_SIGNATURES = {
    b"\x1f\x8b": ("gzip", "give its name the ending .gz"),
    b"\xff\xfe": ("UTF-16", _RECODE.format("UTF-16")),
    b"\xfe\xff": ("UTF-16", _RECODE.format("UTF-16")),
}


def find_files(paths: Sequence[str], data_root: Path | None) -> list[Path]:
    """The files that the globs match below `data_root` (absolute ones are taken as they are), in
    the order of the globs and sorted within each; a file matched twice is read once. Without a
    root they are relative to the current folder.

    UserError for a glob without a match, ConfigError when there is no glob at all, or an empty one.
    """
    if not paths:
        raise ConfigError("the source names no files: set its paths, such as ('corpus/*.txt',)")
    found: dict[Path, None] = {}
    root = str(data_root or Path.cwd())
    for pattern in paths:
        if not pattern:
            raise ConfigError("a path of the source is empty: name files, such as 'corpus/*.txt'")
        expanded = os.path.expanduser(pattern)
        full = os.path.join(glob.escape(root), expanded)
        matches = sorted(p for p in glob.glob(full, recursive=True) if os.path.isfile(p))
        if not matches:
            raise UserError(_no_match(pattern, os.path.join(root, expanded), data_root))
        found.update((Path(p), None) for p in matches)
    return list(found)


def _no_match(pattern: str, full: str, data_root: Path | None) -> str:
    if os.path.isdir(full):
        return f"{full} is a folder; name the files in it, such as {pattern.rstrip('/')}/*.txt"
    if data_root is None:
        return f"no file matches {pattern!r} (from {Path.cwd()})"
    lines = [f"no file matches {pattern!r} below the data root {data_root}"]
    if not data_root.is_dir():
        lines.append(f"  (there is no folder {data_root})")
    lines.append("  --data_root=FOLDER or the environment variable LM_DATA says where data is")
    origin = ORIGINS.get(Path(pattern).parts[0] if Path(pattern).parts else "")
    if origin:
        lines.append(f"  this corpus comes from {origin}")
    lines.append("  a source of kind 'embedded' needs no files")
    return "\n".join(lines)


def no_such(what: str, name: str, known: Collection[str]) -> str:
    """`no field 'txt'; did you mean 'text'?`, or with what there is."""
    return f"no {what} {name!r}{did_you_mean(name, known) or ': there is none at all'}"


def file_hashes(files: Sequence[Path]) -> list[tuple[str, int, str]]:
    """(name, size in bytes, SHA-256 of the contents) of each file, read in pieces."""
    hashes = []
    for path in files:
        digest = hashlib.sha256()
        with _os_errors(path), open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
            hashes.append((path.name, stream.tell(), digest.hexdigest()))
    return hashes


def file_stamps(files: Sequence[Path]) -> list[tuple[Path, int, int]]:
    """(file, size in bytes, time of change in ns) of each file."""
    stamps = []
    for path in files:
        with _os_errors(path):
            stat = path.stat()
        stamps.append((path, stat.st_size, stat.st_mtime_ns))
    return stamps


@contextlib.contextmanager
def _os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is not a whole gzip file ({error}); it may be cut off: fetch it again"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


@contextlib.contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """The (unzipped) bytes of a file; UserError where its beginning is not that of UTF-8 text."""
    with _os_errors(path), (gzip.open if path.suffix == ".gz" else open)(path, "rb") as stream:
        head = cast(BufferedReader, stream).peek(4096)[:4096]
        what, advice = _SIGNATURES.get(head[:2], ("", ""))
        # Latin letters have a zero in every second byte of UTF-16; text has next to none.
        if not what and len(head) >= 16 and head.count(0) > len(head) // 4:
            what = "UTF-16 (or no text at all): a quarter of its bytes are zero"
            advice = _RECODE.format("UTF-16LE")
        if what:
            raise UserError(f"{path} is not UTF-8 text but {what}; {advice}")
        yield cast(BinaryIO, stream)


def _decode(data: bytes, path: Path, offset: int, line: int, encoding: str = "utf-8") -> str:
    """`data`, which begins at byte `offset` on line `line` of `path`, as text."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise UserError(
            f"{path} is not UTF-8 at byte {offset + error.start} (line {line}): "
            f"0x{data[error.start]:02x}, {error.reason}; convert the file to UTF-8 "
            "(iconv -f <its encoding> -t UTF-8) or repair that line"
        ) from None


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The whole file as text, as it is but for a byte-order mark at its beginning."""
    with _open(path) as stream:
        data = stream.read()
    mark = len(_BOM) if data.startswith(_BOM) else 0
    return _decode(data[mark:], path, mark, 1, encoding)


def read_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """(number from 1, text without its ending) of each line; only "\\n" and "\\r\\n" end one."""
    offset = 0
    with _open(path) as stream:
        for number, raw in enumerate(stream, 1):
            mark = len(_BOM) if number == 1 and raw.startswith(_BOM) else 0
            text = _decode(raw[mark:], path, offset + mark, number, encoding)
            offset += len(raw)
            yield number, text.removesuffix("\n").removesuffix("\r")
