"""What every predictor offers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from lm.data.examples_read import Example
from lm.errors import UserError
from lm.predict.roles import Forms, forms_of, from_value
from lm.train.workdir import Run


class Predictor:
    """Answers examples with the model of a run, in batches, on the default device.

    What an example has says `lm.predict.roles`, and what an answer has the predictor's class. With
    "left_out", n tokens of the example did not fit what the model reads, and were cut.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.forms: Forms = forms_of(run.config)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what an example needs; see `lm.predict.roles` for what it may have."""
        return self.forms[0].inputs

    def answers(self, examples: Iterable[Example]) -> Iterator[dict[str, Any]]:
        """An answer an example, as JSON values, in order and as they become known. Neither the
        other examples nor their number matter, up to rounding; targets are not read.

        Raises:
          UserError: an example that lacks something; the message names its place.
        """
        raise NotImplementedError

    def predict(self, x: Any) -> Any:
        """The answer to one example, or to each of a list of them.

        Args:
          x: a text, where an example needs no more; a tuple of its inputs; or a mapping of roles,
            {"question": ..., "context": ...}. A list is always one of examples.

        Raises:
          UserError: see `answers`.
        """
        if not isinstance(x, list):
            [answer] = self.answers([from_value(x, self.forms, "the example")])
            return answer
        places = (f"example {number}" for number in range(1, len(x) + 1))
        return list(self.answers([from_value(v, self.forms, p) for v, p in zip(x, places)]))


@contextmanager
def placed(example: Example) -> Iterator[None]:
    """Puts the example's place before what a UserError says, where it does not say it."""
    try:
        yield
    except UserError as error:
        if example.place not in str(error):
            error.args = (f"{example.place}: {error}",)
        raise
