"""Replaced-token detection: where gradients go, what counts as replaced, what samples are."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import ReplacedTokens
from lm.objectives import build_objective
from tests.objectives.cases import (
    DETECTOR,
    ENCODER,
    GENERATOR,
    LENGTH,
    SHARP,
    TOKENIZER,
    VOCAB,
    assert_equal_terms,
    batch_of,
    case,
    evaluated,
    on_device,
    params_of,
)

TABLES = {"token_embedding", "position_embedding", "token_type_embedding"}
MASK = TOKENIZER.vocab_size
TASKS = [
    {"task": task, "model": dataclasses.replace(ENCODER, embedding_size=8)}
    for task in ("original", "all_originals")
]


def built(model: Any = DETECTOR, generator: Any = GENERATOR, **settings: Any) -> Any:
    settings = {"temperature": SHARP, **settings}
    return build_objective(ReplacedTokens(generator=generator, **settings), model)


def gradients(objective: Any, params: Any, batch: Any, key: Any = None) -> dict[str, Any]:
    """Of each term that is learned from."""

    def total(params: Any, name: str) -> Any:
        return objective.loss(params, on_device(batch), key, train=True)[name].sum

    find = jax.jit(jax.grad(total), static_argnums=1)
    return {name: jax.device_get(find(params, name)) for name in ("loss", "generator_loss")}


def largest(tree: Any) -> dict[str, float]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): float(np.abs(x).max()) for path, x in leaves}


@pytest.mark.parametrize("temperature", [1.0, pytest.param(SHARP, marks=pytest.mark.slow)])
@pytest.mark.parametrize("settings", [{}, {"share_embeddings": False}, *TASKS], ids=range(4))
def test_samples_carry_no_gradient(settings: Any, temperature: float) -> None:
    objective = built(**settings, temperature=temperature)
    batch = batch_of(objective)
    params = params_of(objective, batch)
    found = gradients(objective, params, batch, jax.random.key(0))
    assert not any(largest(found["loss"]["generator"]).values())
    assert all(largest(found["loss"]["discriminator"]).values())
    assert all(largest(found["generator_loss"]["generator"]).values())
    # The generator's loss reaches the model by the tables they share, and by nothing else.
    shared = TABLES if settings.get("share_embeddings", True) else set()
    reached = found["generator_loss"]["discriminator"]
    assert {name for name, x in reached.items() if any(largest(x).values())} == shared
    assert TABLES & set(params["generator"]) == TABLES - shared


def test_a_shared_table_is_one_table() -> None:
    objective = built()
    batch = batch_of(objective)
    params = params_of(objective, batch)
    whole = objective.generator_params(params)
    for name in TABLES:
        assert whole[name] is params["discriminator"][name]
    before = evaluated(objective, params, batch)
    table = params["discriminator"]["token_embedding"]["embedding"]
    changed = {
        **params,
        "discriminator": {**params["discriminator"], "token_embedding": {"embedding": table * 2}},
    }
    after = evaluated(objective, changed, batch)
    assert abs(after["generator_loss"][0] - before["generator_loss"][0]) > 1e-2
    assert abs(after["loss"][0] - before["loss"][0]) > 1e-3
    # Both losses pull at it, and what it gets is their sum.

    def total(params: Any) -> Any:
        terms = objective.loss(params, on_device(batch), None, train=False)
        return terms["loss"].sum + terms["generator_loss"].sum

    both = jax.jit(jax.grad(total))(params)["discriminator"]["token_embedding"]["embedding"]
    parts = [
        g["discriminator"]["token_embedding"]["embedding"]
        for g in gradients(objective, params, batch).values()
    ]
    np.testing.assert_allclose(both, parts[0] + parts[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [True, False])
def test_the_generator_does_not_see_masked_tokens(share: bool) -> None:
    objective = built(
        generator=dataclasses.replace(GENERATOR, tie_embeddings=False),
        rate=0.3,
        mask_share=1.0,
        share_embeddings=share,
    )
    batch = batch_of(objective, (24,))
    params = params_of(objective, batch)
    owner = "discriminator" if share else "generator"
    gradient = gradients(objective, params, batch)["generator_loss"][owner]
    read = np.abs(gradient["token_embedding"]["embedding"]).max(-1)
    chosen = batch["weights"][0] > 0
    assert chosen.sum() == 7
    assert not read[batch["targets"][0][chosen]].any()
    assert (read[batch["targets"][0][~chosen]] > 1e-6).all() and read[MASK] > 1e-6


def scripted(objective: Any, batch: Any, log_p: np.ndarray, seed: int = 0) -> Any:
    """Random parameters, but that the generator says the same everywhere: [V] log_p."""
    params = params_of(objective, batch, seed=seed)
    params["generator"] = jax.tree.map(jnp.zeros_like, params["generator"])
    if "token_embedding" not in params["generator"]:
        # A norm without scale and bias gives zeros, whatever the table.
        assert not any(largest(params["generator"]["lm_norm"]).values())
    params["generator"]["lm_head"]["bias"] = jnp.asarray(log_p, jnp.float32)
    return params


def test_a_sample_that_is_the_original_counts_as_original() -> None:
    objective = built(rate=0.5)
    batch = batch_of(objective, (24, 13))
    chosen = batch["weights"] > 0
    valid = batch["positions"] >= 0
    sample = int(batch["targets"][0][chosen[0]][0])
    # The second row's, too, has it in one of its places.
    place = np.flatnonzero(chosen[1])[1]
    batch["targets"][1][place] = sample
    log_p = np.zeros(VOCAB)
    log_p[sample] = 1
    params = scripted(objective, batch, log_p)
    corrupted = np.where(chosen, sample, batch["targets"])
    replaced = (corrupted != batch["targets"]) & valid
    assert replaced.sum() == chosen.sum() - 2
    model = params["discriminator"]
    hidden, _ = objective.model.apply(
        {"params": model},
        jnp.asarray(corrupted),
        positions=jnp.asarray(batch["positions"]),
        method="hidden",
    )
    logits = objective.model.apply({"params": model}, "replaced_token", hidden, method="head")
    logits = np.asarray(logits, np.float64)[..., 0]
    # So that about half are said to be replaced.
    middle = np.sort(logits[valid])[18:20].mean()
    model["replaced_token"]["bias"] -= middle
    p = 1 / (1 + np.exp(middle - logits))
    losses = -np.where(replaced, np.log(p), np.log(1 - p))
    found = p > 0.5
    count = valid.sum()
    expected = {
        "loss": (losses[valid].sum(), count),
        "accuracy": ((found == replaced)[valid].sum(), count),
        "replaced": (replaced.sum(), count),
        "found": (found[valid].sum(), count),
        "detected": ((found & replaced)[valid].sum(), count),
    }
    actual = evaluated(objective, params, batch)
    assert actual["generator_loss"][1] == chosen.sum()
    assert_equal_terms({k: actual[k] for k in expected}, expected)
    assert 0 < expected["detected"][0] < min(found[valid].sum(), replaced.sum())
    terms = objective.loss(params, on_device(batch), None, train=True)
    weighed = {k: t.coefficient for k, t in terms.items() if t.coefficient}
    assert weighed == {"loss": 50, "generator_loss": 1}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_samples_follow_the_generators_probabilities(temperature: float) -> None:
    objective = built(rate=0.5, temperature=temperature)
    batch = batch_of(objective, (24,) * 64)
    batch["targets"][:] = 7
    probabilities = np.full(VOCAB, 1e-30)
    probabilities[[7, 8, 9]] = 0.7, 0.2, 0.1
    params = scripted(objective, batch, np.log(probabilities))
    expected = probabilities ** (1 / temperature)
    other = 1 - expected[7] / expected.sum()
    loss = jax.jit(
        lambda key: objective.loss(params, on_device(batch), key, train=False)["replaced"].sum
    )
    counts = [float(loss(jax.random.key(seed))) for seed in range(8)]
    n = int(batch["weights"].sum()) * 8
    assert n == 64 * 12 * 8
    assert abs(sum(counts) - n * other) < 5 * np.sqrt(n * other * (1 - other))
    assert len(set(counts)) > 1
    # Without a key, as in evaluation, they are always the same.
    assert len({evaluated(objective, params, batch)["replaced"] for _ in range(2)}) == 1


@pytest.mark.parametrize("task", ["original", "all_originals"])
def test_the_other_tasks_predict_the_originals(task: str) -> None:
    model = dataclasses.replace(ENCODER, embedding_size=8)
    objective = built(model, task=task, rate=0.3, coefficient=3.0)
    batch = batch_of(objective)
    log_p = np.zeros(VOCAB)
    log_p[65] = 1
    params = scripted(objective, batch, log_p)
    corrupted = np.where(batch["weights"] > 0, 65, batch["targets"])
    own = {"params": params["discriminator"]}
    logits, _ = objective.model.apply(
        own, jnp.asarray(corrupted), positions=jnp.asarray(batch["positions"])
    )
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    of_target = np.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
    valid = batch["positions"] >= 0
    weights = valid if task == "all_originals" else batch["weights"]
    right = logits.argmax(-1) == batch["targets"]
    expected = {
        "loss": (-(of_target * weights).sum(), weights.sum()),
        "accuracy": ((right * weights).sum(), weights.sum()),
    }
    actual = evaluated(objective, params, batch)
    assert_equal_terms({k: actual[k] for k in expected}, expected)
    assert objective.loss(params, on_device(batch), None, train=True)["loss"].coefficient == 3


def test_every_real_token_is_judged_and_no_special_one_replaced() -> None:
    objective = case("replaced")
    batch = batch_of(objective, (24, 13, 24, 7), eos=True)
    special = batch["targets"] == TOKENIZER.eos_id
    assert special.sum() == 4 and not batch["weights"][special].any()
    params = params_of(objective, batch)
    assert evaluated(objective, params, batch)["loss"][1] == 24 + 13 + 24 + 7
    assert batch["tokens"].shape == (4, LENGTH)
