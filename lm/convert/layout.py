"""How a reference's tensors lie in memory, and how that becomes lm's parameters and back.

A `Plan` is the whole correspondence for one model: every parameter of lm's stands in exactly one
`Rule`, and every tensor of a checkpoint in a rule, among the duplicates, or among the ignored.
Layouts only move numbers: they never cast, and may return views.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

Shape = tuple[int, ...]
# lm's dimension h of a head is the reference's dimension order[h]; None where they are the same.
Order = tuple[int, ...] | None


class Layout(Protocol):
    """One reference tensor, and the lm parameters (often one) that hold the same numbers."""

    def to_lm(self, reference: np.ndarray) -> tuple[np.ndarray, ...]:
        """The parameters of a reference tensor that has `reference_shape`."""
        ...

    def to_reference(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """The reference tensor of the parameters: the inverse of `to_lm`."""
        ...

    def reference_shape(self, shapes: Sequence[Shape]) -> Shape:
        """The reference tensor's shape where the parameters have these."""
        ...


@dataclass(frozen=True)
class Rule:
    """`reference`: the tensor's name there; `parameters`: paths here, joined by "/"."""

    reference: str
    parameters: tuple[str, ...]
    layout: Layout


class Plan(NamedTuple):
    """All tensors of one model's reference checkpoint.

    `duplicates`: reference name -> name of the tensor it must equal, for tied weights that a
    checkpoint may hold twice; they may be absent, and are never written. `ignored`: regex that
    matches whole reference names -> why they hold nothing that was learned.
    """

    rules: tuple[Rule, ...]
    duplicates: Mapping[str, str] = MappingProxyType({})
    ignored: Mapping[str, str] = MappingProxyType({})


