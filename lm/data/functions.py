"""Functions with examples of them: rows of numbers, drawn as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lm import config as configs
from lm.config import DataConfig, LinearFunctions, Source
from lm.data.pipeline import Dataset, Part
from lm.data.rows import seed_of
from lm.data.tokenizer import Tokenizer, build_tokenizer
from lm.data.validation import ValidationSplit
from lm.errors import ConfigError
from lm.types import Features

# Raise when the same config and seed give other rows.
_VERSION = 1
# Tells the draws of validation from those of training, whose sources may have the same name.
_VALIDATION = 1


class FunctionRows:
    """Rows of a source, numbered through all epochs: each a pure function of the seed and its
    number. A row has x float32 [points, dims], y and weights float32 [points]."""

    def __init__(self, source: LinearFunctions, seed: tuple[int, ...]) -> None:
        self.source, self._seed = source, seed

    def __len__(self) -> int:
        return self.source.functions

    def __getitem__(self, number: int) -> Features:
        source = self.source
        rng = np.random.default_rng([*self._seed, number])
        coefficients = rng.standard_normal(source.dims, np.float32)
        x = rng.standard_normal((source.points, source.dims), np.float32)
        dims, points = stage(source, number)
        x[:, dims:] = 0
        weights = (np.arange(source.points) < points).astype(np.float32)
        return {"x": x, "y": x @ coefficients, "weights": weights}


def stage(source: LinearFunctions, number: int) -> tuple[int, int]:
    """How many coordinates and points row `number` has."""
    grown = 0 if source.grow_every is None else number // source.grow_every
    dims = source.dims if source.first_dims is None else source.first_dims + grown
    points = source.points if source.first_points is None else source.first_points + 2 * grown
    return min(dims, source.dims), min(points, source.points)


def prepare_functions(
    config: DataConfig, *, seed: int, tokenizer: Tokenizer | None = None
) -> Dataset:
    """The data of a run that learns functions. The tokenizer is one that takes no text, for what
    every run's folder has.

    Raises:
      ConfigError: there is nothing to train on.
    """
    if not config.train:
        raise ConfigError("data.train names no source: there is nothing to train on")
    if tokenizer is None:
        tokenizer = build_tokenizer(
            config.tokenizer, data_root=Path(), cache_dir=Path(), texts=lambda: iter(())
        )

    def parts(sources: Mapping[str, Source], *which: int) -> dict[str, Part]:
        return {
            name: _part(source, (*seed_of(seed, name), *which)) for name, source in sources.items()
        }

    train = dict(sorted(parts(config.train).items()))
    return Dataset(config, tokenizer, train, parts(config.validation, _VALIDATION))


def _part(source: Source, seed: tuple[int, ...]) -> Part:
    assert isinstance(source, LinearFunctions)
    rows = FunctionRows(source, seed)
    count = len(rows)
    settings = {k: v for k, v in configs.to_dict(source).items() if k != "weight"}
    return Part(
        rows=rows,
        fingerprint=configs.fingerprint([_VERSION, settings]),
        positions=count * source.points,
        report={"functions": count, "points": source.points, "dims": source.dims},
        split=ValidationSplit(
            rows=count,
            tokens=count * source.points,
            characters=0,
            bytes=None,
            documents=count,
            _rows=rows,
        ),
    )
