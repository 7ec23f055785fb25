"""Chinchilla's parametric scaling law, fitted again to the points of its figure.

lm reproduce experiments/chinchilla
"""

from __future__ import annotations

from typing import Any

from experiments.chinchilla.sweep import VARIANTS

# Besiroglu et al. 2024, the fit without the five outliers; and Hoffmann et al. 2022, section 3.3.
REFIT = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
WORDS = {
    "E": "The loss that no model gets below",
    "A": "The coefficient of the parameters' term",
    "B": "The coefficient of the tokens' term",
    "alpha": "The exponent of the parameters",
    "beta": "The exponent of the tokens",
}
LAW = "L(N, D) = E + A / N^alpha + B / D^beta"
RELATIVE = ("A", "B")


def refit(name: str) -> dict[str, Any]:
    tolerance = {"tolerance": 0.1, "relative": True} if name in RELATIVE else {"tolerance": 0.01}
    return {
        "id": f"A2-{name}",
        "sentence": f"{WORDS[name]} is {REFIT[name]:g} (Hoffmann et al. had {HOFFMANN[name]:g}).",
        "where": "Besiroglu et al., their fit of n = 240",
        "published": REFIT[name],
        "unit": "nats per token" if name == "E" else "",
        "measure": "refit",
        "quantities": (name,),
        "check": {"kind": "within", **tolerance},
        "why": "the same points and the same recipe; coefficients are the less certain numbers",
        "scale": "cpu",
        "figure": "law",
    }


def own(name: str) -> dict[str, Any]:
    return {
        "id": f"A2-own-{name}",
        "sentence": f"{WORDS[name]}, of twelve byte-level models of ours.",
        "where": "beside Hoffmann et al., section 3.3",
        "published": HOFFMANN[name],
        "measure": "own",
        "quantities": (name,),
        "check": {"kind": "reported"},
        "proxy": "33 thousand to 0.8 million parameters on 0.37 to 1.5 million bytes",
        "scale": "cpu",
        "figure": "own_law",
    }


PAPER: dict[str, Any] = {
    "title": "Chinchilla's scaling law, fitted again",
    "reference": "Hoffmann et al. 2022, Training Compute-Optimal Large Language Models; "
    "T. Besiroglu, E. Erdil, M. Barnett, J. You 2024, Chinchilla Scaling: A replication attempt",
    "summary": f"{LAW} is fitted to 240 of the 245 points read off Chinchilla's Figure 4, and to "
    "models of ours.",
    "deviations": (
        "BFGS starts from the 30 best points of Hoffmann et al.'s grid, not from all 4500: they "
        "come to the same minimum.",
    ),
    "runs": {
        name: {"config": f"experiments/chinchilla/sweep.py:{name}", "cost": "a minute or two"}
        for name in VARIANTS
    },
    "measures": {
        "refit": {
            "kind": "scaling_points",
            "path": "chinchilla/svg_extracted_data.csv",
            "drop": 5,
            "bootstrap": 200,
        },
        "own": {"kind": "scaling_runs", "runs": tuple(VARIANTS)},
    },
    "claims": (*map(refit, REFIT), own("alpha"), own("beta")),
    "figures": {
        "law": {
            "kind": "scaling_law",
            "measure": "refit",
            "title": "The fitted law and what it says of compute",
            "message": "Lines of equal loss (nats per token), the points of the fit, and the "
            "compute-optimal sizes by three sets of numbers.",
            "published": {
                "Hoffmann et al.": tuple(HOFFMANN.values()),
                "Besiroglu et al.": tuple(REFIT.values()),
            },
        },
        "own_law": {
            "kind": "scaling_law",
            "measure": "own",
            "title": "The law of our own small models",
            "message": "Twelve runs; lines of equal loss in nats per byte.",
        },
    },
}
