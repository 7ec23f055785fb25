"""The figures of a paper: what was measured, with the published points drawn in, as SVG.

A figure is drawn from the record of its measure alone (`lm.reproduce.record`), so that the same
record always gives the same bytes; where nothing was measured yet, it has what was published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Union

from lm.config.checks import check
from lm.reproduce.canvas import COLORS, DASHES, MUTED, PUBLISHED, axes_of, finish, line, svg_of
from lm.reproduce.figure_base import FigureBase
from lm.reproduce.panels import AttentionMaps, Panels, draw_maps, draw_panels


@dataclass(frozen=True)
class Curves(FigureBase):
    """A metric of the measure's runs over their steps: training thin, the `splits` bold, and the
    published values, by label, as lines across; `levels` are others, such as what is known of the
    task. With `by_run` the seeds of a run have one colour and one name."""

    splits: tuple[str, ...] = ("text",)
    metric: str = "loss"
    published: Mapping[str, float] = field(default_factory=dict)
    levels: Mapping[str, float] = field(default_factory=dict)
    by_run: bool = False
    y_label: str = "loss (nats per token)"
    log_x: bool = False
    log_y: bool = False
    kind: Literal["curves"] = "curves"


@dataclass(frozen=True)
class Points(FigureBase):
    """Quantities against a number `x` that each stands for, over the published ones."""

    x: Mapping[str, float] = field(default_factory=dict)
    published_x: tuple[float, ...] = ()
    published_y: tuple[float, ...] = ()
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False
    kind: Literal["points"] = "points"

    def __post_init__(self) -> None:
        check(
            len(self.published_x) == len(self.published_y),
            "published_x and published_y are not of one length",
        )
        check(bool(self.x_label and self.y_label), "points need x_label and y_label, with units")


@dataclass(frozen=True)
class ScalingLaw(FigureBase):
    """Contours of a fitted law over parameters and tokens, the points it was fitted to, and where
    compute is best spent: by the law, and by `published` ones (E, A, B, alpha, beta by name)."""

    published: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    kind: Literal["scaling_law"] = "scaling_law"

    def __post_init__(self) -> None:
        for name, law in self.published.items():
            check(len(law) == 5, f"published.{name}: a law has E, A, B, alpha, beta")


@dataclass(frozen=True)
class DepthNorms(FigureBase):
    """Norms of gradients against depth, one line a placement of norms."""

    kind: Literal["depth_norms"] = "depth_norms"


@dataclass(frozen=True)
class Lines(FigureBase):
    """Lines over a number: by label, quantities and the number that each stands for; of several
    seeds the mean. `published` are points, by the label of the line beside which they stand. `mark`
    is a number across that matters, such as the length of training."""

    lines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    published: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    mark: float | None = None
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False
    kind: Literal["lines"] = "lines"

    def __post_init__(self) -> None:
        check(bool(self.x_label and self.y_label), "lines need x_label and y_label, with units")
        for label in self.published:
            check(label in self.lines, f"published: there is no line {label!r}")


Figure = Union[Curves, Points, ScalingLaw, DepthNorms, Lines, Panels, AttentionMaps]


def draw(figure: Figure, record: Mapping[str, Any] | None) -> str | None:
    """The figure as an <svg> element, from its measure's record; None where there is nothing to
    draw, neither measured nor published."""
    if record is None and not (isinstance(figure, Points) and figure.published_x):
        return None
    with axes_of() as (canvas, axes):
        _DRAW[type(figure)](axes, figure, record or {})
        return svg_of(canvas, figure.title, figure.message or figure.title)


# ------------------------------------------------------------------------------------ the kinds


def _draw_curves(axes: Any, figure: Curves, record: Mapping[str, Any]) -> None:
    names: dict[str, int] = {}
    for cell in record.get("cells", ()):
        curves = cell["curves"]
        train = curves.get("train", {}).get(figure.metric)
        name = re.sub(r"-seed\d+$", "", cell["name"]) if figure.by_run else cell["name"]
        several = len(figure.splits) > 1
        labels = [f"{name}, {split}" if several else name for split in figure.splits]
        color = COLORS[names.get(labels[0], len(names)) % len(COLORS)]
        if train is not None:
            axes.plot(*train, color=color, linewidth=0.7, alpha=0.45)
        for split, label in zip(figure.splits, labels):
            found = curves.get(split, {}).get(figure.metric)
            if found is not None:
                # What begins with "_" has no place in the legend.
                shown = f"_{label}" if label in names else label
                number = names.setdefault(label, len(names))
                line(axes, number, found[0], found[1], shown, 1.8, last=not figure.by_run)
    across = [(f"published {label}", value, PUBLISHED) for label, value in figure.published.items()]
    across += [(label, value, MUTED) for label, value in figure.levels.items()]
    for label, value, color in across:
        axes.axhline(value, color=color, linewidth=1.2, linestyle=(0, (6, 3)))
        axes.annotate(
            f"{label}: {value:g}", (0.99, value), (0, 3), ha="right", fontsize=9,
            xycoords=("axes fraction", "data"), textcoords="offset points", color=color,
        )  # fmt: skip
    finish(axes, "step (optimiser updates)", figure.y_label, figure.log_x, figure.log_y)


def _draw_points(axes: Any, figure: Points, record: Mapping[str, Any]) -> None:
    if figure.published_x:
        axes.plot(figure.published_x, figure.published_y, color=PUBLISHED, linestyle="--",
                  marker="s", markersize=6, fillstyle="none", label="published")  # fmt: skip
    quantities = record.get("quantities", {})
    xs, ys = [], []
    for name, x in figure.x.items():
        for value in quantities.get(name, ()):
            if value is not None:
                xs.append(x)
                ys.append(value)
    if xs:
        axes.plot(xs, ys, "o", color=COLORS[0], markersize=6, label="measured, each seed a dot")
    finish(axes, figure.x_label, figure.y_label, figure.log_x, figure.log_y)


def _draw_law(axes: Any, figure: ScalingLaw, record: Mapping[str, Any]) -> None:
    import numpy as np

    from lm.reproduce.measures.scaling import Law

    details = record["details"]
    law, points = Law(**details["law"]), np.array(details["points"])
    low, high = points[:, :2].min(axis=0) / 2, points[:, :2].max(axis=0) * 2
    sizes, tokens = (np.geomspace(low[i], high[i], 80) for i in (0, 1))
    surface = law.loss(*np.meshgrid(sizes, tokens))
    levels = np.quantile(surface, np.linspace(0.02, 0.95, 12))
    lines = axes.contour(sizes, tokens, surface, levels=levels, colors=MUTED, linewidths=0.7)
    axes.clabel(lines, fontsize=8, fmt="%.2f")
    axes.plot(points[:, 0], points[:, 1], ".", color=COLORS[0], markersize=3.5,
              label=f"{len(points)} points")  # fmt: skip
    budgets = np.geomspace(6 * low[0] * low[1], 6 * high[0] * high[1], 60)
    laws = {"ours": law, **{name: Law(*values) for name, values in figure.published.items()}}
    for number, (name, one) in enumerate(laws.items()):
        best = _best_size(one, budgets)
        color = COLORS[0] if name == "ours" else (PUBLISHED, *COLORS[1:])[number - 1]
        dash = DASHES[number % len(DASHES)]
        seen = (low[0] < best) & (best < high[0])
        axes.plot(best, budgets / (6 * best), color=color, linewidth=1.8, linestyle=dash,
                  label=f"compute-optimal, {name}{'' if seen.any() else ': outside'}")  # fmt: skip
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    finish(axes, "parameters N", "training tokens D", log_x=True, log_y=True)


def _best_size(law: Any, budgets: Any) -> Any:
    """The parameters of the least loss at compute C = 6 N D (Hoffmann et al. 2022, equation 4)."""
    share = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))
    return share * (budgets / 6) ** (law.beta / (law.alpha + law.beta))


def _draw_norms(axes: Any, figure: DepthNorms, record: Mapping[str, Any]) -> None:
    import numpy as np

    details = record["details"]
    depths = np.array(details["depths"])
    for number, (name, table) in enumerate(details["norms"].items()):
        norms = np.array(table)
        axes.plot(np.repeat(depths, norms.shape[1]), norms.ravel(), ".", markersize=4, alpha=0.35,
                  color=COLORS[number])  # fmt: skip
        line(axes, number, depths.tolist(), norms.mean(axis=1).tolist(), f"{name}-LN", width=1.8)
        if name == "pre":
            fall = norms.mean(axis=1)[0] * np.sqrt(depths[0] / depths)
            axes.plot(depths, fall, color=PUBLISHED, linestyle=":", linewidth=1.4)
            axes.annotate("published for pre-LN: falls as 1/√L", (depths[-1], fall[-1]), (0, -12),
                          textcoords="offset points", ha="right", fontsize=9,
                          color=PUBLISHED)  # fmt: skip
        else:
            axes.axhline(norms.mean(), color=PUBLISHED, linestyle=":", linewidth=1.4)
    finish(axes, "layers L", "gradient norm of the last feed-forward matrix", True, True)


def _draw_lines(axes: Any, figure: Lines, record: Mapping[str, Any]) -> None:
    for number, (label, places) in enumerate(figure.lines.items()):
        known = {name: record["quantities"].get(name, ()) for name in places}
        drawn = [(places[n], sum(v) / len(v)) for n, v in known.items() if v and None not in v]
        if drawn:
            line(axes, number, [x for x, _ in drawn], [y for _, y in drawn], label, width=1.8)
    labels = list(figure.lines)
    for label, points in figure.published.items():
        color = COLORS[labels.index(label) % len(COLORS)]
        axes.plot(*zip(*points), color=color, linestyle="", marker="s", markersize=7,
                  fillstyle="none")  # fmt: skip
    if figure.published:
        axes.plot([], [], color=MUTED, linestyle="", marker="s", fillstyle="none",
                  label="published, by colour")  # fmt: skip
    if figure.mark is not None:
        axes.axvline(figure.mark, color=MUTED, linewidth=1.0, linestyle=":")
    finish(axes, figure.x_label, figure.y_label, figure.log_x, figure.log_y)


_DRAW: dict[type, Any] = {
    Curves: _draw_curves,
    Points: _draw_points,
    ScalingLaw: _draw_law,
    DepthNorms: _draw_norms,
    Lines: _draw_lines,
    Panels: draw_panels,
    AttentionMaps: draw_maps,
}
