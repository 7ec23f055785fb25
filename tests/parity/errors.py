"""How far lm is from the reference, and how far is too far.

The measure, everywhere: the largest difference in a tensor over the largest number in it. A tensor
that is 0 but for rounding (the gradient of a key's bias: adding it to every score changes nothing)
has no size of its own; its differences are measured by the largest of all tensors of its kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tests.parity.cases import Case, Inputs

# float32's unit in the last place, times the root of the terms in the longest sums (up to 64:
# widths, tokens of a batch), times the root of the operations one after another (about 64 forward
# and backward through these models): rounding errors add up like random steps. One number for
# every family and every tensor.
TOLERANCE = float(np.finfo(np.float32).eps) * 8 * 8

# Beyond it float64 decides: a result may be this many times as far from the true one as the
# reference's own float32 is. (Then the numbers are sensitive, not the computation wrong.)
AS_EXACT = 4.0

# Tokens are the same for a reason, not by luck, where the closest choice was this many times wider
# than the largest difference of log-probabilities.
CLEAR = 100


class Error(NamedTuple):
    """apart: lm and the reference, both in float32; lm, reference: each from float64."""

    apart: float
    lm: float
    reference: float

    @property
    def good(self) -> bool:
        return self.apart <= TOLERANCE or self.lm <= AS_EXACT * self.reference


Errors = dict[str, Error]


def errors(
    lm: Mapping[str, np.ndarray], single: Mapping[str, np.ndarray], double: Mapping[str, np.ndarray]
) -> Errors:
    """Of every tensor of the reference's: all of them must be there, in its shape.

    Raises:
      AssertionError: names or shapes differ, or something is not a finite number.
    """
    missing, unknown = sorted(set(single) - set(lm)), sorted(set(lm) - set(single))
    assert not missing and not unknown, f"only there: {missing}; only here: {unknown}"
    scales = sizes(double)
    result = {}
    for name, exact in double.items():
        assert lm[name].shape == exact.shape, f"{name}: {lm[name].shape} for {exact.shape}"
        assert np.isfinite(lm[name]).all() and np.isfinite(exact).all(), f"{name} is not finite"
        pairs = ((lm[name], single[name]), (lm[name], exact), (single[name], exact))
        distances = [float(np.max(np.abs(a - b), initial=0)) / scales[name] for a, b in pairs]
        result[name] = Error(*distances)
    return result


def sizes(exact: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The number by which each tensor's differences are measured."""
    own = {name: float(np.max(np.abs(x), initial=0)) for name, x in exact.items()}
    largest = max(own.values())
    return {name: size if size >= 1e-9 * largest else largest for name, size in own.items()}


def visible(case: Case, outputs: Mapping[str, np.ndarray], inputs: Inputs) -> dict[str, np.ndarray]:
    """Without what stands at padding, which means nothing, and the older part of XLNet's memory,
    which the reference forgets by itself."""
    source = inputs["attention_mask"].astype(bool)
    source = source.reshape(-1, source.shape[-1])
    target = inputs.get("decoder_attention_mask", source).astype(bool)
    result = {}
    for name, x in outputs.items():
        mask = source if name.startswith("encoder/") else target
        if name.startswith("memory/"):
            x = x[:, -int(case.config["mem_len"]) :]
        # The logits of choices are [B, choices], whatever that happens to be equal to.
        elif x.shape[:2] == mask.shape and not (name == "logits" and case.task == "choice"):
            x = x[mask]
        result[name] = x
    return result
