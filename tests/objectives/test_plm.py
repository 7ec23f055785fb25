"""Permutation language modelling: what is predicted from what, by gradient."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import PermutationLM
from lm.errors import ConfigError
from lm.objectives import build_objective
from lm.objectives.plm import allowed
from tests.objectives.cases import (
    LENGTH,
    TOKENIZER,
    TWO_STREAM,
    assert_equal_terms,
    batch_of,
    evaluated,
    on_device,
    params_of,
)

# The output has its own table, so that the tokens' table is for what is read.
UNTIED = dataclasses.replace(TWO_STREAM, tie_embeddings=False)


def read_per_place(objective: Any, params: Any, batch: Any) -> np.ndarray:
    """[P, V]: how much the loss of each predicted place depends on reading each token."""

    def read(weights: Any) -> Any:
        def loss(params: Any) -> Any:
            given = {**on_device(batch), "weights": weights[None]}
            return objective.loss(params, given, None, train=False)["loss"].sum

        return jnp.abs(jax.grad(loss)(params)["token_embedding"]["embedding"]).max(-1)

    count = batch["targets"].shape[1]
    return np.asarray(jax.jit(jax.vmap(read))(jnp.eye(count)))


@pytest.mark.parametrize(
    ("size", "settings"), [(24, {}), (15, {}), (24, {"reuse_length": 12, "perm_size": 6})]
)
def test_a_place_sees_what_comes_before_it_in_the_order(size: int, settings: Any) -> None:
    """Never its own token, nor one that is predicted later, not by way of another either."""
    objective = build_objective(PermutationLM(num_predict=8, **settings), UNTIED)
    batch = batch_of(objective, (size,), seed=1, eos=True)
    params = params_of(objective, batch)
    read = read_per_place(objective, params, batch)
    tokens, rank, predicted = (batch[k][0] for k in ("tokens", "rank", "predicted"))
    places = batch["query_at"][0]
    assert sorted(places) == np.flatnonzero(predicted).tolist() and len(places) == 8
    assert TOKENIZER.eos_id not in tokens[places]
    for n, place in enumerate(places):
        assert batch["targets"][0][n] == tokens[place]
        for other in range(size):
            effect = read[n][tokens[other]]
            if rank[other] < rank[place]:
                assert effect > 1e-7, (place, other)
            else:
                assert effect == 0, (place, other)
    assert not read[:, TOKENIZER.pad_id].any()
    ranks = np.sort(rank[places])
    assert (np.diff(ranks) > 0).all()


def test_what_may_be_seen() -> None:
    batch = {
        "rank": jnp.array([[0, 2, 0, 1]]),
        "predicted": jnp.array([[False, True, False, True]]),
    }
    expected = [[1, 0, 1, 0], [1, 0, 1, 1], [1, 0, 1, 0], [1, 0, 1, 0]]
    assert allowed(batch)[0].tolist() == np.array(expected, bool).tolist()


def test_terms_by_formula() -> None:
    """Predictions for which a row had too few tokens count nothing."""
    objective = build_objective(PermutationLM(num_predict=6), TWO_STREAM)
    batch = batch_of(objective, (24, 4, 24, 1))
    assert batch["weights"].sum(1).tolist() == [6, 3, 6, 0]
    params = params_of(objective, batch)
    given = on_device(batch)
    logits, _ = objective.model.apply(
        {"params": params},
        given["tokens"],
        positions=given["positions"],
        allowed=allowed(given),
        query_at=given["query_at"],
    )
    logits, weights = np.asarray(logits, np.float64), batch["weights"]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    of_target = np.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
    right = logits.argmax(-1) == batch["targets"]
    actual = evaluated(objective, params, batch)
    expected = {
        "loss": (-(of_target * weights).sum(), 15),
        "accuracy": ((right * weights).sum(), 15),
    }
    assert_equal_terms(actual, expected)
    unweighed = np.where(weights > 0, batch["targets"], 99)
    assert evaluated(objective, params, {**batch, "targets": unweighed}) == actual


@pytest.mark.parametrize("count", [LENGTH, LENGTH + 1])
def test_some_tokens_are_only_seen(count: int) -> None:
    objective = build_objective(PermutationLM(num_predict=count), TWO_STREAM)
    message = f"num_predict={count} must be below data.sequence_length={LENGTH}"
    with pytest.raises(ConfigError, match=message):
        objective.row_maker(TOKENIZER, LENGTH)
    objective.row_maker(TOKENIZER, count + 1)
