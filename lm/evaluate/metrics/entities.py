"""Tags of words: how many are right, and named entities as seqeval finds and counts them by default
(conlleval)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Real

from lm.errors import UserError
from lm.evaluate.metrics.classification import averaged, counts_of_sums
from lm.evaluate.metrics.common import Scores, Values, as_list, pairs, ratio, texts

_TAG = re.compile(r"O|([BIES])(?:-(.*))?", re.DOTALL)


def entities(predictions: Values, references: Values, *, average: str = "micro") -> Scores:
    """Precision, recall and F1 of entities: right are those with the same words and type.

    Args:
      predictions, references: a sequence of tags for each sentence.
      average: over the types of entities; see `classification.f1`.

    Raises:
      UserError: not as many tags for a sentence as it has; a tag that is none.
    """
    _, rows = entity_counts(predictions, references)
    return entities_of_counts(rows.sum(axis=0), average=average)


def entity_counts(
    predictions: Values, references: Values
) -> tuple[list[str], Int[np.ndarray, "n k"]]:
    """The types of entities, sorted; and for each sentence how many of each type are right, then
    those predicted, then those of the references. Sums over sentences make `entities`."""
    each = []
    for index, (found, wanted) in enumerate(zip(*pairs(predictions, references))):
        ours, theirs = map(set, map(spans, _of_a_sentence(index, found, wanted)))
        each.append(
            [Counter(kind for kind, _, _ in some) for some in (ours & theirs, ours, theirs)]
        )
    kinds = sorted({kind for counters in each for counter in counters for kind in counter})
    rows = [[counter[kind] for counter in counters for kind in kinds] for counters in each]
    return kinds, np.array(rows, np.int64).reshape(len(each), 3 * len(kinds))


def entities_of_counts(sums: Real[np.ndarray, "k"], *, average: str = "micro") -> Scores:
    """`entities` of summed `entity_counts`."""
    scores = averaged(counts_of_sums(sums), average)
    return {f"entity_{name}": value for name, value in scores.items()}


def word_accuracy(predictions: Values, references: Values) -> Scores:
    """The share of words with the right tag.

    Args:
      predictions, references: a sequence of tags for each sentence.
    """
    return word_accuracy_of_counts(word_counts(predictions, references).sum(axis=0))


def word_accuracy_of_counts(sums: Real[np.ndarray, "2"]) -> Scores:
    """`word_accuracy` of summed `word_counts`."""
    return {"word_accuracy": ratio(int(sums[0]), int(sums[1]))}


def word_counts(predictions: Values, references: Values) -> Int[np.ndarray, "n 2"]:
    """For each sentence the words with the right tag, and all of them."""
    rows = []
    for index, (found, wanted) in enumerate(zip(*pairs(predictions, references))):
        ours, theirs = _of_a_sentence(index, found, wanted)
        rows.append([sum(p == r for p, r in zip(ours, theirs)), len(theirs)])
    return np.array(rows, np.int64)


def _of_a_sentence(index: int, found: Values, wanted: Values) -> tuple[list[str], list[str]]:
    """Its tags, as many predicted as there are."""
    ours = texts(as_list(found, f"predictions[{index}]"), f"predictions[{index}]")
    theirs = texts(as_list(wanted, f"references[{index}]"), f"references[{index}]")
    if len(ours) != len(theirs):
        raise UserError(
            f"sentence {index} has {len(theirs)} tags in the references, and {len(ours)} predicted"
        )
    return ours, theirs


def is_tag(tag: str) -> bool:
    """Whether it is one that `spans` reads."""
    return _TAG.fullmatch(tag) is not None


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The entities of one sentence: (type, first word, one past its last).

    BIO and BIOES alike, and forgiving: an entity also begins with I or E where none is open, or
    one of another type; it goes on until O, B, S, another type, or past E or S. A tag without a
    type ("B") has the type "_".

    Raises:
      UserError: a tag that is neither O nor B, I, E or S with a type ("B-PER").
    """
    found = []
    begin, kind, closed = 0, "", True
    for place, tag in enumerate([*tags, "O"]):
        match = _TAG.fullmatch(tag)
        if match is None:
            raise UserError(
                f"{tag!r} is no tag: they are 'O', and 'B-', 'I-', 'E-' or 'S-' with a type"
            )
        letter, this = match[1] or "O", match[2] or "_"
        follows = not closed and letter in "IE" and this == kind
        if not follows:
            if kind:
                found.append((kind, begin, place))
            begin, kind = place, this if letter != "O" else ""
        closed = letter in "OES"
    return found
