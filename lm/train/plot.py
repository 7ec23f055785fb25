"""The loss curve of a run as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lm.train.metrics import read_jsonl

INK, MUTED, TRAIN, VALIDATION = "#1c1c1c", "#8a8a8a", "#3b6ea8", "#c2551b"


def plot_loss(workdir: Path) -> Path | None:
    """Draws metrics.jsonl's losses over steps to `loss.png`; None where there is nothing to draw.

    The training loss is drawn as it is (thin) and smoothed (bold); validation points are labelled
    with their last value.
    """
    rows = read_jsonl(workdir / "metrics.jsonl")
    splits: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if "loss" in row:
            splits.setdefault(row["split"], []).append((row["step"], row["loss"]))
    if not splits:
        return None

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    low, high = [], []
    for name, points in splits.items():
        steps, values = np.array(points).T
        if name == "train":
            axes.plot(steps, values, color=TRAIN, alpha=0.25, linewidth=0.8)
            smooth = _smoothed(values)
            axes.plot(steps, smooth, color=TRAIN, linewidth=1.8, label="training (smoothed)")
            low.append(values.min())
            high.append(values[: max(2, len(values) // 50)].max())
        else:
            axes.plot(
                steps, values, "o-", color=VALIDATION, markersize=4, label=f"validation ({name})"
            )
            text = f"{values[-1]:.3f}"
            axes.annotate(
                text,
                (steps[-1], values[-1]),
                (-4, 8),
                textcoords="offset points",
                ha="right",
                color=VALIDATION,
                fontweight="bold",
            )
            low.append(values.min())
    axes.set_xlabel("step (optimiser updates)", color=INK)
    axes.set_ylabel("loss (nats per token)", color=INK)
    axes.set_title(f"{workdir.name}: loss over training", color=INK, loc="left", fontsize=11)
    if high:
        margin = 0.06 * (max(high) - min(low))
        axes.set_ylim(min(low) - margin, max(high) + margin)
    axes.set_xlim(left=0)
    axes.grid(color=MUTED, alpha=0.2, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path = workdir / "loss.png"
    figure.savefig(path)
    plt.close(figure)
    return path


def _smoothed(values: np.ndarray) -> np.ndarray:
    """A running mean over about 1/30 of the curve, centred, shorter at the ends."""
    half = max(1, len(values) // 60)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    begin, end = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[end] - sums[begin]) / (end - begin)
