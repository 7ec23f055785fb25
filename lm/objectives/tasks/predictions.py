"""From many examples to their answers, in batches of one shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from lm.types import Features, Params


def predictions(
    objective: TaskObjective,
    params: Params,
    maker: ExampleMaker,
    examples: Sequence[Example],
    *,
    batch_size: int,
) -> Iterator[tuple[Encoded, dict[str, Any]]]:
    """What became of every example (`Encoded.left_out`: tokens that were cut), and its answer, in
    order. On the default device.

    Raises:
      UserError: an example that lacks something, as `ExampleMaker` says.
    """
    encoded = [maker(example, labelled=False) for example in examples]
    rows = (row for found in encoded for row in found.rows)
    predict = jax.jit(partial(objective.predict, params))
    values = _by_row(predict, rows, batch_size)
    for example, found in zip(examples, encoded, strict=True):
        own = list(islice(values, len(found.rows)))
        yield found, objective.answer(example, found, stack(own))


def _by_row(predict: Any, rows: Iterator[Features], batch_size: int) -> Iterator[Features]:
    """What is predicted of each row; the last batch is filled up with padding."""
    while group := list(islice(rows, batch_size)):
        padding = [padding_like(group[0])] * (batch_size - len(group))
        found = {name: np.asarray(x) for name, x in predict(stack([*group, *padding])).items()}
        for index in range(len(group)):
            yield {name: values[index] for name, values in found.items()}
