"""Rows longer than in training: sinusoids, ALiBi, and rotations with position interpolation.

lm reproduce experiments/alibi
"""

from __future__ import annotations

from typing import Any

FILE = "experiments/alibi/lengths.py"
SCHEMES, TUNED = ("sinusoidal", "alibi", "rotary"), "interpolated"
LENGTH, TIMES = 64, (1, 2, 4, 8, 16)
PROXY = "0.8 million parameters on bytes, rows of 64"
# By label, the quantities that a line is of, and how many times the length of training each is at.
LINES = {
    **{name: {f"{name}-x{n}": n for n in TIMES} for name in SCHEMES},
    "rotary, slowed": {f"rotary-pi-x{n}": n for n in TIMES[1:]},
    "slowed 4 times, trained": {f"{TUNED}-x{n}": n for n in TIMES},
}
# (times the length of training, perplexity over that at the length of training). Press et al. have
# sinusoids at 532, 602 and 15512 tokens after training at 512: over the first of these.
PUBLISHED = {
    "sinusoidal": ((1.04, 1.0), (1.18, 20.40 / 19.91), (30.3, 406 / 19.91)),
    "alibi": ((1.0, 1.0), (6.0, 18.40 / 19.73)),
    "rotary, slowed": ((4.0, 16.10 / 7.20),),
    "slowed 4 times, trained": ((4.0, 7.12 / 7.20),),
}

PAPER: dict[str, Any] = {
    "title": "Train short, test long: ALiBi and position interpolation",
    "reference": "O. Press, N. Smith, M. Lewis 2022, Train Short, Test Long (ALiBi); S. Chen et "
    "al. 2023, Extending Context Window of Large Language Models via Positional Interpolation",
    "summary": "Perplexity at 1 to 16 times the length of training.",
    "deviations": (
        "Small models on bytes of documentation; the papers' are 247 M parameters on WikiText-103 "
        "and LLaMA-7B.",
        "The perplexity at the length of training is that of rows of 64 bytes, where the first "
        "bytes of a row have little before them: longer rows would be easier for a model that "
        "takes no harm from them.",
    ),
    "runs": {
        **{name: {"config": f"{FILE}:{name}", "cost": "6 min on 2 CPU cores"} for name in SCHEMES},
        TUNED: {
            "config": f"{FILE}:{TUNED}",
            "after": "rotary",
            "cost": "half a minute on 2 CPU cores",
        },
    },
    "measures": {
        "perplexity": {
            "kind": "lengths",
            "runs": (*SCHEMES, TUNED),
            "times": TIMES,
            "interpolated": ("rotary",),
            "trained_on": {TUNED: "rotary"},
        },
        "wikitext103": {
            "kind": "recorded",
            "names": ("512 to 3072",),
            "how": "theirs is a model of 267,744 words with adaptive embeddings and an adaptive "
            "softmax (Baevski & Auli 2018), which lm does not have; measure with their code",
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
        {
            "id": "A6-tuned",
            "sentence": "After a tenth of the steps more, on rows 4 times as long, they are as "
            "good there as the model was at the length it was trained at (LLaMA-7B, 200 steps: "
            "7.12 at 8k, 7.20 at 2k before).",
            "where": "Chen et al., Table 1",
            "published": 0.989,
            "unit": "perplexity at 4 times the length over the untuned model's at once",
            "measure": "perplexity",
            "quantities": (f"{TUNED}-x4-ratio",),
            "check": {"kind": "at_most", "bound": 1.02},
            "proxy": PROXY,
            "scale": "cpu",
            "figure": "ratios",
        },
        {
            "id": "C6-alibi",
            "sentence": "ALiBi with 247 M parameters, trained on rows of 512 words of "
            "WikiText-103, has a perplexity of 18.40 on rows of 3072.",
            "where": "Press et al., Figure 1 and appendix",
            "published": 18.40,
            "unit": "perplexity per word",
            "measure": "wikitext103",
            "quantities": ("512 to 3072",),
            "check": {"kind": "within", "tolerance": 0.2},
            "why": "what their seeds differ by is not published; a hundredth",
            "scale": "paper",
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
                label: {name: LENGTH * n for name, n in places.items()}
                for label, places in LINES.items()
            },
            "mark": LENGTH,
            "x_label": "length of rows (bytes)",
            "y_label": "perplexity per byte",
            "log_x": True,
            "log_y": True,
        },
        "ratios": {
            "kind": "lines",
            "measure": "perplexity",
            "title": "Perplexity over that at the length of training",
            "message": "The same, with what was published as squares: words of WikiText-103 "
            "(sinusoids, ALiBi) and LLaMA-7B (rotations). LLaMA's at 4 times the length without "
            "interpolation is above 139, and not drawn.",
            "lines": {
                label: {f"{name}-ratio": n for name, n in places.items()}
                for label, places in LINES.items()
            },
            "published": PUBLISHED,
            "mark": 1,
            "x_label": "length of rows over the length of training",
            "y_label": "perplexity over that at the length of training",
            "log_x": True,
            "log_y": True,
        },
    },
}
