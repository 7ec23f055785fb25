"""Learning rates that get smaller from the heads down, layer by layer (ELECTRA, BERT, BEiT).

With a factor f, what stands above the layers (heads, the pooler, norms after the last layer) has
f^0, the last layer f^1, the first of L layers f^L, and the embeddings f^(L + 1). Every stack is
counted from its own top; embeddings lie below the deepest one. (ELECTRA's code, Clark et al. 2020,
has one more power below the heads: f^2 to f^(L + 1) for the layers, f^(L + 2) for embeddings.)

Layers have parameters of their own however they run, so that scanned layers need nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_LAYER = re.compile(r"((?:.*/)?)layer_(\d+)/.*")
# What the first layer reads, and the distances (T5) that all layers look up.
_BELOW = re.compile(
    r"((?:.*/)?)(\w+_embedding|embedding_norm|embedding_projection|relative_bias)/.*"
)


def layer_factors(paths: Iterable[str], decay: float) -> dict[str, float]:
    """The factor on the learning rate of every parameter, by path (`layer_0/mlp/up/kernel`)."""
    layers = {path: _LAYER.fullmatch(path) for path in paths}
    tops: dict[str, int] = {}
    for found in layers.values():
        if found is not None:
            stack, number = found[1], int(found[2])
            tops[stack] = max(tops.get(stack, 0), number)
    factors = {}
    for path, found in layers.items():
        depth = 0
        if found is not None:
            depth = tops[found[1]] - int(found[2]) + 1
        elif _BELOW.fullmatch(path) is not None:
            depth = max(tops.values(), default=0) + 2
        factors[path] = decay**depth
    return factors
