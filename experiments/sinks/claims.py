"""Attention sinks: a window over the last tokens needs the first ones too.

lm reproduce experiments/sinks --scale=paper
"""

from __future__ import annotations

from typing import Any

CACHES = {
    "window": (5158.07, "the last 1024 tokens"),
    "first-4": (5.40, "the first 4 tokens and the last 1020"),
}

PAPER: dict[str, Any] = {
    "title": "Attention sinks: Llama 2 13B on a long text",
    "reference": "G. Xiao, Y. Tian, B. Chen, S. Han, M. Lewis 2023, Efficient Streaming Language "
    "Models with Attention Sinks",
    "summary": "A model trained with full attention reads on and on when its cache keeps the first "
    "tokens beside the last. There is no configuration of it here: lm's windows are a model's own, "
    "and its caches drop nothing. The numbers are kept to say what one would have to come to.",
    "measures": {
        "perplexity": {
            "kind": "recorded",
            "names": tuple(CACHES),
            "how": "lm has no cache that drops tokens; measure with the released code",
        }
    },
    "claims": tuple(
        {
            "id": f"C6-sinks-{name}",
            "sentence": f"Llama 2 13B has a perplexity of {value:g} on a book when its cache keeps "
            f"{kept}.",
            "where": "Table 1",
            "published": value,
            "unit": "perplexity on the first book of PG-19 (65 thousand tokens)",
            "measure": "perplexity",
            "quantities": (name,),
            "check": {"kind": "within", "tolerance": 0.02, "relative": True},
            "why": "nothing is drawn at random; precision and kernels differ",
            "scale": "paper",
        }
        for name, (value, kept) in CACHES.items()
    ),
}
