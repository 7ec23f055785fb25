"""Metrics of generated text: BLEU (sacrebleu), BLEU of tokens, ROUGE (rouge-score), exact matches.

References are one text for each prediction, or several. `bleu` and `rouge` need the extra `eval`.
BLEU is in per cent, ROUGE and matches between 0 and 1.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Real

from lm.errors import ConfigError, UserError, did_you_mean
from lm.evaluate.metrics.common import (
    Scores,
    Values,
    compared_texts,
    ngrams,
    optional,
    ratio,
    text_lists,
)

_ORDERS = 4
ROUGE_KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
ROUGE_TOKENIZERS = ("words", "characters", "script")

# -------------------------------------------------------------------------------------- sacrebleu


def bleu(
    predictions: Values, references: Values, *, tokenize: str = "13a", lowercase: bool = False
) -> Scores:
    """Corpus BLEU of plain text (Papineni et al. 2002) as sacrebleu computes it (Post 2018): its
    tokens, its exponential smoothing; see `bleu_signature`.

    Args:
      tokenize: sacrebleu's tokenizer: "13a"; "zh" for Chinese; "char", "intl", "none" ...

    Raises:
      UserError: an example without a reference.
      ConfigError: sacrebleu is not installed, or has no such tokenizer.
    """
    found, wanted = compared_texts(predictions, references)
    return _bleu_scores(_bleu(tokenize, lowercase).corpus_score(found, _streams(wanted)))


def bleu_rows(
    predictions: Values, references: Values, *, tokenize: str = "13a", lowercase: bool = False
) -> Int[np.ndarray, "n 10"]:
    """What each example adds to `bleu`, in the columns of `bleu_counts`."""
    found, wanted = compared_texts(predictions, references)
    metric = _bleu(tokenize, lowercase)
    rows = []
    for prediction, some in zip(found, wanted):
        result = metric.corpus_score([prediction], _streams([some]))
        rows.append([result.sys_len, result.ref_len, *result.counts, *result.totals])
    return np.array(rows, np.int64)


def bleu_of_rows(counts: Real[np.ndarray, "10"]) -> Scores:
    """`bleu` of summed `bleu_rows`: sacrebleu's smoothing."""
    length, wanted, *ngrams = map(int, counts.tolist())
    kind = optional("sacrebleu", "sacrebleu").BLEU
    right, predicted = ngrams[:_ORDERS], ngrams[_ORDERS:]
    return _bleu_scores(kind.compute_bleu(right, predicted, length, wanted, smooth_method="exp"))


def _bleu_scores(result: Any) -> Scores:
    return {
        "bleu": float(result.score),
        "brevity_penalty": float(result.bp),
        "length_ratio": float(result.ratio),
    }


def bleu_signature(references: Values, *, tokenize: str = "13a", lowercase: bool = False) -> str:
    """What sacrebleu asks papers to report beside a BLEU: "nrefs:1|case:mixed|..."."""
    wanted = text_lists(list(references), "references")
    metric = _bleu(tokenize, lowercase)
    metric.corpus_score([""] * len(wanted), _streams(wanted))
    return str(metric.get_signature())


def _bleu(tokenize: str, lowercase: bool) -> Any:
    kind = optional("sacrebleu", "sacrebleu").BLEU
    if tokenize not in kind.TOKENIZERS:
        raise ConfigError(
            f"sacrebleu has no tokenizer {tokenize!r}{did_you_mean(tokenize, kind.TOKENIZERS)}"
        )
    # `force` silences its warning of texts that look tokenised.
    return kind(tokenize=tokenize, lowercase=lowercase, force=True)


def _streams(references: list[list[str]]) -> list[list[str | None]]:
    """First references, second ones ...; None where an example has no more."""
    most = max(map(len, references))
    return [[some[i] if i < len(some) else None for some in references] for i in range(most)]


# --------------------------------------------------------------------------------- tokenised BLEU


def bleu_tokenised(
    predictions: Values, references: Values, *, split_compounds: bool = False
) -> Scores:
    """Corpus BLEU of texts that are tokenised already, as older papers report it: what Moses'
    multi-bleu.perl prints. Tokens stand between (ASCII) spaces; no smoothing: 0 where no 4-gram
    is right. The reference nearest in length counts for the length, of equally near ones the
    shorter.

    Args:
      split_compounds: split tokens at their hyphens first ("##AT##-##AT##"), as Vaswani et al.
        (2017) did for English-German.
    """
    found, wanted = compared_texts(predictions, references)
    rows = [bleu_counts(p, some, split_compounds) for p, some in zip(found, wanted)]
    return bleu_of_counts(np.sum(rows, axis=0))


def bleu_counts(
    prediction: str, references: Sequence[str], split_compounds: bool = False
) -> Int[np.ndarray, "10"]:
    """What one example adds to corpus BLEU: the lengths of prediction and reference, then for n =
    1 to 4 the n-grams that are right, then those predicted. Sums make a corpus (`bleu_of_counts`;
    `bootstrap.statistic_interval` resamples them)."""
    words = _words(prediction, split_compounds)
    others = [_words(reference, split_compounds) for reference in references]
    length = min((len(o) for o in others), key=lambda n: (abs(n - len(words)), n))
    right, predicted = [], []
    for order in range(1, _ORDERS + 1):
        most: Counter[tuple[Any, ...]] = Counter()
        for other in others:
            most |= ngrams(other, order)
        ours = ngrams(words, order)
        right.append((ours & most).total())
        predicted.append(ours.total())
    return np.array([len(words), length, *right, *predicted], np.int64)


