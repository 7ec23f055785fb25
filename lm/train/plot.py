"""Loss curves as pictures: a run's own, and several runs beside each other."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm.errors import UserError
from lm.train.metrics import read_jsonl
from lm.train.workdir import EVALUATIONS, METRICS

INK, MUTED, TRAIN = "#1c1c1c", "#8a8a8a", "#3b6ea8"
VALIDATION = ("#c2551b", "#4f8a5b", "#7b4fa0", "#a08a2c")

# (steps, losses) by split.
Curves = dict[str, tuple[np.ndarray, np.ndarray]]


def plot_loss(workdir: Path) -> Path | None:
    """Draws metrics.jsonl's losses over steps to `loss.png`; None where there is nothing to draw.

    The training loss is drawn as it is (thin) and smoothed (bold); validation points are labelled
    with their last value.
    """
    curves = _curves(workdir)
    if not curves:
        return None
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    _draw(axes, curves, {})
    axes.set_title(f"{workdir.name}: loss over training", color=INK, loc="left", fontsize=11)
    axes.legend(frameon=False)
    path = workdir / "loss.png"
    figure.savefig(path)
    plt.close(figure)
    return path


def plot_runs(workdirs: Sequence[Path], output: Path, columns: int = 3) -> None:
    """Draws one panel a run to `output` (its ending says the format), each as `plot_loss` does, and
    the loss that needs no model as a dashed line where `lm evaluate --baseline` measured it.

    Raises:
      UserError: a folder has no losses, or the file cannot be written.
    """
    found = {workdir: _curves(workdir) for workdir in workdirs}
    for workdir, curves in found.items():
        if not curves:
            raise UserError(f"{workdir} has no losses in {METRICS}: is it the folder of a run?")
    plt = _pyplot()
    columns = min(columns, len(found))
    count = math.ceil(len(found) / columns)
    figure, grid = plt.subplots(
        count, columns, figsize=(4.2 * columns, 3.1 * count), dpi=120, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axes, (workdir, curves) in zip(grid.flat, found.items()):
        _draw(axes, curves, _baselines(workdir))
        axes.set_title(workdir.name, color=INK, loc="left", fontsize=11)
    for axes in grid.flat[len(found) :]:
        axes.set_axis_off()
    named: dict[str, Any] = {}
    for axes in grid.flat:
        named |= dict(zip(*reversed(axes.get_legend_handles_labels())))
    figure.legend(
        named.values(), named.keys(), loc="outside lower center", ncols=columns, frameon=False
    )
    try:
        figure.savefig(output)
    except (OSError, ValueError) as error:
        raise UserError(f"could not write {output}: {error}") from None
    finally:
        plt.close(figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _curves(workdir: Path) -> Curves:
    splits: dict[str, list[tuple[int, float]]] = {}
    for row in read_jsonl(workdir / METRICS):
        if "loss" in row:
            splits.setdefault(row["split"], []).append((row["step"], row["loss"]))
    return {name: (np.array(points).T[0], np.array(points).T[1]) for name, points in splits.items()}


def _baselines(workdir: Path) -> dict[str, float]:
    """The loss that needs no model, by split, from the newest evaluation that has one.

    Raises:
      UserError: a file there is not an evaluation.
    """
    files = (workdir / EVALUATIONS).glob("*.json")
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            splits = json.loads(path.read_text("utf-8"))["splits"]
            found = {name: split.get("baseline", {}).get("loss") for name, split in splits.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{path} is not what lm evaluate writes: remove it, or evaluate again"
            ) from None
        found = {name: loss for name, loss in found.items() if loss is not None}
        if found:
            return found
    return {}


def _draw(axes: Any, curves: Curves, baselines: Mapping[str, float]) -> None:
    low, high = list(baselines.values()), list(baselines.values())
    colors = dict(zip((name for name in curves if name != "train"), itertools.cycle(VALIDATION)))
    for name, (steps, values) in curves.items():
        low.append(values.min())
        if name == "train":
            axes.plot(steps, values, color=TRAIN, alpha=0.25, linewidth=0.8)
            smooth = _smoothed(values)
            axes.plot(steps, smooth, color=TRAIN, linewidth=1.8, label="training (smoothed)")
            high.append(values[: max(2, len(values) // 50)].max())
            continue
        color = colors[name]
        axes.plot(steps, values, "o-", color=color, markersize=4, label=f"validation ({name})")
        _label(axes, steps[-1], values[-1], color, above=color == VALIDATION[0])
    for name, value in baselines.items():
        color, label = colors.get(name, INK), f"without a model ({name})"
        axes.axhline(value, color=color, linestyle="--", linewidth=1.0, label=label)
        last = max(steps[-1] for steps, _ in curves.values())
        _label(axes, last, value, color, above=value == max(baselines.values()))
    axes.set_xlabel("step (optimiser updates)", color=INK)
    axes.set_ylabel("loss (nats per token)", color=INK)
    margin = 0.06 * (max(high, default=max(low)) - min(low)) or 1.0
    axes.set_ylim(min(low) - margin, max(high, default=max(low)) + margin)
    axes.set_xlim(left=0)
    axes.grid(color=MUTED, alpha=0.2, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _label(axes: Any, step: float, value: float, color: str, *, above: bool) -> None:
    axes.annotate(
        f"{value:.3f}", (step, value), (-4, 8 if above else -16), textcoords="offset points",
        ha="right", color=color, fontweight="bold",
    )  # fmt: skip


def _smoothed(values: np.ndarray) -> np.ndarray:
    """A running mean over about 1/30 of the curve, centred, shorter at the ends."""
    half = max(1, len(values) // 60)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    begin, end = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[end] - sums[begin]) / (end - begin)
