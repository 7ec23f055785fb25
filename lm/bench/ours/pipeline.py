"""The data pipeline alone: from text to tokens, and from tokens to batches."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from lm.config import Config, from_dict
from lm.data.pipeline import Dataset
from lm.data.tokenizer import Tokenizer
from lm.objectives import build_objective
from lm.train.setup import open_dataset


class _Pipeline:
    def __init__(self, config: dict[str, Any], data_root: str, cache_dir: str) -> None:
        self._config = from_dict(Config, config)
        self._data_root, self._cache_dir = Path(data_root), Path(cache_dir)

    def _open(self, cache_dir: Path, tokenizer: Tokenizer | None = None) -> Dataset:
        config = self._config
        assert config.objective is not None
        objective = build_objective(config.objective, config.model)
        return open_dataset(config, objective, self._data_root, cache_dir, tokenizer)

    def finish(self) -> dict[str, Any]:
        return {}


class Batches(_Pipeline):
    """Shuffled, packed batches as the training loop gets them, from tokens in the cache."""

    def __init__(self, *arguments: Any, batches: int, **values: Any) -> None:
        super().__init__(*arguments, **values)
        self._count = batches

    def prepare(self) -> dict[str, Any]:
        dataset = self._open(self._cache_dir)
        rows, length = self._config.train.batch_size, self._config.data.sequence_length
        self._batches = dataset.train_batches(0, rows)
        self.round()
        return {"units": self._count * rows * length, "tokens_per_unit": 1}

    def round(self) -> float:
        began = time.perf_counter()
        for _ in range(self._count):
            next(self._batches)
        return time.perf_counter() - began


class Tokenise(_Pipeline):
    """Everything that happens to new text once: read, cleaned, tokenised, stored; the tokenizer is
    there already. `folder` is for the caches, a new one every round."""

    def __init__(self, *arguments: Any, folder: str, **values: Any) -> None:
        super().__init__(*arguments, **values)
        self._folder = Path(folder)

    def prepare(self) -> dict[str, Any]:
        dataset = self._open(self._cache_dir)
        self._tokenizer = dataset.tokenizer
        self.round()
        # What one reading gives: an epoch's tokens, not what packing repeats of them.
        return {"units": dataset.tokens_per_epoch, "tokens_per_unit": 1}

    def round(self) -> float:
        shutil.rmtree(self._folder, ignore_errors=True)
        began = time.perf_counter()
        self._open(self._folder, self._tokenizer)
        return time.perf_counter() - began
