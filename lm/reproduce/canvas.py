"""Axes to draw on, and the SVG that comes of them, with matplotlib."""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

INK, MUTED, PUBLISHED = "#1c1c1c", "#6e6e6e", "#b3261e"
# Told apart by their dashes as well, on paper and by every eye.
COLORS = ("#1f5fa8", "#c2551b", "#2f7d4f", "#7b4fa0", "#8a6d00", "#1c1c1c")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
# Points a curve keeps: a page's width of them, the highest and the lowest of each part.
MOST_POINTS = 240


def curves_svg(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    height: float = 3.6,
) -> str:
    """Lines (xs, ys) by label on shared axes."""
    with axes_of(height) as (canvas, axes):
        for number, (label, (xs, ys)) in enumerate(curves.items()):
            line(axes, number, xs, ys, label, width=1.6)
        finish(axes, x_label, y_label, log_y=log_y)
        return svg_of(canvas, title, f"{title}: {', '.join(curves)}")


def decimated(
    xs: Sequence[float], ys: Sequence[float], most: int = MOST_POINTS
) -> tuple[list[float], list[float]]:
    """At most `most` of the points: of each part of the curve the first, the lowest and the
    highest, so that no spike is lost."""
    if len(xs) <= most:
        return list(xs), list(ys)
    parts, kept = max(1, most // 3), set()
    for part in range(parts):
        begin, end = part * len(xs) // parts, (part + 1) * len(xs) // parts
        kept |= {
            begin,
            min(range(begin, end), key=ys.__getitem__),
            max(range(begin, end), key=ys.__getitem__),
        }
    order = sorted(kept | {len(xs) - 1})[-most:]
    return [xs[i] for i in order], [ys[i] for i in order]


@contextlib.contextmanager
def axes_of(height: float = 4.2) -> Iterator[tuple[Any, Any]]:
    """A canvas and its axes, without pyplot's global state, under settings of our own."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Colours of text are told, not left black: a page colours what says nothing of its colour.
    texts = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "lm", **dict.fromkeys(texts, INK)}
    with matplotlib.rc_context(settings):
        canvas = Figure(figsize=(7.2, height), layout="constrained")
        FigureCanvasSVG(canvas)
        yield canvas, canvas.subplots()


def line(
    axes: Any,
    number: int,
    xs: Sequence[float],
    ys: Sequence[float],
    label: str,
    width: float,
    last: bool = True,
) -> None:
    """One curve, with its `last` value in the legend."""
    end = next((y for y in reversed(ys) if y is not None and math.isfinite(y)), None)
    axes.plot(
        xs, ys, color=COLORS[number % len(COLORS)], linewidth=width, markersize=3,
        linestyle=DASHES[(number // len(COLORS) + number) % len(DASHES)],
        marker="o" if len(xs) <= 24 else "",
        label=f"{label}: {end:.4g}" if last and end is not None else label,
    )  # fmt: skip


def finish(axes: Any, x_label: str, y_label: str, log_x: bool = False, log_y: bool = False) -> None:
    """Scales, names with units, a grid, and the legend where there is something to tell apart."""
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    for axis, logarithmic in ((axes.xaxis, log_x), (axes.yaxis, log_y)):
        low, high = axis.get_view_interval()
        if logarithmic and high < 50 * low:
            _name_ticks(axis, every=high < 4 * low)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color=MUTED, alpha=0.2, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    count = len(axes.get_legend_handles_labels()[0])
    if count:
        axes.legend(fontsize=9, framealpha=0.85, edgecolor="none", ncols=1 if count <= 6 else 2)


def _name_ticks(axis: Any, every: bool) -> None:
    """Plain numbers at the ticks of a short logarithmic axis: 1, 2, 3, 5, 10 ..., or every one."""
    from matplotlib.ticker import FuncFormatter

    def minor(value: float, _: int) -> str:
        return f"{value:g}" if every or f"{value:e}"[0] in "235" else ""

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(minor))


def svg_of(canvas: Any, title: str, message: str) -> str:
    """The figure as an element to stand inside a page: no prologue, no date, its message told."""
    text = io.StringIO()
    canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    element = text.getvalue()
    element = element[element.index("<svg") :]
    # What says nothing to a reader, and names hosts.
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    # Several stand on one page, and refer to their own parts by id.
    salt = re.sub(r"\W+", "-", title.lower())
    element = re.sub(r'\bid="', f'id="{salt}-', element)
    element = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{salt}-", element)
    opening = f'<svg role="img" aria-label="{escape(message, quote=True)}"'
    return element.replace("<svg", opening, 1).strip() + "\n"
