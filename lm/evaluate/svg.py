"""Charts as SVG elements to stand in a page (`lm.evaluate.html`), whose colours they take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lm.evaluate.html import Html, element, number

Number = float | int
Point = tuple[Number, Number]
# Of a letter, for what has to fit (about that of digits and lower case at 13 pixels).
_LETTER = 7.2
_MARGIN = 12.0


def drawing(width: Number, height: Number, message: str, *parts: Any) -> Html:
    """An SVG of so many pixels; `message` is what it says, for those who cannot see it."""
    return element(
        "svg", element("title", message), *parts,
        viewBox=f"0 0 {width:.0f} {height:.0f}", width=f"{width:.0f}", height=f"{height:.0f}",
        role="img", aria_label=message,
    )  # fmt: skip


def label(
    x: Number, y: Number, words: Any, anchor: str = "start", kind: str = "", turned: bool = False
) -> Html:
    """Text at a place: its "start", "middle" or "end" is there; `turned`: read from below."""
    given = {"kind": kind} if kind else {}
    if turned:
        given["transform"] = f"rotate(-90 {x:.1f} {y:.1f})"
    return element("text", words, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, **given)


def line(x0: Number, y0: Number, x1: Number, y1: Number, kind: str) -> Html:
    return element("line", x1=f"{x0:.1f}", y1=f"{y0:.1f}", x2=f"{x1:.1f}", y2=f"{y1:.1f}",
                   kind=kind)  # fmt: skip


def shortened(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"


# --------------------------------------------------------------------------------------- confusion


def confusion(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> Html:
    """How often each class (row) was taken for each (column): counts, and the share of the row,
    which also shades the cell."""
    names = [shortened(str(one), 18) for one in labels]
    size = len(labels)
    cell = 84.0 if size <= 8 else 58.0
    # Many columns have their names turned.
    turned = size > 8 or max(map(len, names)) * _LETTER > cell
    longest = max(map(len, names)) * _LETTER
    left = 28 + longest + 2 * _MARGIN
    top = 28 + (longest if turned else 18) + _MARGIN
    parts: list[Html] = []
    middle_x, middle_y = left + size * cell / 2, top + size * cell / 2
    parts.append(label(middle_x, 18, "predicted", "middle", "strong"))
    parts.append(label(18, middle_y, "actual", "middle", "strong", turned=True))
    for place, name in enumerate(names):
        centre = (place + 0.5) * cell
        parts.append(label(left - 8, top + centre + 4, name, "end"))
        if turned:
            parts.append(label(left + centre + 4, top - 8, name, "start", turned=True))
        else:
            parts.append(label(left + centre, top - 8, name, "middle"))
    for i, row in enumerate(matrix):
        total = sum(row)
        for j, count in enumerate(row):
            share = count / total if total else 0.0
            x, y = left + j * cell, top + i * cell
            parts.append(
                element("rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{cell - 2:.1f}",
                        height=f"{cell - 2:.1f}", kind="fill",
                        fill_opacity=f"{0.04 + 0.46 * share:.3f}")
            )  # fmt: skip
            centre = x + cell / 2 - 1
            parts.append(label(centre, y + cell / 2, f"{count:,}", "middle",
                               "strong" if i == j else ""))  # fmt: skip
            if total:
                parts.append(label(centre, y + cell / 2 + 17, f"{share:.0%}", "middle", "quiet"))
    right = sum(row[i] for i, row in enumerate(matrix))
    every = sum(map(sum, matrix))
    message = f"Confusion matrix of {size} classes: {right:,} of {every:,} examples on the diagonal"
    return drawing(left + size * cell + _MARGIN, top + size * cell + _MARGIN, message, *parts)


# -------------------------------------------------------------------------------------------- axes


class Axes:
    """Axes of a chart: `across` and `up` are (lowest, highest), and their names say the unit."""

    def __init__(
        self,
        across: Point,
        up: Point,
        x_label: str,
        y_label: str,
        width: Number = 460.0,
        height: Number = 360.0,
    ) -> None:
        self._across, self._up = _widened(across), _widened(up)
        self._left, self._top = 64.0, _MARGIN
        self._width, self._height = width - self._left - 2 * _MARGIN, height - self._top - 52
        self._size = width, height
        self.parts: list[Html] = []
        bottom = self._top + self._height
        for value in ticks(*self._across):
            x, _ = self.place(value, self._up[0])
            self.parts.append(line(x, self._top, x, bottom, "grid"))
            self.parts.append(label(x, bottom + 18, number(value), "middle", "quiet"))
        for value in ticks(*self._up):
            _, y = self.place(self._across[0], value)
            self.parts.append(line(self._left, y, self._left + self._width, y, "grid"))
            self.parts.append(label(self._left - 8, y + 4, number(value), "end", "quiet"))
        self.parts.append(label(self._left + self._width / 2, bottom + 42, x_label, "middle"))
        self.parts.append(label(16, self._top + self._height / 2, y_label, "middle", turned=True))

    def place(self, x: Number, y: Number) -> Point:
        """Where a point lies, in pixels."""
        (left, right), (low, high) = self._across, self._up
        return (
            self._left + (x - left) / (right - left) * self._width,
            self._top + (high - y) / (high - low) * self._height,
        )

    def bar(
        self, x0: Number, x1: Number, height: Number, note: str = "", shade: Number = 0.55
    ) -> None:
        """A bar from `x0` to `x1`; `note` appears where a pointer rests on it."""
        (left, top), (right, bottom) = self.place(x0, height), self.place(x1, self._up[0])
        self.parts.append(
            element("rect", element("title", note), x=f"{left:.1f}", y=f"{top:.1f}",
                    width=f"{max(0.5, right - left - 1):.1f}", height=f"{bottom - top:.1f}",
                    kind="fill", fill_opacity=f"{shade:.2f}")
        )  # fmt: skip

    def dots(self, points: Sequence[Point], radius: Number = 3.0) -> None:
        for x, y in (self.place(*point) for point in points):
            self.parts.append(element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{radius:g}",
                                      kind="dot"))  # fmt: skip

    def curve(self, points: Sequence[Point], kind: str = "curve") -> None:
        """Points joined by lines; the `kind` "ideal" is dashed."""
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.place(*point) for point in points))
        self.parts.append(element("polyline", points=places, kind=kind))

    def note(self, x: Number, y: Number, words: str, anchor: str = "start") -> None:
        """Words at a point."""
        self.parts.append(label(*self.place(x, y), words, anchor, "quiet"))

    def svg(self, message: str) -> Html:
        return drawing(*self._size, message, *self.parts)


def ticks(low: Number, high: Number, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, at most so many and one."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _widened(ends: Point) -> Point:
    low, high = ends
    return (low, high) if high > low else (low - 0.5, high + 0.5)


# ------------------------------------------------------------------------------------- two of them


def reliability(
    examples: Sequence[int], confidence: Sequence[Number], right: Sequence[Number]
) -> Html:
    """Accuracy over confidence: of each bin (`lm.evaluate.metrics.calibration.Bins`) a bar as high
    as its share of right answers, and as dark as it has examples; the dashed line is where they
    should end."""
    axes = Axes(
        (0.0, 1.0), (0.0, 1.0), "confidence (probability of the answer)", "share of right answers"
    )
    total, width = sum(examples), 1 / len(examples)
    for place, (count, sure, good) in enumerate(zip(examples, confidence, right)):
        if count:
            note = (
                f"{count:,} examples, mean confidence {sure / count:.3f}, right {good / count:.3f}"
            )
            shade = 0.2 + 0.65 * math.sqrt(count / total)
            axes.bar(place * width, (place + 1) * width, good / count, note, shade)
    axes.curve([(0.0, 0.0), (1.0, 1.0)], "ideal")
    filled = sum(count > 0 for count in examples)
    return axes.svg(
        f"Accuracy by confidence in {filled} bins, beside the diagonal of a perfect one"
    )


def scatter(actual: Sequence[Number], predicted: Sequence[Number]) -> Html:
    """Predicted numbers over actual ones, and the line on which they are equal."""
    ends = min(*actual, *predicted), max(*actual, *predicted)
    axes = Axes(ends, ends, "actual", "predicted")
    axes.dots(list(zip(actual, predicted)))
    axes.curve([(ends[0], ends[0]), (ends[1], ends[1])], "ideal")
    return axes.svg(f"{len(actual):,} predicted numbers over the actual ones")
