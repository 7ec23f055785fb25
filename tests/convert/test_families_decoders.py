"""GPT-1, GPT-2, GPT-Neo, Llama and kin: configs there and back, and the names of every tensor."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lm.config import (
    DropoutConfig,
    HeadConfig,
    InitConfig,
    Learned,
    LinearScaling,
    Llama3Scaling,
    ModelConfig,
    NormConfig,
    PoolerConfig,
    Rotary,
    from_dict,
)
from lm.convert.families import family_of_folder, family_of_model
from lm.convert.families.common import canonical
from lm.convert.layout import Plan
from lm.errors import ConfigError
from lm.model import build_model
from tests.convert.decoders import LLAMA3, PUBLISHED, SMALL, published, read, without


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{key}/")
        else:
            yield f"{path}{key}", value


def shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    variables = jax.eval_shape(
        build_model(model).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32)
    )
    return {path: leaf.shape for path, leaf in leaves(nn.meta.unbox(variables)["params"])}


def reference_shapes(plan: Plan, here: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    return {
        rule.reference: rule.layout.reference_shape([here[name] for name in rule.parameters])
        for rule in plan.rules
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_have_the_published_number_of_parameters(name: str) -> None:
    values, count = PUBLISHED[name]
    model = read(values)
    plan = family_of_folder(values).plan(model, None)
    # Every layer has the shapes of the first ones.
    first = shapes(replace(model, num_layers=len(model.layer_pattern)))
    paths = {path for rule in plan.rules for path in rule.parameters}
    there = reference_shapes(
        plan, {path: first[re.sub(r"layer_\d+", "layer_0", path)] for path in paths}
    )
    assert sum(math.prod(shape) for shape in there.values()) == count


@pytest.mark.parametrize("name", [*PUBLISHED, *SMALL])
def test_a_config_survives_being_written(name: str) -> None:
    values = SMALL[name] if name in SMALL else PUBLISHED[name][0]
    model = read(values)
    written = family_of_model(model, family_of_folder(values).name).write_config(model)
    # A mistral without a window is a llama, and so on: what is computed must stay.
    assert read(written) == model
    assert model == canonical(model)
    if name in PUBLISHED:
        assert written["model_type"] == values["model_type"]
        assert written["architectures"] == values["architectures"]


@pytest.mark.parametrize("name", SMALL)
def test_the_plan_has_every_parameter_once(name: str) -> None:
    values = SMALL[name]
    family, model = family_of_folder(values), read(values)
    plan = family.plan(model, None)
    here = shapes(model)
    assert sorted(path for rule in plan.rules for path in rule.parameters) == sorted(here)
    there = reference_shapes(plan, here)
    assert len(there) == len(plan.rules)
    # A duplicate is no rule's tensor, and equals one that is; an ignored name is nobody's.
    assert not set(plan.duplicates) & set(there)
    assert set(plan.duplicates.values()) <= set(there)
    for pattern in plan.ignored:
        assert not any(re.fullmatch(pattern, tensor) for tensor in there)


@pytest.mark.parametrize("name", SMALL)
def test_arrays_survive_there_and_back(name: str) -> None:
    values = SMALL[name]
    model = read(values)
    here = shapes(model)
    rng = np.random.default_rng(0)
    for rule in family_of_folder(values).plan(model, None).rules:
        arrays = [rng.normal(size=here[path]).astype(np.float32) for path in rule.parameters]
        back = rule.layout.to_lm(rule.layout.to_reference(arrays))
        for array, other in zip(arrays, back, strict=True):
            np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize(
    ("name", "prefix", "tensors"),
    [
        ("gpt2", "transformer.", ["wte.weight", "h.1.attn.c_attn.weight", "ln_f.bias"]),
        ("gpt1", "transformer.", ["tokens_embed.weight", "h.0.ln_1.weight"]),
        ("neo", "transformer.", ["wpe.weight", "h.0.attn.attention.out_proj.bias"]),
        ("llama tied", "model.", ["embed_tokens.weight", "layers.1.mlp.gate_proj.weight"]),
        ("llama span", "transformer.", ["norm.weight"]),
        ("mistral span", "model.", ["norm.weight"]),
        ("gpt2 base", "", ["wte.weight"]),
        ("llama base", "", ["embed_tokens.weight"]),
    ],
)
def test_prefixes(name: str, prefix: str, tensors: list[str]) -> None:
    """Without names, those of the reference's class; with names, what is there."""
    values = SMALL[name]
    family, model = family_of_folder(values), read(values)
    usual = {rule.reference for rule in family.plan(model, None).rules}
    assert {prefix + tensor for tensor in tensors} <= usual
    for other in ("", "transformer.", "model."):
        names = {tensor.replace(prefix, other, 1) for tensor in usual}
        found = {rule.reference for rule in family.plan(model, names).rules}
        if not (other == "model." and values["model_type"] in ("gpt2", "openai-gpt", "gpt_neo")):
            assert {other + tensor for tensor in tensors} <= found


