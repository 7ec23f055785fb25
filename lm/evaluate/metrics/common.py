"""What every metric shares: its shape, and the checks of what it is given."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lm.errors import ConfigError, UserError

# A sequence or an array, one item an example.
Values = Any
Scores = dict[str, float]
Metric = Callable[[Values, Values], Scores]


def as_list(values: Values, name: str) -> list[Any]:
    """The items as Python objects, so that 1, np.int64(1) and an element of an array are equal.

    Raises:
      UserError: a single text or number stands where a sequence of examples should.
    """
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise UserError(f"{name} must be a sequence, one item an example, not {values!r:.80}")
    return [item.item() if isinstance(item, np.generic) else item for item in values]


def pairs(predictions: Values, references: Values) -> tuple[list[Any], list[Any]]:
    """Both as lists of one length.

    Raises:
      UserError: no examples, or not as many of one as of the other.
    """
    found, wanted = as_list(predictions, "predictions"), as_list(references, "references")
    check_lengths(len(found), len(wanted))
    return found, wanted


def check_lengths(predictions: int, references: int) -> None:
    """Raises UserError where there are no examples, or not as many of one as of the other."""
    if predictions != references:
        raise UserError(
            f"{predictions} predictions for {references} references: there must be one for each"
        )
    if not references:
        raise UserError("no examples: there is nothing to measure")


def number_array(values: Values, name: str, dimensions: int = 1) -> np.ndarray:
    """Finite float64 of so many dimensions.

    Raises:
      UserError: not numbers, another shape, or a value that is not finite.
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} must be numbers: {error}") from error
    if array.ndim != dimensions:
        raise UserError(f"{name} must have {dimensions} dimension(s), not the shape {array.shape}")
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0]
        raise UserError(f"{name}{where.tolist()} is {array[tuple(where)]}, not a finite number")
    return array


def texts(values: list[Any], name: str) -> list[str]:
    """The same list, if each is a text.

    Raises:
      UserError: one is something else.
    """
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise UserError(f"{name}[{index}] must be a text, not {value!r:.80}")
    return values


def text_lists(values: list[Any], name: str) -> list[list[str]]:
    """Each example's texts: a single one stands for a list of one.

    Raises:
      UserError: an example's is neither.
    """
    lists = []
    for index, value in enumerate(values):
        several = [value] if isinstance(value, str) else value
        lists.append(texts(as_list(several, f"{name}[{index}]"), f"{name}[{index}]"))
    return lists


def compared_texts(predictions: Values, references: Values) -> tuple[list[str], list[list[str]]]:
    """Texts, and the one or several that each is compared with.

    Raises:
      UserError: something else, or an example without a reference.
    """
    found, wanted = pairs(predictions, references)
    lists = text_lists(wanted, "references")
    for index, some in enumerate(lists):
        if not some:
            raise UserError(f"references[{index}]: there is no reference to compare with")
    return texts(found, "predictions"), lists


def ngrams(words: Sequence[Any], order: int) -> Counter[tuple[Any, ...]]:
    """How often each stretch of `order` words occurs."""
    return Counter(zip(*(words[start:] for start in range(order))))


def ratio(numerator: float | int, denominator: float | int) -> float:
    """Their ratio, and 0 where the denominator is 0 (scikit-learn's zero_division=0)."""
    return float(numerator / denominator) if denominator else 0.0


def optional(module: str, package: str) -> Any:
    """A module of the extra `eval`.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise ConfigError(
            f"this metric needs {package}, which is not installed: pip install 'lm[eval]', or pip "
            f"install {package}"
        ) from None
