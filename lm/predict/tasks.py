"""Predictions of tasks whose answers are no text to be generated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lm.data.examples import Encoded
from lm.data.examples_read import Example
from lm.objectives.base import TaskObjective
from lm.objectives.tasks.predictions import predictions
from lm.predict.base import Predictor, placed
from lm.predict.roles import picked
from lm.train.workdir import Run


class TaskPredictor(Predictor):
    """Answers as the run's objective gives them: see "Answers" at the classes of
    `lm.objectives.tasks`, such as {"label", "probabilities"}."""

    def __init__(self, run: Run, objective: TaskObjective, *, batch_size: int) -> None:
        super().__init__(run)
        self._objective, self._batch_size = objective, batch_size
        self._maker = objective.example_maker(run.tokenizer, run.config.data)

    def answers(self, examples: Iterable[Example]) -> Iterator[dict[str, Any]]:
        found = predictions(
            self._objective,
            self.run.params,
            self._rows,
            (picked(example, self.forms) for example in examples),
            batch_size=self._batch_size,
        )
        for encoded, answer in found:
            yield answer | ({"left_out": encoded.left_out} if encoded.left_out else {})

    def _rows(self, example: Example, *, labelled: bool) -> Encoded:
        with placed(example):
            return self._maker(example, labelled=labelled)