def test_buffers_of_older_versions_are_ignored() -> None:
    for name, tensors in {
        "gpt2": ["h.0.attn.bias", "transformer.h.11.attn.masked_bias"],
        "gpt1": ["h.0.attn.bias", "transformer.position_ids"],
        "neo": ["transformer.h.1.attn.attention.bias", "h.1.attn.attention.masked_bias"],
        "llama": ["model.layers.0.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq"],
    }.items():
        plan = family_of_folder(SMALL[name]).plan(read(SMALL[name]), None)
        for tensor in tensors:
            assert any(re.fullmatch(pattern, tensor) for pattern in plan.ignored), tensor


def test_what_gpt2_says_arrives() -> None:
    model = read(
        published(
            "gpt2",
            n_inner=100,
            activation_function="relu",
            layer_norm_epsilon=1e-6,
            embd_pdrop=0.2,
            attn_pdrop=0.3,
            resid_pdrop=0.4,
            initializer_range=0.01,
        )
    )
    assert model == ModelConfig(
        vocab_size=50257,
        num_layers=12,
        d_model=768,
        num_heads=12,
        d_ff=100,
        position=Learned(1024),
        norm=NormConfig(epsilon=1e-6),
        activation="relu",
        dropout=DropoutConfig(embedding=0.2, attention=0.3, residual=0.4),
        init=InitConfig(0.01),
    )


def test_gelu_is_tanh_in_gpt1_alone() -> None:
    assert read(published("openai-gpt", afn="gelu")).activation == "gelu_tanh"
    assert read(published("gpt2", activation_function="gelu")).activation == "gelu"
    model = replace(read(PUBLISHED["openai-gpt"][0]), activation="gelu")
    with pytest.raises(ConfigError, match="activation='gelu'.*'gelu_tanh'"):
        family_of_model(model, "openai-gpt")


def test_rotary_parameters_old_and_new() -> None:
    """transformers 5 writes rope_parameters, and published files rope_theta and rope_scaling."""
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 8192)
    old = published("llama-3.1-8b")
    assert read(old).position == Rotary(base=500000.0, scaling=scaling)
    bare = without(without(old, "rope_scaling"), "rope_theta")
    new = {**bare, "rope_parameters": {**LLAMA3, "rope_theta": 500000.0}}
    assert read(new) == read(old)
    assert read(bare).position == Rotary()
    linear = {**bare, "rope_scaling": {"type": "linear", "factor": 4.0}}
    assert read(linear).position == Rotary(scaling=LinearScaling(4.0))
    # The reference, where there are both, goes by rope_scaling.
    both = {**linear, "rope_theta": 7.0, "rope_parameters": {**LLAMA3, "rope_theta": 9.0}}
    assert read(both).position == Rotary(base=7.0, scaling=LinearScaling(4.0))
    assert read({**both, "rope_scaling": {}}).position == Rotary(base=9.0, scaling=scaling)
    # Each of the two ways of writing says everything on its own.
    written = family_of_model(read(old)).write_config(read(old))
    assert read(without(written, "rope_parameters")) == read(old)
    assert read(without(without(written, "rope_scaling"), "rope_theta")) == read(old)
    assert written["rope_scaling"]["type"] == written["rope_scaling"]["rope_type"] == "llama3"


