"""The safetensors format: 8 bytes with the header's length, a JSON header, the tensors' bytes.

Read and written one tensor at a time, which the library of that name does not offer for numpy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from lm.convert.tensors import Tensor, read_array
from lm.errors import UserError

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
# How a file begins that stands for one in Git's large file storage.
_POINTER = b"version https://git-lfs"
# The format's own limit; a longer header is a damaged length.
_LONGEST_HEADER = 100_000_000


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, none of them read yet.

    Raises:
      UserError: not such a file, a truncated one, or a header that cannot be meant.
    """
    header, begin, size = _read_header(path)
    header.pop("__metadata__", None)
    tensors: dict[str, Tensor] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        where = f"{path}: tensor {name!r}"
        dtype, shape, (first, last) = _entry(entry, where)
        wanted = math.prod(shape) * dtype.itemsize
        if last - first != wanted:
            raise UserError(
                f"{where} has {last - first} bytes, but {dtype} {list(shape)} is {wanted}: the "
                "header is damaged"
            )
        if begin + last > size:
            raise UserError(
                f"{path} is truncated: {size} bytes, but {name!r} ends at {begin + last}; fetch it "
                "again"
            )
        spans.append((first, last, name))
        read = partial(read_array, path, begin + first, shape, dtype)
        tensors[name] = Tensor(shape, dtype, wanted, where, read)
    _check_spans(path, sorted(spans), size - begin)
    return tensors


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header, where the tensors' bytes begin, and the size of the file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            file.seek(0)
            if file.read(len(_POINTER)) == _POINTER:
                raise UserError(
                    f"{path} is a Git LFS pointer, not the tensors themselves: fetch them with "
                    "git lfs pull"
                )
            file.seek(8)
            if size < 8 or length > min(size - 8, _LONGEST_HEADER):
                raise UserError(
                    f"{path} is truncated or no safetensors file: it has {size} bytes, and says "
                    f"that its header has {length}"
                )
            text = file.read(length)
    except OSError as error:
        raise UserError(f"could not read {path}: {error.strerror}") from error
    try:
        header = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: the safetensors header is damaged: {error}") from None
    if not isinstance(header, dict):
        raise UserError(f"{path}: the safetensors header is damaged: it is not a JSON object")
    return header, 8 + length, size


def _entry(entry: Any, where: str) -> tuple[np.dtype, tuple[int, ...], tuple[int, int]]:
    """The dtype, shape and offsets of one tensor, checked."""

    def counts(value: Any) -> bool:
        return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)

    fields = entry if isinstance(entry, dict) else {}
    shape: Any = fields.get("shape")
    offsets: Any = fields.get("data_offsets")
    if not (counts(shape) and counts(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
        raise UserError(f"{where}: the header is damaged: {json.dumps(entry)[:200]}")
    name = fields.get("dtype")
    if not isinstance(name, str) or name not in DTYPES:
        raise UserError(f"{where} has dtype {name}, which is not one of {', '.join(DTYPES)}")
    return DTYPES[name], tuple(shape), (offsets[0], offsets[1])


def _check_spans(path: Path, spans: Sequence[tuple[int, int, str]], size: int) -> None:
    """Every byte belongs to exactly one tensor."""
    end, before = 0, "the header"
    for first, last, name in spans:
        if first != end:
            what = "overlap" if first < end else "have a gap between them"
            raise UserError(f"{path}: {before} and {name!r} {what}: the header is damaged")
        end, before = last, repr(name)
    if end != size:
        raise UserError(f"{path}: {size - end} bytes after the last tensor belong to none")


def write_tensors(
    path: Path,
    specs: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    arrays: Iterable[tuple[str, np.ndarray]],
) -> None:
    """Writes a file whose tensors are known by dtype and shape, from arrays as they come, in the
    same order.

    Raises:
      OSError: the disk is full.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in specs.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for (name, array), wanted in zip(arrays, specs.items(), strict=True):
            assert (name, (array.dtype, array.shape)) == wanted, (name, array.dtype, array.shape)
            _write_array(file, array)


def _write_array(file: BinaryIO, array: np.ndarray) -> None:
    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
