"""What needs no model: the floor that a trained one has to be above.

Token losses stand beside the unigram: every target predicted from how often tokens are targets in
the training data. Yes-or-no questions stand beside the more frequent answer, always given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float

from lm.types import Features

# Of training targets; enough for the frequencies of a small vocabulary.
TARGETS = 500_000
# Added to every count, so that a token unseen in training has a probability.
_ADDED = 0.5


def unigram(batches: Iterable[Features], vocab_size: int) -> Float[np.ndarray, "V"]:
    """Probabilities of tokens as targets of the training `batches`, read up to `TARGETS`."""
    counts = np.zeros(vocab_size)
    for batch in batches:
        counts += np.bincount(
            batch["targets"].ravel(), batch["weights"].ravel().astype(float), vocab_size
        )
        if counts.sum() >= TARGETS:
            break
    return (counts + _ADDED) / (counts + _ADDED).sum()


def token_baseline(
    batches: Iterable[Features], probabilities: Float[np.ndarray, "V"]
) -> dict[str, float]:
    """The unigram's cross-entropy of the batches' targets (nats a token), and the accuracy of
    always answering the most frequent token; nothing where no target has a weight."""
    log_p, best = np.log(probabilities), int(probabilities.argmax())
    loss = right = total = 0.0
    for batch in batches:
        targets, weights = batch["targets"], batch["weights"]
        loss -= float((log_p[targets] * weights).sum())
        right += float(((targets == best) * weights).sum())
        total += float(weights.sum())
    return {"loss": loss / total, "accuracy": right / total} if total else {}


def masked_baseline(
    batches: Iterable[Features], probabilities: Float[np.ndarray, "V"], mask_id: int | None
) -> dict[str, float]:
    """As `token_baseline`, of predictions that see what now stands at their own place: some tokens
    to be predicted are not masked (all, without a `mask_id`), and some of those stay as they were.
    """
    rows = [(batch["tokens"], batch["targets"], batch["weights"] > 0) for batch in batches]
    inputs = np.concatenate([tokens[chosen] for tokens, _, chosen in rows])
    targets = np.concatenate([targets[chosen] for _, targets, chosen in rows])
    if not len(targets):
        return {}
    seen, same = inputs != mask_id, inputs == targets
    share = float(same[seen].mean()) if seen.any() else 0.0
    p = probabilities[targets] * np.where(seen, 1.0 - share, 1.0) + share * (same & seen)
    copies = seen & (share > probabilities.max())
    right = np.where(copies, same, targets == probabilities.argmax())
    return {"loss": float(-np.log(p).mean()), "accuracy": float(right.mean())}


def pair_baseline(batches: Iterable[Features]) -> dict[str, float]:
    """Entropy (nats) and accuracy of always giving the more frequent of the two answers; nothing
    where no row holds a pair."""
    yes = total = 0.0
    for batch in batches:
        yes += float((batch["is_next"] * batch["pair_weights"]).sum())
        total += float(batch["pair_weights"].sum())
    if not total:
        return {}
    return {f"pair_{name}": value for name, value in binary_baseline(yes / total).items()}


def binary_baseline(share: float) -> dict[str, float]:
    """Entropy (nats) and accuracy of a yes-or-no answer that is yes in `share` of all cases."""
    parts = (share, 1 - share)
    return {"loss": -sum(p * math.log(p) for p in parts if p), "accuracy": max(parts)}


def replaced_baseline(
    generator: Mapping[str, float], means: Mapping[str, float] | None
) -> dict[str, float]:
    """For replaced-token detection: the generator beside what needs none (`generator`, a
    `masked_baseline`), and the model beside saying of no token that it was replaced, whose F1 is
    0. `means` are the model's, as its own generator says how many are replaced; None where it
    answers another question."""
    found = {f"generator_{name}": value for name, value in generator.items()}
    return found if means is None else found | binary_baseline(means["replaced"]) | {"f1": 0.0}
