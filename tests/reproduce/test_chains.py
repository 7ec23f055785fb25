"""Models of Markov chains beside counting, their attention, and its figure."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.cli.main import main
from lm.config import Config, from_dict
from lm.data.markov import bigram_loss, texts, unigram_loss
from lm.errors import ConfigError
from lm.model import build_model
from lm.reproduce.figures import AttentionMaps, Curves, draw
from lm.reproduce.measures.base import Inputs
from lm.reproduce.measures.chains import ChainGap, attention_maps, share_after
from lm.train.experiment import experiment_values

FILE = "experiments/induction/markov.py"


def small(variant: str = "two-layers") -> Config:
    """The experiment on 16 chains of 71 states, which are two blocks of queries."""
    values = experiment_values(f"{FILE}:{variant}")
    for split, count in (("train", 16), ("validation", 24)):
        values["data"][split]["chains"].update(length=71, chains=count)
    values["data"]["sequence_length"] = 70
    return from_dict(Config, values)


def test_attention_is_that_of_the_model() -> None:
    config = small()
    tokens = np.random.default_rng(0).integers(3, size=(2, 70))
    init = jax.jit(build_model(config.model).init)
    params = init(jax.random.key(0), jnp.asarray(tokens))["params"]
    params = jax.tree.map(lambda leaf: 20 * leaf, params)
    first, second = attention_maps(config, params, tokens)
    for layer in (first, second):
        assert layer.shape == (2, 1, 70, 70) and np.allclose(layer.sum(axis=-1), 1, atol=1e-5)
        assert not np.triu(layer, 1).any()
    # What looks at nothing but itself is the first token, and distances alone are as they say.
    assert first[0, 0, 0, 0] == 1.0 and np.abs(first - second).max() > 0.01


def test_attention_for_what_came_after_the_same_state() -> None:
    """a b a: the third looks for what came after an a: the b. The others have nothing to look
    for."""
    attention = np.array([[[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.7, 0.1]]])
    assert share_after(attention, np.array([[0, 1, 0]])) == pytest.approx(0.7)


def test_a_run_beside_counting(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    sizes = [
        f"--config.data.{split}.chains.{key}={value}"
        for split, chains in (("train", 16), ("validation", 24))
        for key, value in (("length", 71), ("chains", chains))
    ]
    steps = [f"--config.train.{key}=2" for key in ("duration.steps", "steps_per_dispatch")]
    command = ["train", f"--config={FILE}:two-layers", f"--workdir={workdir}"]
    more = [f"--config.{key}.every.steps=2" for key in ("evaluation", "checkpoint")]
    more += ["--config.data.sequence_length=70", "--config.train.batch_size=8"]
    assert main([*command, *sizes, *steps, *more]) == 0
    given = Inputs({"r": [workdir]}, tmp_path, tmp_path / "cache", tmp_path, lambda line: None)
    found = ChainGap(("r",), shown=9).measure(given)
    loss, closed = found.quantities["r"][0], found.quantities["r-closed"][0]
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert loss == pytest.approx([row["loss"] for row in rows if row["split"] == "chains"][-1])
    split = small().data.validation["chains"]
    chains = np.array([[ord(letter) - ord("a") for letter in text] for text in texts(split)])
    unigram, bigram = unigram_loss(chains, 3).mean(), bigram_loss(chains, 3).mean()
    assert closed == pytest.approx((unigram - loss) / (unigram - bigram))
    # As if everything were looked at alike.
    share = np.mean([1 / (place + 1) for place in range(1, 70)])
    assert found.quantities["r-previous"][0] == pytest.approx(share, abs=0.02)
    shown = found.details["attention"]["r"]
    assert shown["tokens"] == next(texts(split))[:9] and np.shape(shown["layers"]) == (2, 9, 9)
    record = {"details": found.details, "quantities": found.quantities}
    figure = AttentionMaps(measure="m", title="Maps", run="r")
    drawn = draw(figure, record)
    assert drawn is not None and "layer 2" in drawn and drawn == draw(figure, record)


def test_only_whole_sources_of_chains(tmp_path: Path) -> None:
    measure = ChainGap(("r",))
    with pytest.raises(ConfigError, match="split 'chains' is not a whole source"):
        measure._chains(from_dict(Config, experiment_values("experiments/quickstart.py:smoke")))
    with pytest.raises(ConfigError, match="runs names none"):
        ChainGap()


def test_levels_that_nobody_published() -> None:
    figure = Curves(measure="m", title="T", splits=("s",), levels={"uniform": 1.0986})
    cells = [{"name": "a", "curves": {"s": {"loss": [[1, 2], [1.1, 0.9]]}}}]
    drawn = draw(figure, {"cells": cells})
    assert drawn is not None and "uniform: 1.0986" in drawn and "published" not in drawn
