"""Real weights: a trained 3-layer GPT that sorts six letters, with its published activations."""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import Learned, ModelConfig
from lm.model import Mask, build_model
from lm.model.attention import Context, attend
from lm.model.block import Block
from lm.model.layers import ACTIVATIONS

WITHIN = 1e-5
LETTERS = 6


@pytest.fixture(scope="module")
def folder(data_root: Path) -> Path:
    path = data_root / "weights" / "gpt-nano-sort"
    if not path.is_dir():
        pytest.skip(f"no weights at {path}")
    return path


def arrays(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_text())

    def decode(value: dict[str, Any]) -> np.ndarray:
        data = np.frombuffer(base64.b64decode(value["data"]), np.float32)
        return data.reshape(value["shape"])

    return {k: decode(v) if "shape" in v else v for k, v in values.items()}


@pytest.fixture(scope="module")
def model(folder: Path) -> tuple[ModelConfig, Any]:
    """The config, and the parameters under our names."""
    given = arrays(folder / "gpt-nano-sort-model.json")
    c = given["config"]
    d, n = c["n_embd"], c["n_head"]
    config = ModelConfig(
        vocab_size=c["vocab_size"],
        num_layers=c["n_layer"],
        d_model=d,
        num_heads=n,
        d_ff=4 * d,
        position=Learned(c["block_size"]),
        activation="gelu_tanh",
        tie_embeddings=False,
    )

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": given[f"{name}.weight"], "bias": given[f"{name}.bias"]}

    def linear(name: str) -> dict[str, np.ndarray]:
        return {"kernel": given[f"{name}.weight"].T, "bias": given[f"{name}.bias"]}

    def layer(prefix: str) -> dict[str, Any]:
        fused = linear(f"{prefix}.attn.c_attn")
        kernels = np.moveaxis(fused["kernel"].reshape(d, 3, n, d // n), 1, 0)
        biases = fused["bias"].reshape(3, n, d // n)
        output = linear(f"{prefix}.attn.c_proj")
        output["kernel"] = output["kernel"].reshape(n, d // n, d)
        parts = zip(("query", "key", "value"), kernels, biases)
        return {
            "attention_norm": norm(f"{prefix}.ln_1"),
            "attention": {
                **{name: {"kernel": kernel, "bias": bias} for name, kernel, bias in parts},
                "output": output,
            },
            "mlp_norm": norm(f"{prefix}.ln_2"),
            "mlp": {"up": linear(f"{prefix}.mlp.c_fc"), "down": linear(f"{prefix}.mlp.c_proj")},
        }

    params = {
        "token_embedding": {"embedding": given["transformer.wte.weight"]},
        "position_embedding": {"embedding": given["transformer.wpe.weight"]},
        **{f"layer_{i}": layer(f"transformer.h.{i}") for i in range(config.num_layers)},
        "final_norm": norm("transformer.ln_f"),
        "lm_head": {"kernel": given["lm_head.weight"].T},
    }
    return config, jax.tree.map(jnp.asarray, params)


def test_activations_equal_the_published_ones(model: tuple[ModelConfig, Any], folder: Path) -> None:
    config, params = model
    published = arrays(folder / "gpt-nano-sort-t0-partials.json")
    tokens = jnp.asarray(published["idx"].astype(np.int32))
    apply = build_model(config).apply

    def same(name: str, found: Any) -> None:
        np.testing.assert_allclose(found, published[name], rtol=0, atol=WITHIN, err_msg=name)

    states: Any = apply({"params": params}, tokens, method="hidden_states")
    for name, state in zip(("x", "block0", "block1", "ln_f"), states):
        same(name, state)
    logits: Any = apply({"params": params}, tokens)[0]
    same("lm_head", logits)
    same("probs", jax.nn.softmax(logits))

    context = Context(mask=Mask(causal=True))
    (block0, _), kept = Block(config).apply(
        {"params": params["layer_0"]},
        states[0],
        context,
        train=False,
        capture_intermediates=True,
        mutable=["intermediates"],
    )
    same("mlpResid", block0)
    inner = jax.tree.map(
        lambda x: x[0], kept["intermediates"], is_leaf=lambda x: isinstance(x, tuple)
    )
    attention, mlp = inner["attention"], inner["mlp"]
    same("ln1", inner["attention_norm"]["__call__"])
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
        same(theirs, jnp.swapaxes(attention[ours]["__call__"], 1, 2))
    projected = attention["output"]["__call__"]
    same("yProj", projected)
    same("attnResid", states[0] + projected)
    same("ln2", inner["mlp_norm"]["__call__"])
    same("fc", mlp["up"]["__call__"])
    same("gelu", ACTIVATIONS["gelu_tanh"][0](mlp["up"]["__call__"]))
    same("mlp", mlp["down"]["__call__"])
    # Values of unit vectors, filled up to a head's width: what comes out are the probabilities.
    length, heads, width = tokens.shape[1], config.num_heads, config.width_of_head
    units = jnp.broadcast_to(
        jnp.eye(length, width)[None, :, None], (len(tokens), length, heads, width)
    )
    query, key = attention["query"]["__call__"], attention["key"]["__call__"]
    probabilities = attend(query, key, units, context, scale=width**-0.5)[..., :length]
    same("attSm", jnp.swapaxes(probabilities, 1, 2))
    block2, _ = Block(config).apply({"params": params["layer_2"]}, states[2], context, train=False)
    same("block2", block2)


def test_every_input_is_sorted(model: tuple[ModelConfig, Any]) -> None:
    config, params = model
    forward = jax.jit(lambda tokens: build_model(config).apply({"params": params}, tokens)[0])
    inputs = np.array(list(itertools.product(range(3), repeat=LETTERS)), np.int32)
    assert len(inputs) == 729
    tokens = np.zeros((729, 2 * LETTERS), np.int32)
    tokens[:, :LETTERS] = inputs
    for i in range(LETTERS, 2 * LETTERS):
        tokens[:, i] = np.argmax(forward(tokens[:, :-1])[:, i - 1], axis=-1)
    np.testing.assert_array_equal(tokens[:, LETTERS:], np.sort(inputs, axis=1))