def bleu_of_counts(counts: Real[np.ndarray, "10"]) -> Scores:
    """BLEU of summed `bleu_counts`."""
    length, wanted, *ngrams = counts.tolist()
    right, predicted = ngrams[:_ORDERS], ngrams[_ORDERS:]
    penalty = math.exp(min(0.0, 1 - wanted / length)) if length and wanted else 0.0
    score = 0.0
    if all(right):
        logs = [math.log(r / p) for r, p in zip(right, predicted)]
        score = 100 * penalty * math.exp(sum(logs) / _ORDERS)
    return {
        "bleu_tokenised": score,
        "brevity_penalty": penalty,
        "length_ratio": ratio(length, wanted),
    }


def _words(text: str, split_compounds: bool) -> list[bytes]:
    """As Perl splits bytes: a no-break or ideographic space is part of a token."""
    if split_compounds:
        text = re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", text)
    return text.encode("utf-8", "surrogatepass").split()


# ------------------------------------------------------------------------------------------ ROUGE


def rouge(
    predictions: Values,
    references: Values,
    *,
    kinds: Sequence[str] = ROUGE_KINDS,
    tokenizer: str = "words",
    stemmer: bool = False,
) -> Scores:
    """ROUGE (Lin 2004) as rouge-score computes it: the mean over examples of F1; of several
    references the best counts.

    Args:
      kinds: "rouge1" to "rouge9", "rougeL" (one subsequence of the whole text), "rougeLsum" (of
        each sentence, of which every line is one).
      tokenizer: "words" are runs of a-z and 0-9, all else is dropped; "characters" takes every
        character but white space, in lower case: for Chinese. "script" takes characters for the
        examples most of whose references' letters are none of a-z, and words for the others.
      stemmer: reduce English words to their stems (Porter).

    Raises:
      UserError: a reference whose letters are all none of "words"'s.
      ConfigError: rouge-score is not installed; an unknown kind or tokenizer.
    """
    for kind in kinds:
        if not re.fullmatch("rouge([1-9]|L|Lsum)", kind):
            raise ConfigError(f"no ROUGE is called {kind!r}{did_you_mean(kind, ROUGE_KINDS)}")
    if tokenizer not in ROUGE_TOKENIZERS:
        raise ConfigError(f"no tokenizer {tokenizer!r}{did_you_mean(tokenizer, ROUGE_TOKENIZERS)}")
    if stemmer and tokenizer == "characters":
        raise ConfigError("characters have no stems: stemmer goes with tokenizer='words'")
    found, wanted = compared_texts(predictions, references)
    if tokenizer == "words":
        _check_words(wanted)
    scorer = optional("rouge_score.rouge_scorer", "rouge-score").RougeScorer
    words = scorer(list(kinds), use_stemmer=stemmer)
    characters = scorer(list(kinds), tokenizer=_Characters())
    by_word = [
        tokenizer == "words" or (tokenizer == "script" and not in_other_script(some))
        for some in wanted
    ]
    results = [
        (words if own else characters).score_multi(some, prediction)
        for prediction, some, own in zip(found, wanted, by_word)
    ]
    return {kind: float(np.mean([r[kind].fmeasure for r in results])) for kind in kinds}


class _Characters:
    """A tokenizer for rouge-score."""

    def tokenize(self, text: str) -> list[str]:
        return [character for character in text.lower() if not character.isspace()]


def in_other_script(texts: Sequence[str]) -> bool:
    """Whether most letters of some texts are none that the tokenizer "words" takes."""
    letters = [letter for text in texts for letter in text.lower() if letter.isalpha()]
    return 2 * sum("a" <= letter <= "z" for letter in letters) < len(letters)


def _has_no_words(text: str) -> bool:
    """Whether a text has letters, but none that the tokenizer "words" takes."""
    return any(map(str.isalpha, text)) and not re.search("[a-z0-9]", text.lower())


def _check_words(references: list[list[str]]) -> None:
    """A text of which "words" sees nothing would score 0 whatever was predicted."""
    for index, some in enumerate(references):
        for text in some:
            if _has_no_words(text):
                raise UserError(
                    f"references[{index}] has no word of a-z or 0-9, and ROUGE of words drops all "
                    f"else: {text!r:.60}; tokenizer='characters' takes any script, 'script' "
                    "only where it is needed"
                )


# -------------------------------------------------------------------------------------------- all


def exact_match(predictions: Values, references: Values) -> Scores:
    """The share of predictions that are a reference, but for white space at their ends."""
    found, wanted = compared_texts(predictions, references)
    right = [p.strip() in {r.strip() for r in some} for p, some in zip(found, wanted)]
    return {"exact_match": float(np.mean(right))}
