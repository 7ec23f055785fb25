"""Figures of several panels: lines over a number, and attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lm.config.checks import check
from lm.reproduce.canvas import COLORS, finish, line
from lm.reproduce.figure_base import FigureBase


@dataclass(frozen=True)
class Panels(FigureBase):
    """`Lines` side by side: by panel and label, quantities and the number that each stands for; of
    several seeds the mean. `lowest` marks the lowest point of every line."""

    panels: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    lowest: bool = False
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False
    kind: Literal["panels"] = "panels"

    def __post_init__(self) -> None:
        check(len(self.panels) > 0, "panels names none")
        check(bool(self.x_label and self.y_label), "panels need x_label and y_label, with units")


@dataclass(frozen=True)
class AttentionMaps(FigureBase):
    """The attention of every layer of `run` among the first tokens of a text, as its measure kept
    them: rows are the tokens that look, columns those that are looked at."""

    run: str = ""
    kind: Literal["attention_maps"] = "attention_maps"

    def __post_init__(self) -> None:
        check(bool(self.run), "attention_maps needs run, the name of the runs to show")


def draw_panels(axes: Any, figure: Panels, record: Mapping[str, Any]) -> None:
    parts = _divided(axes, len(figure.panels), sharey=True)
    for number, (part, (title, lines)) in enumerate(zip(parts, figure.panels.items())):
        for place, (label, places) in enumerate(lines.items()):
            known = {name: record["quantities"].get(name, ()) for name in places}
            drawn = [(places[n], sum(v) / len(v)) for n, v in known.items() if v and None not in v]
            if not drawn:
                continue
            xs, ys = zip(*drawn)
            x, y = min(drawn, key=lambda point: point[1])
            name = f"{label}: {y:.4g}" if figure.lowest else label
            line(part, place, xs, ys, name, width=1.6, last=not figure.lowest)
            if figure.lowest:
                part.plot(x, y, marker="*", markersize=13, color=COLORS[place % len(COLORS)])
        part.set_title(title, fontsize=10)
        y_label = figure.y_label if number == 0 else ""
        finish(part, figure.x_label, y_label, figure.log_x, figure.log_y)


def draw_maps(axes: Any, figure: AttentionMaps, record: Mapping[str, Any]) -> None:
    found = record["details"]["attention"][figure.run]
    tokens, layers = found["tokens"], found["layers"]
    parts = _divided(axes, len(layers), sharey=False)
    for number, (part, layer) in enumerate(zip(parts, layers), 1):
        # No attention is white, as paper is.
        part.imshow(layer, cmap="Greys", vmin=0.0, vmax=1.0, interpolation="nearest")
        part.set_xticks(range(len(tokens)), list(tokens), fontsize=6)
        part.set_yticks(range(len(tokens)), list(tokens), fontsize=6)
        part.set_title(f"layer {number}", fontsize=10)
        part.set_xlabel("token looked at")
        part.set_ylabel("token that looks" if number == 1 else "")


def _divided(axes: Any, count: int, *, sharey: bool) -> list[Any]:
    """The place of `axes` as so many side by side."""
    canvas = axes.figure
    axes.remove()
    return list(canvas.subplots(1, count, sharey=sharey, squeeze=False)[0])
