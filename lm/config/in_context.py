"""What is learned from numbers, not from texts: functions from examples of them in the context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from lm.config.checks import check
from lm.config.data import ByteTokenizer, DataConfig, LinearFunctions
from lm.config.model import ModelConfig
from lm.config.objective import ObjectiveBase


@dataclass(frozen=True)
class InContextRegression(ObjectiveBase):
    """Say f(x) for each x of a row, from the examples (x, f(x)) before it (Garg et al. 2022): the
    loss is the squared error, a mean over the points of a row.

    Sources are of kind "linear_functions"; a row is x1, f(x1), x2, f(x2) ..., so
    data.sequence_length is twice the number of points. `report`: the numbers of examples after
    which the squared error, over the number of coordinates, is a metric: "error_20".
    """

    ARCHITECTURES: ClassVar[tuple[str, ...]] = ("decoder",)

    report: tuple[int, ...] = ()
    kind: Literal["in_context_regression"] = "in_context_regression"

    @property
    def predicts_tokens(self) -> bool:
        return False

    def check_heads(self, model: ModelConfig) -> None:
        check(
            model.lm_head == "none" and model.embedding_size is None and not model.token_types,
            f"objective {self.name!r} reads and writes numbers: set "
            'model.lm_head="none", and neither embedding_size nor token_types',
        )

    def check_data(self, data: DataConfig) -> None:
        shapes = set()
        for split, sources in (("train", data.train), ("validation", data.validation)):
            for name, source in sources.items():
                check(
                    isinstance(source, LinearFunctions),
                    f"objective {self.name!r} learns functions, and data.{split}.{name} is of kind "
                    f"{source.kind!r}: use 'linear_functions'",
                )
                assert isinstance(source, LinearFunctions)
                shapes.add((source.dims, source.points))
        check(
            isinstance(data.tokenizer, ByteTokenizer),
            f"objective {self.name!r} reads no text: leave data.tokenizer at kind 'byte'",
        )
        check(len(shapes) <= 1, "all sources of linear functions need the same dims and points")
        for _, points in shapes:
            check(
                data.sequence_length == 2 * points,
                f"data.sequence_length={data.sequence_length} must be {2 * points}, twice the "
                "points of a row",
            )
            for number in self.report:
                check(
                    0 <= number < points,
                    f"report: {number} examples are not followed by another of {points} points",
                )
