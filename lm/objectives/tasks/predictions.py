"""From many examples to their answers, in batches of one shape."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import jax
import numpy as np

from lm.data.examples import Encoded, ExampleMaker
from lm.data.examples_read import Example
from lm.data.rows import stack
from lm.data.validation import padding_like
from lm.objectives.base import TaskObjective
from lm.types import Batch, Features, Params


def predictions(
    objective: TaskObjective,
    params: Params,
    maker: ExampleMaker | Callable[..., Encoded],
    examples: Iterable[Example],
    *,
    batch_size: int,
) -> Iterator[tuple[Encoded, dict[str, Any]]]:
    """What became of every example (`Encoded.left_out`: tokens that were cut), and its answer, in
    order; examples are asked for as they are needed. On the default device. A batch that is not
    full has a power of two of rows, to compile rarely.

    Raises:
      UserError: an example that lacks something, as `ExampleMaker` says.
    """
    waiting: deque[tuple[Example, Encoded]] = deque()

    def rows() -> Iterator[Features]:
        for example in examples:
            waiting.append((example, maker(example, labelled=False)))
            yield from waiting[-1][1].rows

    own: list[Features] = []
    for values in _by_row(partial(_predict, objective, params), rows(), batch_size):
        own.append(values)
        example, encoded = waiting[0]
        if len(own) == len(encoded.rows):
            yield encoded, objective.answer(example, encoded, stack(own))
            waiting.popleft()
            own = []


# Not a program for each call: whoever asks again and again has it compiled.
@partial(jax.jit, static_argnums=0)
def _predict(objective: TaskObjective, params: Params, batch: Batch) -> dict[str, jax.Array]:
    return objective.predict(params, batch)


def _by_row(predict: Any, rows: Iterator[Features], batch_size: int) -> Iterator[Features]:
    """What is predicted of each row; a batch is filled up with padding."""
    while group := list(islice(rows, batch_size)):
        size = min(batch_size, 1 << (len(group) - 1).bit_length())
        padding = [padding_like(group[0])] * (size - len(group))
        found = {name: np.asarray(x) for name, x in predict(stack([*group, *padding])).items()}
        for index in range(len(group)):
            yield {name: values[index] for name, values in found.items()}
