"""Metrics by name."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from lm.errors import ConfigError
from lm.evaluate.metrics import registry
from lm.evaluate.metrics.registry import NAMES, metric

CASES = {
    "accuracy": ([1, 0], [1, 1]),
    "f1": ([1, 0], [1, 1]),
    "f1_macro": (["a", "b"], ["a", "a"]),
    "f1_micro": (["a", "b"], ["a", "a"]),
    "f1_weighted": (["a", "b"], ["a", "a"]),
    "matthews": ([1, 0], [1, 0]),
    "multilabel": ([[1, 0]], [[1, 1]]),
    "calibration": ([[0.2, 0.8]], [1]),
    "pearson": ([1.0, 2.0], [1.0, 3.0]),
    "spearman": ([1.0, 2.0], [1.0, 3.0]),
    "mean_squared_error": ([1.0, 2.0], [1.0, 3.0]),
    "entities": ([["B-X"]], [["B-X"]]),
    "squad": (["x"], [["x"]]),
    "squad_v2": ([""], [[]]),
    "squad_chinese": (["北"], [["北"]]),
    "bleu": (["a b c d"], ["a b c d"]),
    "bleu_tokenised": (["a b c d"], ["a b c d"]),
    "chrf": (["abcdef"], ["abcdef"]),
    "rouge": (["a b"], ["a b"]),
    "exact_match": (["a b"], ["a b"]),
    "word_accuracy": ([["X", "O"]], [["X", "X"]]),
    "pass_at_k": ([["x = 1"]], ["assert x == 1"]),
}


@pytest.mark.parametrize("name", NAMES)
def test_each_gives_named_numbers(name: str) -> None:
    if name == "bleu":
        pytest.importorskip("sacrebleu")
    if name == "rouge":
        pytest.importorskip("rouge_score")
    options = {"untrusted_code": "allow"} if name == "pass_at_k" else {}
    scores = metric(name, **options)(*CASES[name])
    assert scores and all(type(value) is float for value in scores.values()), scores


def test_options() -> None:
    assert metric("f1", positive=0)([0, 1], [0, 0])["precision"] == 1
    with pytest.raises(ConfigError, match="no metric 'spearmann'; did you mean 'spearman'"):
        metric("spearmann")
    with pytest.raises(ConfigError, match="no option 'lowercased'; did you mean 'lowercase'"):
        metric("bleu", lowercased=True)
    with pytest.raises(ConfigError, match="'accuracy' has no option 'x'; it has none"):
        metric("accuracy", x=1)
    # The name has chosen the average already.
    with pytest.raises(ConfigError, match="no option 'average'"):
        metric("f1_macro", average="micro")


def test_the_table_lists_them_all() -> None:
    assert registry.__doc__
    table = registry.__doc__.split("\n\n")[1]
    assert set(re.findall(r"[a-z0-9_]+", table)) >= set(NAMES)


def test_nothing_heavy_is_imported() -> None:
    names = "jax", "sacrebleu", "rouge_score", "sklearn", "scipy"
    program = (
        "import sys, lm.evaluate.metrics.registry; "
        f"print([name for name in {names!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
