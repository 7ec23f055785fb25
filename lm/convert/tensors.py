"""A checkpoint of another library: its config and its tensors by name, read one at a time."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lm.data.tokenizer import Tokenizer
from lm.errors import UserError

LOG_SECONDS = 10.0


@dataclass(frozen=True)
class Tensor:
    """A tensor that is still in its file: `read` gives it in a buffer of its own, so that no more
    than one need be in memory. `where` names it in messages; `num_bytes` is its size on disk."""

    shape: tuple[int, ...]
    dtype: np.dtype
    num_bytes: int
    where: str
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Reference:
    """A checkpoint as a Hugging Face folder would hold it, whatever the format of its file.

    `config` is config.json's content; `tensors` have the names and layouts of that library.
    `tokenizer` reads the tokenizer, `wraps` what it puts around a text ("add_bos", "add_eos").
    `metadata` is what else the file says of itself.
    """

    format: str
    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    files: tuple[Path, ...]
    tokenizer: Callable[[], Tokenizer]
    wraps: Callable[[], Mapping[str, bool]] = dict
    metadata: Mapping[str, Any] = field(default_factory=dict)


def read_array(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Elements from `offset` (bytes) of a file. Not mapped: mapped pages would count as memory.

    Raises:
      UserError: the file cannot be read or ends before.
    """
    array = np.empty(shape, dtype)
    buffer = memoryview(array.reshape(-1).view(np.uint8).data)
    done = 0
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            while done < len(buffer):
                count = file.readinto(buffer[done:])
                if not count:
                    raise UserError(f"{path} changed while it was read: it ends too early now")
                done += count
    except OSError as error:
        raise UserError(f"could not read {path}: {error.strerror}") from error
    return array


def sha256(path: Path) -> str:
    """Raises UserError where the file cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"could not read {path}: {error.strerror}") from error


class ByteProgress:
    """Bytes done, on stderr: a bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._began = self._printed = time.monotonic()
        self._bar = (
            tqdm(total=total, desc=what, unit="B", unit_scale=True, dynamic_ncols=True)
            if sys.stderr.isatty()
            else None
        )

    def update(self, num_bytes: int) -> None:
        self._done += num_bytes
        if self._bar is not None:
            self._bar.update(num_bytes)
            return
        now = time.monotonic()
        if now - self._printed >= LOG_SECONDS:
            self._printed = now
            rate = self._done / (now - self._began)
            print(
                f"{self._what}: {self._done / 1e9:.2f} of {self._total / 1e9:.2f} GB, "
                f"{rate / 1e6:.0f} MB/s",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
