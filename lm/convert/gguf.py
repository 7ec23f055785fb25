"""GGUF files (llama.cpp's): metadata, then tensors, some of them in blocks of small integers."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from lm.convert.tensors import Tensor, read_array
from lm.errors import UserError

MAGIC = b"GGUF"
_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4


class Block(NamedTuple):
    """How a type stores `elements` numbers in one record of `layout`."""

    name: str
    elements: int
    layout: np.dtype
    decode: Callable[[np.ndarray], np.ndarray]


def _plain(records: np.ndarray) -> np.ndarray:
    return records


def _q8_0(records: np.ndarray) -> np.ndarray:
    return records["q"].astype(np.float32) * records["d"].astype(np.float32)[:, None]


def _nibbles(records: np.ndarray) -> np.ndarray:
    """The 32 four-bit numbers of each record: the low halves of its 16 bytes, then the high."""
    packed = records["q"]
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _q4_0(records: np.ndarray) -> np.ndarray:
    values = _nibbles(records).astype(np.float32) - 8.0
    return values * records["d"].astype(np.float32)[:, None]


def _q4_1(records: np.ndarray) -> np.ndarray:
    values = _nibbles(records).astype(np.float32)
    scale, low = (records[name].astype(np.float32)[:, None] for name in "dm")
    return values * scale + low


_BLOCKS = {
    0: Block("F32", 1, np.dtype("<f4"), _plain),
    1: Block("F16", 1, np.dtype("<f2"), _plain),
    30: Block("BF16", 1, np.dtype(ml_dtypes.bfloat16), _plain),
    2: Block("Q4_0", 32, np.dtype([("d", "<f2"), ("q", "u1", 16)]), _q4_0),
    3: Block("Q4_1", 32, np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)]), _q4_1),
    8: Block("Q8_0", 32, np.dtype([("d", "<f2"), ("q", "i1", 32)]), _q8_0),
}
# To name what is not read.
_OTHERS = {
    6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K",
    15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


class File(NamedTuple):
    """What a file holds: metadata by key, and tensors by name, none of them read yet."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read_file(path: Path) -> File:
    """The metadata and tensors of a GGUF file, version 2 or 3. Raises UserError for another file,
    a damaged or truncated one, or tensors of a type that is not read."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            metadata, infos, begin = _header(_Cursor(file, path, size))
    except OSError as error:
        raise UserError(f"could not read {path}: {error.strerror}") from error
    tensors: dict[str, Tensor] = {}
    for name, shape, kind, offset in infos:
        where = f"{path}: tensor {name!r}"
        if name in tensors:
            raise UserError(f"{where} is there twice: the file is damaged")
        if kind not in _BLOCKS:
            known = ", ".join(block.name for block in _BLOCKS.values())
            raise UserError(
                f"{where} is of type {_OTHERS.get(kind, kind)}; lm reads {known}. Get the model in "
                "one of these (llama.cpp: llama-quantize --allow-requantize IN OUT Q8_0)"
            )
        block = _BLOCKS[kind]
        count = math.prod(shape)
        if count % block.elements or (shape and shape[-1] % block.elements):
            raise UserError(f"{where}: {list(shape)} is not made of {block.name}'s blocks of 32")
        records = count // block.elements
        num_bytes = records * block.layout.itemsize
        if begin + offset + num_bytes > size:
            raise UserError(
                f"{path} is truncated: {size} bytes, but {name!r} ends at "
                f"{begin + offset + num_bytes}; fetch it again"
            )
        read = partial(_read, path, begin + offset, records, block, shape)
        dtype = block.layout if block.elements == 1 else np.dtype(np.float32)
        tensors[name] = Tensor(shape, dtype, num_bytes, where, read)
    return File(metadata, tensors)


def _read(
    path: Path, offset: int, records: int, block: Block, shape: tuple[int, ...]
) -> np.ndarray:
    if block.elements == 1:
        return read_array(path, offset, shape, block.layout)
    out = np.empty((records, block.elements), np.float32)
    # In portions: decoding takes a few copies of what it decodes.
    portion = 1 << 18
    for first in range(0, records, portion):
        count = min(portion, records - first)
        raw = read_array(path, offset + first * block.layout.itemsize, (count,), block.layout)
        out[first : first + count] = block.decode(raw)
    return out.reshape(shape)


Info = tuple[str, tuple[int, ...], int, int]


class _Cursor:
    """Numbers and strings from a file, refusing to read past its end."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self._file, self._path, self._size = file, path, size

    def bytes(self, count: int, what: str) -> bytes:
        if count > self._size - self._file.tell():
            raise UserError(f"{self._path} is truncated or damaged: it ends within {what}")
        return self._file.read(count)

    def number(self, letter: str, what: str) -> Any:
        layout = "<" + letter
        return struct.unpack(layout, self.bytes(struct.calcsize(layout), what))[0]

    def string(self, what: str) -> str:
        data = self.bytes(self.number("Q", what), what)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{self._path} is damaged: {what} is not UTF-8") from None

    def value(self, kind: int, what: str) -> Any:
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            inner, count = self.number("I", what), self.number("Q", what)
            if inner in _SCALARS:
                layout = "<" + _SCALARS[inner]
                data = self.bytes(struct.calcsize(layout) * count, what)
                return [number for (number,) in struct.iter_unpack(layout, data)]
            if inner not in (_STRING, _ARRAY) or count > self._size:
                raise self.damaged(f"{what} is an array of type {inner}")
            return [self.value(inner, what) for _ in range(count)]
        if kind not in _SCALARS:
            raise self.damaged(f"{what} is of type {kind}")
        return self.number(_SCALARS[kind], what)

    def damaged(self, why: str) -> UserError:
        return UserError(f"{self._path} is damaged: {why}")

    def position(self) -> int:
        return self._file.tell()


def _header(cursor: _Cursor) -> tuple[dict[str, Any], list[Info], int]:
    """Metadata, the tensors' (name, shape, type, offset), and where their bytes begin."""
    if cursor.bytes(4, "the header") != MAGIC:
        raise cursor.damaged("it does not begin with GGUF, so it is no GGUF file")
    version = cursor.number("I", "the header")
    if version not in (2, 3):
        other = "big-endian" if version in (2 << 24, 3 << 24) else f"version {version}"
        raise cursor.damaged(f"it is {other}; lm reads little-endian GGUF, versions 2 and 3")
    num_tensors, num_values = (cursor.number("Q", "the header") for _ in range(2))
    metadata: dict[str, Any] = {}
    for _ in range(num_values):
        key = cursor.string("a metadata key")
        metadata[key] = cursor.value(cursor.number("I", f"metadata {key!r}"), f"metadata {key!r}")
    infos: list[Info] = []
    for _ in range(num_tensors):
        name = cursor.string("a tensor's name")
        what = f"the description of tensor {name!r}"
        dimensions = cursor.number("I", what)
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            raise cursor.damaged(f"tensor {name!r} has {dimensions} dimensions")
        # The fastest dimension comes first.
        shape = tuple(cursor.number("Q", what) for _ in range(dimensions))[::-1]
        infos.append((name, shape, cursor.number("I", what), cursor.number("Q", what)))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0:
        raise cursor.damaged(f"general.alignment is {alignment!r}")
    return metadata, infos, -(-cursor.position() // alignment) * alignment


def text_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata without its long lists (the vocabulary), for a record of where a model is
    from."""
    return {
        key: value
        for key, value in metadata.items()
        if not (isinstance(value, list) and len(value) > 64)
    }
