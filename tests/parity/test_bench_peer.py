"""The torch model that `lm bench` measures beside us computes what ours does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from experiments.llama.model import model as llama
from lm.bench.ours.export import BATCHES, Model, flat, read_parameters
from lm.bench.peers.torch_gpt2 import GPT2
from lm.bench.peers.torch_train import Train, fused_adamw
from lm.bench.shapes import TRAIN
from lm.config import AdamW, CausalLM, ModelConfig, NormConfig, from_dict, to_dict
from lm.objectives import build_objective
from lm.train.optimizer import build_optimizer
from lm.train.state import create_state
from lm.train.step import train_step

NANO = TRAIN["tiny"].model()
GPT = replace(
    NANO,
    norm=NormConfig(),
    attention_bias=True,
    attention_output_bias=True,
    mlp_bias=True,
    activation="gelu_tanh",
)
SMALL = dict(
    vocab_size=97, num_layers=2, d_model=32, num_heads=4, num_kv_heads=2, d_ff=64, head_dim=8
)
OPTIMIZER = AdamW(learning_rate=1e-2, beta2=0.95, weight_decay=0.1, clip_norm=1.0)
STEPS = 5


@pytest.mark.parametrize("model", [NANO, GPT], ids=["nanoGPT", "GPT-2"])
def test_losses_of_a_few_steps(model: ModelConfig) -> None:
    """The same parameters, batches and optimiser: the same losses, to rounding."""
    numbers = np.random.default_rng(0)
    rows = numbers.integers(0, model.vocab_size, (STEPS, 4, 17)).astype(np.int32)
    tokens, targets = rows[..., :-1], rows[..., 1:]

    objective = build_objective(CausalLM(), model)
    batches = [
        {"tokens": t, "targets": g, "weights": np.ones(t.shape, np.float32)}
        for t, g in zip(tokens, targets)
    ]
    params = nn.meta.unbox(jax.eval_shape(lambda: objective.init(jax.random.key(0), batches[0])))
    optimizer = build_optimizer(
        OPTIMIZER,
        total_steps=STEPS,
        in_steps=lambda d: d.in_steps(tokens_per_step=1, steps_per_epoch=1),
        params=params,
    )
    state = create_state(objective, optimizer, batches[0], seed=0)
    peer = GPT2(to_dict(model)).load(flat(state.params))
    step = jax.jit(lambda s, b: train_step(s, b, objective=objective, optimizer=optimizer))
    ours = []
    for batch in batches:
        state, metrics = step(state, batch)
        ours.append(float(metrics["loss"]))

    adamw = fused_adamw(peer, to_dict(OPTIMIZER))
    theirs = []
    for t, g in zip(tokens, targets):
        loss = peer(torch.tensor(t, dtype=torch.int64), torch.tensor(g, dtype=torch.int64))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), OPTIMIZER.clip_norm)
        adamw.step()
        adamw.zero_grad()
        theirs.append(loss.item())
    assert max(ours) - min(ours) > 0.01
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)


def test_a_model_of_transformers_from_our_folder(tmp_path: Path) -> None:
    """What is no GPT-2 goes through `lm.convert`; in bfloat16 only the loss's first digits stay."""
    model = from_dict(ModelConfig, {**llama("3.2-1b"), **SMALL})
    Model(to_dict(model), str(tmp_path)).prepare()
    rows = np.random.default_rng(0).integers(0, model.vocab_size, (4, 17)).astype(np.int32)
    tokens, targets = rows[:, :-1], rows[:, 1:]
    batch = {"tokens": tokens, "targets": targets, "weights": np.ones(tokens.shape, np.float32)}
    objective = build_objective(CausalLM(), model)
    params, arrays = jax.tree.map(jnp.asarray, (read_parameters(tmp_path), batch))
    terms = objective.loss(params, arrays, None, train=False)
    ours = float(terms["loss"].sum / terms["loss"].weight)

    np.savez(tmp_path / BATCHES, tokens=tokens[None], targets=targets[None])
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 1e-2)):
        values = {**to_dict(model), "compute_dtype": dtype}
        peer = Train(values, to_dict(OPTIMIZER), str(tmp_path), False, warmup=0, round_steps=1)
        peer.start()
        peer.round()
        assert peer.finish()["losses"]["1"] == pytest.approx(ours, rel=tolerance)


def test_a_parameter_without_a_place_is_an_error() -> None:
    peer = GPT2(to_dict(NANO))
    params = build_objective(CausalLM(), GPT).init(
        jax.random.key(0), {"tokens": jnp.zeros((1, 1), jnp.int32)}
    )
    with pytest.raises(ValueError, match="without a place: .*bias"):
        peer.load(flat(nn.meta.unbox(params)))
