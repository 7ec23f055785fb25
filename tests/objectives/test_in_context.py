"""Functions learned in context: their rows, the loss, and what goes together."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import (
    Config,
    InContextRegression,
    LinearFunctions,
    from_dict,
)
from lm.data.functions import FunctionRows, prepare_functions, stage
from lm.data.rows import stack
from lm.data.validation import padding_like
from lm.errors import ConfigError
from lm.objectives import build_objective
from lm.train.experiment import experiment_values

FILE = "experiments/regression/linear.py"


def small(**changes: Any) -> Config:
    """The experiment at its :smoke size, with other values by dotted key."""
    values = experiment_values(f"{FILE}:smoke")
    for key, value in changes.items():
        place = values
        *path, last = key.split("__")
        for name in path:
            place = place[name]
        place[last] = value
    return from_dict(Config, values)


def test_rows_are_linear_functions_of_their_number() -> None:
    source = LinearFunctions(dims=3, points=8, functions=5)
    rows = FunctionRows(source, (0, 1))
    row = rows[4]
    coefficients, *_ = np.linalg.lstsq(row["x"][:3], row["y"][:3], rcond=None)
    assert np.allclose(row["x"] @ coefficients, row["y"], atol=1e-3)
    again = FunctionRows(source, (0, 1))[4]
    assert all((again[name] == row[name]).all() for name in row)
    # The same place of the next epoch is another function, and so is it of another seed.
    assert not np.allclose(rows[9]["y"], row["y"])
    assert not np.allclose(FunctionRows(source, (1, 1))[4]["y"], row["y"])
    many = stack([rows[number] for number in range(2000)])
    assert np.abs(many["x"].mean()) < 0.02 and np.allclose(many["y"].var(), 3, rtol=0.1)


def test_a_curriculum_grows_by_row() -> None:
    source = LinearFunctions(dims=4, points=9, first_dims=2, first_points=5, grow_every=10)
    stages = [stage(source, number) for number in (0, 9, 10, 20, 1000)]
    assert stages == [(2, 5), (2, 5), (3, 7), (4, 9), (4, 9)]
    row = FunctionRows(source, (0,))[10]
    assert row["weights"].sum() == 7 and row["x"][:, 2].all() and not row["x"][:, 3].any()


def test_batches_and_splits() -> None:
    config = small()
    dataset = prepare_functions(config.data, seed=0)
    batch = dataset.batch(3, 4)
    assert batch["x"].shape == (4, 16, 4) and batch["x"].dtype == np.float32
    assert (dataset.batch(3, 8, 1, 2)["y"] == dataset.batch(3, 8)["y"][4:]).all()
    held_out = next(dataset.validation["functions"].batches(4))
    assert not np.allclose(held_out["y"], dataset.batch(0, 4)["y"])
    assert dataset.rows_per_epoch == 64 and dataset.fingerprint


def test_the_loss() -> None:
    """A value is said before it is seen, errors are weighed, and padding is not there."""
    config = small()
    assert config.objective is not None
    objective: Any = build_objective(config.objective, config.model)
    batch = prepare_functions(config.data, seed=0).batch(0, 2)
    batch["weights"] = np.ones_like(batch["weights"])
    params = jax.jit(objective.init)(jax.random.key(0), batch)
    params = jax.tree.map(lambda leaf: 5 * leaf, params)
    apply = jax.jit(lambda x, y: objective.model.apply({"params": params}, x, y))
    found = apply(batch["x"], batch["y"])
    later = batch["y"].copy()
    later[:, 7:] += 3
    changed = apply(batch["x"], later)
    assert np.allclose(changed[:, :8], found[:, :8], atol=1e-5)
    assert np.abs(changed[:, 8:] - found[:, 8:]).max() > 1e-3

    evaluate = jax.jit(lambda batch: objective.loss(params, batch, None, train=False))
    batch["weights"][1, 10:] = 0
    terms = evaluate(batch)
    errors = batch["weights"] * np.square(found - batch["y"])
    assert terms["loss"].sum == pytest.approx(errors.sum(), rel=1e-4)
    assert terms["loss"].weight == 16 + 10
    assert terms["error_10"].sum == pytest.approx(errors[0, 10] / 4, rel=1e-4)
    assert terms["error_10"].weight == 1 and terms["error_10"].coefficient == 0
    empty = evaluate(padding_like(batch))
    assert all(float(term.sum) == float(term.weight) == 0 for term in empty.values())
    assert jnp.isfinite(found).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data__sequence_length": 30}, "sequence_length=30 must be 32"),
        ({"objective__report": (16,)}, "16 examples are not followed by another of 16"),
        ({"model__lm_head": "linear"}, 'set model.lm_head="none"'),
        ({"data__tokenizer": {"kind": "character"}}, "reads no text"),
        ({"data__train": {"t": {"kind": "embedded"}}}, "use 'linear_functions'"),
        ({"objective": {"kind": "causal_lm"}, "model__lm_head": "linear"}, "examples of a task"),
    ],
)
def test_what_does_not_go_together(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        small(**change)


def test_settings_are_checked() -> None:
    for values, words in (
        ({"first_dims": 21, "grow_every": 1}, "first_dims=21 is more than there are: 20"),
        ({"first_points": 5}, "grow_every says how many rows"),
        ({"fraction": (0.0, 0.5)}, "drawn anew"),
    ):
        with pytest.raises(ConfigError, match=words):
            from_dict(LinearFunctions, values)
    assert not InContextRegression().predicts_tokens
