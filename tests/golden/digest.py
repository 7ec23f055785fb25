"""What the golden files and their test agree on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent

# One case a family of tests.parity.cases, and the second kind of ELECTRA's models.
GOLDEN = (
    "gpt2", "openai-gpt", "gpt-neo", "llama3", "mistral", "qwen2", "qwen3",
    "bert", "roberta", "electra", "electra-generator", "xlnet",
    "t5", "t5-v1.1", "bart", "m2m-100", "marian",
)  # fmt: skip


# Numbers with few significant bits make small files.
GRID = 1 / 16


def digest(x: np.ndarray) -> tuple[float, float]:
    """(mean of the numbers times a wave over their places, largest number): exchanged axes or a
    single number that is off change it; rounding does by no more than it changes the numbers."""
    x = np.asarray(x, np.float64)
    wave = np.cos(1.0 + np.arange(x.size)).reshape(x.shape)
    return float(np.mean(x * wave)), float(np.max(np.abs(x)))
