"""chrF: n-grams of characters that a text shares with a reference; as sacrebleu computes it."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Real

from lm.errors import ConfigError
from lm.evaluate.metrics.common import Scores, Values, compared_texts, ngrams, ratio

# The longest n-grams of characters, and how much more recall weighs than precision.
ORDERS, BETA = 6, 2


def chrf(
    predictions: Values, references: Values, *, word_order: int = 0, lowercase: bool = False
) -> Scores:
    """Corpus chrF (Popović 2015) of plain text: F2 of characters' n-grams up to 6, as sacrebleu
    computes it: precision and recall are means over the orders that both texts have.

    Args:
      word_order: words' n-grams as well; 2 is chrF++ (Popović 2017).
    """
    found, wanted = compared_texts(predictions, references)
    rows = [
        chrf_counts(p, some, word_order=word_order, lowercase=lowercase)
        for p, some in zip(found, wanted)
    ]
    return chrf_of_counts(np.sum(rows, axis=0))


def chrf_counts(
    prediction: str, references: Sequence[str], *, word_order: int = 0, lowercase: bool = False
) -> Int[np.ndarray, "k"]:
    """What one example adds to corpus chrF: for every order the n-grams predicted, those of the
    reference, and those right; of several references that with the best chrF."""
    if word_order < 0:
        raise ConfigError(f"word_order must be 0 or more, not {word_order}")
    ours = _ngrams(prediction, word_order, lowercase)
    best, best_score = np.zeros(3 * len(ours), np.int64), -1.0
    for reference in references:
        row: list[int] = []
        for mine, theirs in zip(ours, _ngrams(reference, word_order, lowercase)):
            # An order that the reference is too short for does not count.
            row += [mine.total() if theirs else 0, theirs.total(), (mine & theirs).total()]
        counts = np.array(row, np.int64)
        if (score := chrf_of_counts(counts)["chrf"]) > best_score:
            best, best_score = counts, score
    return best


def chrf_of_counts(counts: Real[np.ndarray, "k"]) -> Scores:
    """chrF of summed `chrf_counts`."""
    predicted, actual, right = counts.reshape(-1, 3).T
    both = (predicted > 0) & (actual > 0)
    if not both.any():
        return {"chrf": 0.0}
    precision = float(np.mean(right[both] / predicted[both]))
    recall = float(np.mean(right[both] / actual[both]))
    weight = BETA**2
    return {"chrf": 100 * ratio((1 + weight) * precision * recall, weight * precision + recall)}


def _ngrams(text: str, word_order: int, lowercase: bool) -> list[Counter[Any]]:
    text = text.lower() if lowercase else text
    characters = "".join(text.split())
    words = [part for word in text.split() for part in _off_punctuation(word)] if word_order else []
    found: list[Counter[Any]] = [
        Counter(characters[i : i + n] for i in range(len(characters) - n + 1))
        for n in range(1, ORDERS + 1)
    ]
    return found + [ngrams(words, n) for n in range(1, word_order + 1)]


def _off_punctuation(word: str) -> list[str]:
    """A sign at the end of a word apart from it, or else one at its beginning."""
    if len(word) > 1 and word[-1] in string.punctuation:
        return [word[:-1], word[-1]]
    if len(word) > 1 and word[0] in string.punctuation:
        return [word[0], word[1:]]
    return [word]