def test_windows() -> None:
    mistral = published("mistral-7b-v0.1")
    assert (read(mistral).layer_pattern, read(mistral).window) == (("local",), 4096)
    assert read({**mistral, "sliding_window": None}).window is None
    assert read(without(mistral, "sliding_window")).window == 4096
    assert read(published("qwen2-7b")).window is None
    qwen = published("qwen2-7b", use_sliding_window=True, sliding_window=100, num_hidden_layers=4)
    assert read({**qwen, "max_window_layers": 4}).layer_pattern == ("global",)
    model = read({**qwen, "max_window_layers": 1})
    assert (model.layer_pattern, model.window) == (("global", "local", "local", "local"), 100)
    types = ["sliding_attention", "full_attention"] * 2
    assert read({**qwen, "layer_types": types}).layer_pattern == ("local", "global")
    written = family_of_model(model).write_config(model)
    assert (written["max_window_layers"], written["sliding_window"]) == (1, 100)
    assert written["layer_types"] == ["full_attention"] + ["sliding_attention"] * 3


def test_heads() -> None:
    classes = read(SMALL["llama classes"])
    last = PoolerConfig(token="last", dense=False, activation="none")
    assert (classes.lm_head, classes.pooler) == ("none", last)
    assert classes.heads == (HeadConfig("classification", 5, bias=False),)
    assert read(SMALL["gpt1 regression"]).heads == (HeadConfig("regression", 1, bias=False),)
    assert read(SMALL["gpt2 tokens"]).dropout.head == 0.3
    assert read(SMALL["gpt2"]).dropout.head == 0.0
    assert read(SMALL["gpt2 base"]).lm_head == "none"
    # A base model's config beside tensors of a head, and no class at all: the tensors tell.
    tensors = {"model.embed_tokens.weight", "lm_head.weight"}
    assert read(SMALL["llama base"], tensors).lm_head == "linear"
    unnamed = without(SMALL["llama base"], "architectures")
    assert read(unnamed, {"model.embed_tokens.weight", "score.weight"}).heads[0].num_labels == 2


def test_interleaved_heads_are_written_as_halves() -> None:
    """Weights of a model that rotates neighbours, read back as one that rotates halves."""
    values = SMALL["qwen3 biases"]
    halves = read(values)
    pairs = replace(halves, position=Rotary(base=1000000.0, interleaved=True))
    family = family_of_model(pairs)
    assert family.read_config(family.write_config(pairs), ()) == halves
    rng = np.random.default_rng(0)
    here = {path: rng.normal(size=s).astype(np.float32) for path, s in shapes(pairs).items()}
    there = {
        rule.reference: rule.layout.to_reference([here[path] for path in rule.parameters])
        for rule in family.plan(pairs, None).rules
    }
    back = {
        path: array
        for rule in family.plan(halves, None).rules
        for path, array in zip(rule.parameters, rule.layout.to_lm(there[rule.reference]))
    }
    assert any(not np.array_equal(here[path], back[path]) for path in here)

    def logits(model: ModelConfig, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        params: dict[str, Any] = {}
        for path, array in arrays.items():
            *parents, leaf = path.split("/")
            node = params
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = jnp.asarray(array)
        tokens = jnp.asarray([[3, 1, 4, 1, 5, 9, 2, 6]])
        return np.asarray(build_model(model).apply({"params": params}, tokens)[0])

    wanted = logits(pairs, here)
    np.testing.assert_allclose(logits(halves, back), wanted, atol=1e-4 * np.abs(wanted).max())
    assert np.abs(logits(halves, here) - wanted).max() > 0.1


@pytest.mark.parametrize("folder", ["gpt1", "gpt2", "llama", "smollm", "qwen"])
def test_experiments_can_be_written(folder: str) -> None:
    module = importlib.import_module(f"experiments.{folder}.model")
    for size in module.SIZES:
        model = from_dict(ModelConfig, module.model(size))
        family = family_of_model(model)
        back = family.read_config(family.write_config(model), ())
        assert back == canonical(model), size
