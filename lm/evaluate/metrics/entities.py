"""Named entities from tags of words, as seqeval finds and counts them by default (conlleval)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from lm.errors import UserError
from lm.evaluate.metrics.classification import Counts, averaged
from lm.evaluate.metrics.common import Scores, Values, as_list, pairs, texts

_TAG = re.compile(r"O|([BIES])(?:-(.*))?", re.DOTALL)


def entities(predictions: Values, references: Values, *, average: str = "micro") -> Scores:
    """Precision, recall and F1 of entities: right are those with the same words and type.

    Args:
      predictions, references: a sequence of tags for each sentence.
      average: over the types of entities; see `classification.f1`.

    Raises:
      UserError: not as many tags for a sentence as it has; a tag that is none.
    """
    hits: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    actual: Counter[str] = Counter()
    for index, (found, wanted) in enumerate(zip(*pairs(predictions, references))):
        found = texts(as_list(found, f"predictions[{index}]"), f"predictions[{index}]")
        wanted = texts(as_list(wanted, f"references[{index}]"), f"references[{index}]")
        if len(found) != len(wanted):
            raise UserError(
                f"sentence {index} has {len(wanted)} tags in the references, and {len(found)} "
                "predicted"
            )
        ours, theirs = set(spans(found)), set(spans(wanted))
        hits.update(kind for kind, _, _ in ours & theirs)
        predicted.update(kind for kind, _, _ in ours)
        actual.update(kind for kind, _, _ in theirs)
    kinds = sorted(predicted | actual)
    columns = (np.array([c[kind] for kind in kinds], np.int64) for c in (hits, predicted, actual))
    return {f"entity_{name}": value for name, value in averaged(Counts(*columns), average).items()}


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
