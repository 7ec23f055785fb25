"""What a comparison looks like: a record for JSON, a table, a picture of the ratios."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from lm.bench.harness import Comparison, Result
from lm.bench.suite import Suite

# Facts that only findings are made of: they would drown everything else in the file.
_BULKY = ("losses", "tokens", "runners_up", "margins")
_COLUMNS = ("contestant", "time", "quartiles", "ratio", "tokens/s", "MFU", "memory")
_UNITS = ((1e9, "ns"), (1e6, "us"), (1e3, "ms"), (1.0, "s"))


def record(
    suite: Suite,
    shape: str,
    describe: str,
    comparison: Comparison,
    ceiling: float | None,
    *,
    shared: bool = True,
) -> dict[str, Any]:
    """The comparison as JSON values.

    A contestant's `ratio` is its time over the base's: above 1 the base is faster. None where the
    base did not run.

    Args:
      ceiling: FLOP/s that utilisation is of; None leaves it out.
      shared: whether a contestant's devices share those FLOP/s, as a CPU's virtual ones do; else
        each device has them.
    """
    flops = next(
        (r.facts["flops_per_unit"] for r in comparison.results if "flops_per_unit" in r.facts), None
    )
    return {
        "suite": suite.name,
        "shape": shape,
        "description": describe,
        "unit": suite.unit,
        "base": comparison.base,
        "contestants": [
            _contestant(comparison, result, flops, ceiling, shared) for result in comparison.results
        ],
        "left_out": comparison.left_out,
    }


def _contestant(
    comparison: Comparison,
    result: Result,
    flops: Mapping[str, float] | None,
    ceiling: float | None,
    shared: bool,
) -> dict[str, Any]:
    known = comparison.base in comparison
    median = result.seconds.median
    tokens = result.facts.get("tokens_per_unit")
    mfu = {}
    if flops is not None and ceiling is not None:
        peak = ceiling * (1 if shared else result.facts.get("devices", 1))
        mfu = {f"mfu_{name}": count / median / peak for name, count in flops.items()}
    return {
        "name": result.name,
        "seconds_per_unit": result.seconds.summary(),
        "ratio": comparison.ratio(result.name).summary() if known else None,
        "tokens_per_second": None if tokens is None else tokens / median,
        **mfu,
        "facts": {name: value for name, value in result.facts.items() if name not in _BULKY},
    }


def table(results: Mapping[str, Any], findings: Sequence[str]) -> str:
    """One comparison as text: a header, a line a contestant, the findings."""
    rows = [_COLUMNS, *(_row(c) for c in results["contestants"])]
    # A column that nobody has something for is left out.
    kept = [i for i in range(len(_COLUMNS)) if i == 0 or any(row[i] for row in rows[1:])]
    rows = [tuple(row[i] for i in kept) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        f"{results['suite']}, shape {results['shape']}: {results['description']}",
        f"(time a {results['unit']}, median of the rounds; "
        f"ratio: time over that of {results['base']})",
        "",
    ]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
        lines.append("  ".join(cells).rstrip())
    lines += [f"left out: {name}: {reason}" for name, reason in results["left_out"].items()]
    return "\n".join([*lines, "", *findings])


def _row(contestant: Mapping[str, Any]) -> tuple[str, ...]:
    seconds = contestant["seconds_per_unit"]
    rate, mfu = contestant["tokens_per_second"], contestant.get("mfu_palm")
    facts = contestant["facts"]
    memory = facts.get("peak_device_memory") or facts.get("peak_memory_rounds")
    memory = memory or facts.get("peak_memory")
    scale, unit = _unit(seconds["median"])
    low, high = (f"{scale * x:.4g}" for x in seconds["quartiles"])
    return (
        contestant["name"],
        f"{scale * seconds['median']:.4g} {unit}",
        f"{low}-{high}",
        "" if contestant["ratio"] is None else f"{contestant['ratio']['median']:.2f}",
        "" if rate is None else f"{rate:,.0f}",
        "" if mfu is None else f"{mfu:.1%}",
        f"{memory / 2**20:,.0f} MiB" if memory else "",
    )


def _unit(seconds: float) -> tuple[float, str]:
    """The largest unit in which the time is at least 1, and how many of it are in a second."""
    for scale, unit in reversed(_UNITS):
        if seconds * scale >= 1:
            return scale, unit
    return _UNITS[0]


def picture(comparisons: Sequence[Mapping[str, Any]]) -> bytes:
    """The ratios of every comparison as horizontal bars, in PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    counts = [len(c["contestants"]) for c in comparisons]
    figure, all_axes = plt.subplots(
        len(comparisons), figsize=(8, sum(0.4 * n + 1.3 for n in counts)), dpi=120,
        layout="constrained", squeeze=False, gridspec_kw={"height_ratios": [n + 1 for n in counts]},
    )  # fmt: skip
    for axes, comparison in zip(all_axes[:, 0], comparisons):
        _draw(axes, comparison)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    plt.close(figure)
    return file.getvalue()


def _draw(axes: Any, comparison: Mapping[str, Any]) -> None:
    # Here, for it imports JAX.
    from lm.train.plot import INK, MUTED, TRAIN, VALIDATION

    title = f"{comparison['suite']}, shape {comparison['shape']}\n{comparison['description']}"
    axes.set_title(title, color=INK, loc="left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    contestants = comparison["contestants"]
    if not any(c["name"] == comparison["base"] for c in contestants):
        axes.annotate(f"no ratios: {comparison['base']} did not run", (0.02, 0.5), color=INK)
        axes.set_yticks([])
        return
    ratios = [c["ratio"] for c in contestants]
    medians = [ratio["median"] for ratio in ratios]
    places = range(len(contestants))
    colours = [VALIDATION[0] if _is_peer(c["name"]) else TRAIN for c in contestants]
    errors = [
        [median - ratio["quartiles"][0] for median, ratio in zip(medians, ratios)],
        [ratio["quartiles"][1] - median for median, ratio in zip(medians, ratios)],
    ]
    axes.barh(places, medians, color=colours, height=0.6, xerr=errors, ecolor=MUTED, capsize=2)
    for place, ratio in zip(places, ratios):
        axes.annotate(
            f"{ratio['median']:.2f}", (ratio["quartiles"][1], place), (6, 0),
            textcoords="offset points", va="center", color=INK, fontsize=9,
        )  # fmt: skip
    axes.axvline(1.0, color=MUTED, linewidth=0.8)
    axes.set_yticks(places, [c["name"] for c in contestants])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(ratio["quartiles"][1] for ratio in ratios))
    axes.set_xlabel(f"time a {comparison['unit']}, over that of {comparison['base']}", color=INK)


def _is_peer(name: str) -> bool:
    return name.startswith(("torch", "transformers"))