class Single(ABC):
    """A layout of one parameter: `read` and `write` are inverses, `shape` is `write`'s."""

    @abstractmethod
    def read(self, reference: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def write(self, array: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def shape(self, shape: Shape) -> Shape: ...

    def to_lm(self, reference: np.ndarray) -> tuple[np.ndarray, ...]:
        return (self.read(reference),)

    def to_reference(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        (array,) = arrays
        return self.write(array)

    def reference_shape(self, shapes: Sequence[Shape]) -> Shape:
        (shape,) = shapes
        return self.shape(shape)


@dataclass(frozen=True)
class Same(Single):
    """The same axes in the same order: embeddings, norms, biases, and Conv1D's [in, out]."""

    def read(self, reference: np.ndarray) -> np.ndarray:
        return reference

    def write(self, array: np.ndarray) -> np.ndarray:
        return array

    def shape(self, shape: Shape) -> Shape:
        return shape


@dataclass(frozen=True)
class Transposed(Single):
    """lm's axis i is the reference's axis `axes`[i]."""

    axes: tuple[int, ...] = (1, 0)

    def read(self, reference: np.ndarray) -> np.ndarray:
        return reference.transpose(self.axes)

    def write(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(np.argsort(self.axes))

    def shape(self, shape: Shape) -> Shape:
        return tuple(shape[i] for i in np.argsort(self.axes))


@dataclass(frozen=True)
class Leading(Single):
    """The reference has `count` more axes, of length 1, before lm's."""

    count: int = 1

    def read(self, reference: np.ndarray) -> np.ndarray:
        return reference.reshape(reference.shape[self.count :])

    def write(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(self.shape(array.shape))

    def shape(self, shape: Shape) -> Shape:
        return (1,) * self.count + shape


@dataclass(frozen=True)
class HeadsOut(Single):
    """A projection to heads: [N*H, D] (Conv1D: [D, N*H]) there, [D, N, H] here."""

    heads: int
    width: int
    order: Order = None
    conv1d: bool = False

    def read(self, reference: np.ndarray) -> np.ndarray:
        kernel = reference if self.conv1d else reference.T
        return reordered(kernel.reshape(kernel.shape[0], self.heads, self.width), self.order)

    def write(self, array: np.ndarray) -> np.ndarray:
        kernel = reordered(array, inverse(self.order)).reshape(array.shape[0], -1)
        return kernel if self.conv1d else kernel.T

    def shape(self, shape: Shape) -> Shape:
        outer, heads, width = shape
        return (outer, heads * width) if self.conv1d else (heads * width, outer)


@dataclass(frozen=True)
class HeadsIn(Single):
    """A projection from heads: [D, N*H] (Conv1D: [N*H, D]) there, [N, H, D] here."""

    heads: int
    width: int
    conv1d: bool = False

    def read(self, reference: np.ndarray) -> np.ndarray:
        kernel = reference if self.conv1d else reference.T
        return kernel.reshape(self.heads, self.width, kernel.shape[1])

    def write(self, array: np.ndarray) -> np.ndarray:
        kernel = array.reshape(-1, array.shape[2])
        return kernel if self.conv1d else kernel.T

    def shape(self, shape: Shape) -> Shape:
        heads, width, outer = shape
        return (heads * width, outer) if self.conv1d else (outer, heads * width)


@dataclass(frozen=True)
class HeadsBias(Single):
    """A bias of the heads: [N*H] there, [N, H] here."""

    heads: int
    width: int
    order: Order = None

    def read(self, reference: np.ndarray) -> np.ndarray:
        return reordered(reference.reshape(self.heads, self.width), self.order)

    def write(self, array: np.ndarray) -> np.ndarray:
        return reordered(array, inverse(self.order)).reshape(-1)

    def shape(self, shape: Shape) -> Shape:
        heads, width = shape
        return (heads * width,)


@dataclass(frozen=True)
class HeadVector(Single):
    """One number for each dimension of a head, [H] on both sides: the scale of `qk_norm`."""

    order: Order = None

    def read(self, reference: np.ndarray) -> np.ndarray:
        return reordered(reference, self.order)

    def write(self, array: np.ndarray) -> np.ndarray:
        return reordered(array, inverse(self.order))

    def shape(self, shape: Shape) -> Shape:
        return shape


@dataclass(frozen=True)
class Fused:
    """Several parameters side by side on the reference's `axis` (GPT-2's query, key and value).

    `sizes[i]` is the length on that axis of part i, which has layout `parts[i]`.
    """

    parts: tuple[Single, ...]
    sizes: tuple[int, ...]
    axis: int = 0

    def to_lm(self, reference: np.ndarray) -> tuple[np.ndarray, ...]:
        pieces = np.split(reference, np.cumsum(self.sizes)[:-1], axis=self.axis)
        return tuple(part.read(piece) for part, piece in zip(self.parts, pieces, strict=True))

    def to_reference(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        pieces = [part.write(array) for part, array in zip(self.parts, arrays, strict=True)]
        return np.concatenate(pieces, axis=self.axis)

    def reference_shape(self, shapes: Sequence[Shape]) -> Shape:
        pieces = [part.shape(shape) for part, shape in zip(self.parts, shapes, strict=True)]
        total = sum(piece[self.axis] for piece in pieces)
        return (*pieces[0][: self.axis], total, *pieces[0][self.axis + 1 :])


SAME = Same()
LINEAR = Transposed()  # a torch Linear's weight [out, in] there, a kernel [in, out] here


def rotary_order(width: int, *, reference: bool, here: bool, rotated: int | None = None) -> Order:
    """The order of a head's dimensions where rotary positions pair others there than here.

    Args:
      width: of the head.
      reference: whether the reference pairs neighbours (GGUF's llama, llama2.c) rather than
        dimension i with i + half (Hugging Face).
      here: the same of lm's parameters: the config's `position.interleaved`.
      rotated: the number of dimensions that are rotated, the first ones; None is all.
    """
    if reference == here:
        return None
    rotated = width if rotated is None else rotated
    # Row i of `pairs` is the i-th pair that turns together, in an interleaved head.
    pairs = np.arange(rotated).reshape(-1, 2)
    order = pairs.T.reshape(-1) if reference else np.argsort(pairs.T.reshape(-1))
    return (*order.tolist(), *range(rotated, width))


def inverse(order: Order) -> Order:
    return None if order is None else tuple(np.argsort(order).tolist())


def reordered(array: np.ndarray, order: Order) -> np.ndarray:
    """The last axis in another order."""
    return array if order is None else array[..., list(order)]
