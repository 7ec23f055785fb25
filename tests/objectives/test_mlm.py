"""Masked language modelling: what the model sees, what counts, and the terms by their formulas."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import DropoutConfig, MaskedLM
from lm.objectives import build_objective
from tests.objectives.cases import (
    ENCODER,
    LENGTH,
    PAIRED,
    TOKENIZER,
    assert_equal_terms,
    batch_of,
    case,
    distinct,
    evaluated,
    on_device,
    params_of,
)

# The output has its own table, so that the tokens' table is for what is read.
UNTIED = dataclasses.replace(ENCODER, tie_embeddings=False)
MASK = TOKENIZER.vocab_size


def read(objective: Any, params: Any, batch: Any, weights: Any) -> np.ndarray:
    """[V]: how much the loss depends on what is read of each token."""

    def loss(params: Any) -> Any:
        given = on_device({**batch, "weights": weights})
        terms = objective.loss(params, given, None, train=False)
        return terms["loss"].sum

    gradient = jax.jit(jax.grad(loss))(params)["token_embedding"]["embedding"]
    return np.abs(gradient).max(-1)


@pytest.mark.parametrize("selection", ["tokens", "spans"])
def test_masked_tokens_are_not_seen(selection: str) -> None:
    config = MaskedLM(rate=0.3, mask_share=1.0, random_share=0.0, selection=selection)
    objective = build_objective(config, UNTIED)
    batch = batch_of(objective, (24,))
    params = params_of(objective, batch)
    (targets,), (weights,) = batch["targets"], batch["weights"]
    found = read(objective, params, batch, batch["weights"])
    assert weights.sum() == 7
    assert not found[targets[weights > 0]].any()
    assert (found[targets[weights == 0]] > 1e-6).all() and found[MASK] > 1e-6
    # The instrument: the tokens are seen where they are given.
    seen = read(objective, params, {**batch, "tokens": batch["targets"]}, batch["weights"])
    assert (seen[targets[weights > 0]] > 1e-6).all()


def test_a_translation_s_masked_tokens_are_not_seen_and_the_rest_is_on_both_sides() -> None:
    config = MaskedLM(pairs="translation", rate=0.3, mask_share=1.0, random_share=0.0)
    objective = build_objective(config, UNTIED)
    batch = batch_of(objective, (24,))
    params = params_of(objective, batch)
    (targets,), (weights,), (types,) = (batch[k] for k in ("targets", "weights", "token_types"))
    assert types.tolist() == [0] * 12 + [1] * 12
    for side in (0, 1):
        mine = weights * (types == side)
        assert 0 < mine.sum() < 7
        found = read(objective, params, batch, mine[None])
        assert not found[targets[weights > 0]].any()
        # What is left of either text.
        assert (found[targets[weights == 0]] > 1e-6).all() and found[MASK] > 1e-6


def test_positions_begin_again_and_say_what_is_padding() -> None:
    """A row as its parts: equal numbers in either text have the same place."""
    objective = case("translation")
    (row,) = (batch_of(objective, (13,), seed=4),)
    assert row["positions"][0].tolist() == [*range(6), *range(7), *[-1] * 11]
    params = params_of(objective, row)
    table = params["position_embedding"]["embedding"] if "position_embedding" in params else None

    def loss(table: Any) -> Any:
        given = {**params, "position_embedding": {"embedding": table}}
        return objective.loss(given, on_device(row), None, train=False)["loss"].sum

    read = np.abs(np.asarray(jax.grad(loss)(table))).max(-1) > 1e-7
    assert read.tolist() == [True] * 7 + [False] * (LENGTH - 7)


def logits_of(objective: Any, params: Any, batch: Any) -> np.ndarray:
    given = {
        k: batch[k] for k in ("tokens", "positions", "segment_ids", "token_types") if k in batch
    }
    logits, _ = objective.model.apply({"params": params}, **on_device(given))
    return np.asarray(logits, np.float64)


@pytest.mark.parametrize("exact", [True, False])
def test_terms_by_formula(exact: bool) -> None:
    """From the logits at all places, where the loss makes only those it needs."""
    config = MaskedLM(pairs="next_sentence", rate=0.3, exact=exact)
    objective = build_objective(config, PAIRED)
    batch = batch_of(objective, (24, 13, 24, 7, 24, 24))
    batch["pair_weights"] = np.array([1, 1, 0, 1, 2, 1], np.float32)
    params = params_of(objective, batch)
    logits, weights = logits_of(objective, params, batch), batch["weights"]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    of_target = np.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
    right = logits.argmax(-1) == batch["targets"]

    names = ("positions", "token_types")
    given = on_device({name: batch[name] for name in names})
    own = {"params": params}
    tokens = jnp.asarray(batch["tokens"])
    hidden, _ = objective.model.apply(own, tokens, **given, method="hidden")
    pair = objective.model.apply(own, "next_sentence", hidden, method="head")
    pair = np.asarray(pair, np.float64)
    pair_log_p = pair - np.log(np.exp(pair).sum(-1, keepdims=True))
    # BERT's class 0 is "B follows A".
    answer = np.where(batch["is_next"] == 1, 0, 1)
    assert 0 < answer.sum() < 6
    counted = batch["pair_weights"]
    expected = {
        "loss": (-(of_target * weights).sum(), weights.sum()),
        "accuracy": ((right * weights).sum(), weights.sum()),
        "pair_loss": (-(pair_log_p[np.arange(6), answer] * counted).sum(), counted.sum()),
        "pair_accuracy": (((pair.argmax(-1) == answer) * counted).sum(), counted.sum()),
    }
    assert_equal_terms(evaluated(objective, params, batch), expected)
    terms = objective.loss(params, on_device(batch), None, train=True)
    assert {k: t.coefficient for k, t in terms.items()} == {
        "loss": 1,
        "accuracy": 0,
        "pair_loss": 1,
        "pair_accuracy": 0,
    }


def packed_and_apart(objective: Any, sizes: tuple[int, ...] = (9, 6, 5)) -> tuple[Any, Any]:
    """A row of several documents, and the same ones, masked alike, a row each."""
    make = objective.row_maker(TOKENIZER, LENGTH)
    pieces = [distinct(n, seed) for seed, n in enumerate(sizes)]

    def other(rng: np.random.Generator) -> np.ndarray:
        raise AssertionError

    row = make(pieces, np.random.default_rng(0), joined=False, other=other)
    apart = {k: np.zeros((len(sizes), LENGTH), x.dtype) for k, x in row.items()}
    begin = 0
    for i, n in enumerate(sizes):
        for name, x in row.items():
            apart[name][i, :n] = x[begin : begin + n]
        apart["segment_ids"][i, :n] = 1
        begin += n
    return {k: x[None] for k, x in row.items()}, apart


@pytest.mark.parametrize("name", ["masked", "replaced", "all originals"])
def test_packed_documents_cost_what_they_cost_apart(name: str) -> None:
    objective = case(name)
    packed, apart = packed_and_apart(objective)
    params = params_of(objective, packed)
    expected = evaluated(objective, params, apart)
    assert_equal_terms(evaluated(objective, params, packed), expected)
    mixed = {**packed, "segment_ids": np.minimum(packed["segment_ids"], 1)}
    assert abs(evaluated(objective, params, mixed)["loss"][0] - expected["loss"][0]) > 1e-3


def test_another_document_of_the_row_changes_nothing() -> None:
    objective = case("masked")
    batch, _ = packed_and_apart(objective)
    batch["weights"] = batch["weights"] * (batch["segment_ids"] == 1)
    params = params_of(objective, batch)
    before = evaluated(objective, params, batch)
    second = batch["segment_ids"] == 2
    changed = {**batch, "tokens": np.where(second, batch["tokens"] + 1, batch["tokens"])}
    assert before["loss"][1] == 1
    assert evaluated(objective, params, changed) == before
    first = batch["segment_ids"] == 1
    changed = {**batch, "tokens": np.where(first, batch["tokens"] + 1, batch["tokens"])}
    assert evaluated(objective, params, changed) != before


def test_rng_is_for_dropout_while_training() -> None:
    model = dataclasses.replace(PAIRED, dropout=DropoutConfig(residual=0.5, pooler=0.5))
    objective = build_objective(MaskedLM(pairs="sentence_order"), model)
    batch = on_device(batch_of(objective))
    params = params_of(objective, batch)

    @jax.jit
    def losses(seed: Any) -> Any:
        rng = jax.random.key(seed)
        return jnp.array(
            [
                [objective.loss(params, batch, rng, train=t)[name].sum for t in (True, False)]
                for name in ("loss", "pair_loss")
            ]
        )

    one, same, other = (np.asarray(losses(seed)) for seed in (0, 0, 1))
    assert (one == same).all()
    assert (one[:, 0] != other[:, 0]).all() and (one[:, 1] == other[:, 1]).all()
    assert (one[:, 0] != one[:, 1]).all()
