"""Rows longer than in training: sinusoids, ALiBi, and rotations with position interpolation.

lm reproduce experiments/alibi
"""

from __future__ import annotations

from typing import Any

RUNS = ("sinusoidal", "alibi", "rotary")
LENGTH, TIMES = 64, (1, 2, 4, 8, 16)
PROXY = "0.8 million parameters on bytes, rows of 64"

PAPER: dict[str, Any] = {
    "title": "Train short, test long: ALiBi and position interpolation",
    "reference": "O. Press, N. Smith, M. Lewis 2022, Train Short, Test Long (ALiBi); S. Chen et "
    "al. 2023, Extending Context Window of Large Language Models via Positional Interpolation",
    "summary": "Perplexity at 1 to 16 times the length of training.",
    "deviations": (
        "Small models on bytes of documentation; the papers' are 247 M parameters on WikiText-103 "
        "and LLaMA-7B.",
        "Position interpolation is not trained further here.",
    ),
    "runs": {
        name: {"config": f"experiments/alibi/lengths.py:{name}", "cost": "6 min on 2 CPU cores"}
        for name in RUNS
    },
    "measures": {
        "perplexity": {
            "kind": "lengths",
            "runs": RUNS,
            "times": TIMES,
            "interpolated": ("rotary",),
        },
    },
    "claims": (
        {
            "id": "A6-sinusoidal",
            "sentence": "Sinusoids do not go on beyond the length of training: at 4 times the "
            "length the perplexity is 1.3 times as high or more (theirs, trained at 512: 19.91 at "
            "532, 406 at 15512).",
            "where": "Press et al., Figure 1 and appendix",
            "unit": "perplexity at 4 times the length over that at once",
            "measure": "perplexity",
            "quantities": ("sinusoidal-x4-ratio",),
            "check": {"kind": "at_least", "bound": 1.3},
            "proxy": PROXY,
            "scale": "cpu",
            "figure": "lengths",
        },
        {
            "id": "A6-alibi",
            "sentence": "ALiBi does: longer rows are no harder (theirs, trained at 512: 19.73 "
            "there, 18.40 at 3072).",
            "where": "Press et al., Figure 1 and appendix",
            "published": 0.933,
            "unit": "perplexity at 4 times the length over that at once (published: at 6 times)",
            "measure": "perplexity",
            "quantities": ("alibi-x4-ratio",),
            "check": {"kind": "at_most", "bound": 1.01},
            "proxy": PROXY,
            "scale": "cpu",
            "figure": "lengths",
        },
        {
            "id": "A6-interpolation",
            "sentence": "Rotations slowed 4 times are better at 4 times the length than as they "
            "were trained, before any further training (LLaMA-7B at 8k: 16.10 and above 1000).",
            "where": "Chen et al., Table 1 and section 3.2",
            "unit": "perplexity, direct less interpolated",
            "measure": "perplexity",
            "quantities": ("rotary-pi-x4", "rotary-x4"),
            "check": {"kind": "ordered", "direction": "rising"},
            "proxy": PROXY,
            "scale": "cpu",
            "figure": "lengths",
        },
    ),
    "figures": {
        "lengths": {
            "kind": "lines",
            "measure": "perplexity",
            "title": "Perplexity against the length of rows",
            "message": "A line a position scheme; dotted: the length of training, 64 bytes. Rows "
            "are cut without overlap.",
            "lines": {
                **{name: {f"{name}-x{n}": LENGTH * n for n in TIMES} for name in RUNS},
                "rotary, interpolated": {f"rotary-pi-x{n}": LENGTH * n for n in TIMES[1:]},
            },
            "mark": LENGTH,
            "x_label": "length of rows (bytes)",
            "y_label": "perplexity per byte",
            "log_x": True,
            "log_y": True,
        },
    },
}
