"""Answers to questions about a text: SQuAD v1.1 and v2, and CMRC 2018. All figures in per cent.

References are the gold answers of each question (several, or one text); the best counts. An
unanswerable question has none.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from lm.errors import UserError
from lm.evaluate.metrics.common import Scores, Values, number_array, pairs, text_lists, texts

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


# ------------------------------------------------------------------------------------------ SQuAD


def squad(predictions: Values, references: Values) -> Scores:
    """Exact match and F1 as SQuAD v1.1's script (Rajpurkar et al. 2016) computes them.

    Raises:
      UserError: a question without an answer (see `squad_v2`).
    """
    found, wanted = pairs(predictions, references)
    golds = _answered(wanted, "; squad_v2 is for questions that have none")
    texts(found, "predictions")
    exact = [max(exact_match(p, gold) for gold in some) for p, some in zip(found, golds)]
    # Version 1.1 gives two answers that normalise to nothing an exact match, but no F1.
    shared = [
        max(token_f1(p, gold) if _normal(p) else 0.0 for gold in some)
        for p, some in zip(found, golds)
    ]
    return {"exact_match": _percent(exact), "f1": _percent(shared)}


def squad_v2(predictions: Values, references: Values, *, threshold: float | None = None) -> Scores:
    """Exact match and F1 as SQuAD v2's script (Rajpurkar et al. 2018) computes them.

    An empty prediction says that there is no answer, which is right where the references are
    empty. Figures of the answerable questions begin with "has_answer_", of the others with
    "no_answer_", where there are any.

    Args:
      predictions: texts; or pairs of a text and a score, the higher the likelier that there is no
        answer. Scores add the best exact match and F1 of any threshold, and that threshold: the
        texts of questions that score higher are dropped. Ties are taken in the order given, as
        the script does; where dropping every text is best the threshold is the script's 0, or
        less if a score is.
      threshold: drops texts by this threshold for all other figures; it needs scores.

    Raises:
      UserError: neither texts nor pairs, or a threshold without scores.
    """
    found, wanted = pairs(predictions, references)
    answers, scores = _with_scores(found)
    golds = text_lists(wanted, "references")
    answerable = np.array([bool(some) for some in golds])
    # Answers that normalise to nothing do not count, but for telling what is answerable.
    golds = [[gold for gold in some if _normal(gold)] or [""] for some in golds]
    raw = {
        "exact_match": [max(exact_match(p, g) for g in some) for p, some in zip(answers, golds)],
        "f1": [max(token_f1(p, g) for g in some) for p, some in zip(answers, golds)],
    }
    if threshold is not None and scores is None:
        raise UserError("a threshold needs predictions with scores: pairs of a text and a number")
    result: Scores = {}
    for name, values in raw.items():
        each = np.array(values, np.float64)
        if threshold is not None and scores is not None:
            each = np.where(scores > threshold, ~answerable, each)
        result[name] = _percent(each)
        for group, members in (("has_answer", answerable), ("no_answer", ~answerable)):
            if members.any():
                result[f"{group}_{name}"] = _percent(each[members])
    if scores is not None:
        for name, values in raw.items():
            best, where = _best_threshold(answers, values, scores, answerable)
            result |= {f"best_{name}": best, f"best_{name}_threshold": where}
    return result


def exact_match(prediction: str, gold: str) -> float:
    """1 if both normalise to the same: lower case, no punctuation (ASCII's), no articles, single
    spaces."""
    return float(_normal(prediction) == _normal(gold))


def token_f1(prediction: str, gold: str) -> float:
    """F1 of the words that both have, after normalisation; two empty answers agree fully."""
    found, wanted = _normal(prediction).split(), _normal(gold).split()
    if not found or not wanted:
        return float(found == wanted)
    return _f1((Counter(found) & Counter(wanted)).total(), len(found), len(wanted))


def _normal(text: str) -> str:
    plain = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def _with_scores(predictions: list[Any]) -> tuple[list[str], np.ndarray | None]:
    if all(isinstance(p, (list, tuple)) and len(p) == 2 for p in predictions):
        answers, scores = zip(*predictions)
        return texts(list(answers), "predictions"), number_array(scores, "no-answer scores")
    return texts(predictions, "predictions"), None


def _best_threshold(
    answers: Sequence[str], values: Sequence[float], scores: np.ndarray, answerable: np.ndarray
) -> tuple[float, float]:
    """The best mean, and the highest score that keeps its text there."""
    # Keeping one more text gains its value; it loses the point of an unanswerable question, whose
    # text, though, must be empty as it stands (before normalisation) not to.
    gains = [
        value if has else -float(bool(text))
        for text, value, has in zip(answers, values, answerable)
    ]
    order = np.argsort(scores, kind="stable")
    reached = (~answerable).sum() + np.cumsum(np.array(gains, np.float64)[order])
    none_kept = float((~answerable).sum())
    if reached.max() <= none_kept:
        lowest = float(scores.min())
        threshold = 0.0 if lowest > 0 else float(np.nextafter(lowest, -np.inf))
        return 100 * none_kept / len(values), threshold
    best = int(reached.argmax())
    return float(100 * reached[best] / len(values)), float(scores[order[best]])


# -------------------------------------------------------------------------------------- CMRC 2018

# The script's list. Its "……" is two characters, so that it never removes any.
_CHINESE_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CHINESE = re.compile("[\u4e00-\u9fa5]")
# What the script's tokenizer (NLTK's) splits off words of other scripts, nearly: brackets and
# signs, a comma unless a digit follows, the full stop at the end, "'s" and the like.
_SIGN = (
    r"""[][(){}<>;@#$%&?!"«»‘„–—]|\.\.\.|,(?!\d)|\.(?=[])}>"']*\s*$)|'(?:[smd]|ll|re|ve)?(?=\s|$)"""
)
_WORD = re.compile(rf"(?:{_SIGN})|(?:(?!{_SIGN})\S)+")


def squad_chinese(predictions: Values, references: Values) -> Scores:
    """Exact match, F1 and their average as CMRC 2018's script (Cui et al. 2019) computes them.

    F1 is of the longest stretch of tokens that both have, unbroken (the script's `lcs`), where a
    token is a Chinese character or a word of another script; the script's list of punctuation is
    removed first. The script takes its words from NLTK; ours are by the rules of
    `mixed_tokens`, which differ in contractions ("cannot") and opening quotes.

    Raises:
      UserError: a question without an answer.
    """
    found, wanted = pairs(predictions, references)
    golds = _answered(wanted, "")
    texts(found, "predictions")
    exact, shared = [], []
    for prediction, some in zip(found, golds):
        plain, tokens = _without_punctuation(prediction), mixed_tokens(prediction)
        exact.append(float(any(plain == _without_punctuation(gold) for gold in some)))
        shared.append(max(_stretch_f1(tokens, mixed_tokens(gold)) for gold in some))
    means = {"exact_match": _percent(exact), "f1": _percent(shared)}
    return {**means, "average": (means["exact_match"] + means["f1"]) / 2}


def mixed_tokens(text: str) -> list[str]:
    """Chinese characters one by one, what stands between them by word; punctuation removed."""
    tokens: list[str] = []
    for part in re.split(f"({_CHINESE.pattern})", _without_punctuation(text)):
        tokens += [part] if _CHINESE.fullmatch(part) else _WORD.findall(part)
    return tokens


def _without_punctuation(text: str) -> str:
    return "".join(c for c in text.lower().strip() if c not in _CHINESE_PUNCTUATION)


def _stretch_f1(found: list[str], wanted: list[str]) -> float:
    longest, above = 0, [0] * (len(wanted) + 1)
    for token in found:
        row = [0]
        for place, other in enumerate(wanted):
            row.append(above[place] + 1 if token == other else 0)
        longest, above = max(longest, *row), row
    return _f1(longest, len(found), len(wanted))


# ------------------------------------------------------------------------------------------- both


def _f1(common: int, found: int, wanted: int) -> float:
    return 2 * common / (found + wanted) if common else 0.0


def _percent(values: Sequence[float] | np.ndarray) -> float:
    return float(100 * np.mean(values))


def _answered(references: list[Any], hint: str) -> list[list[str]]:
    golds = text_lists(references, "references")
    for index, some in enumerate(golds):
        if not some:
            raise UserError(f"references[{index}]: the question has no answer{hint}")
    return golds
