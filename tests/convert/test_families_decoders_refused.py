"""What the families of decoders refuse, by name: config.json files, and models of ours."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from lm.config import (
    ALiBi,
    DropoutConfig,
    HeadConfig,
    InitConfig,
    Learned,
    NormConfig,
    RelativeKeys,
    Rotary,
)
from lm.convert.families import FAMILIES, family_of_folder, family_of_model
from lm.errors import ConfigError, UserError
from tests.convert.decoders import SMALL, published, read, small


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ("gpt2", {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn=True"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
        ("gpt2", {"activation_function": "mish"}, "activation_function='mish'.*gelu_new"),
        ("gpt2", {"architectures": ["GPT2DoubleHeadsModel"]}, "'GPT2DoubleHeadsModel'.*GPT2Model"),
        ("gpt2", {"n_embd": None}, "no n_embd"),
        ("gpt2", {"n_embd": "768"}, "n_embd='768'"),
        ("gpt2", {"n_embd": 7.5}, "n_embd=7.5"),
        ("gpt2", {"n_embd": math.inf}, "n_embd=inf"),
        ("gpt2", {"n_head": 7}, "num_heads=7"),
        ("gpt2", {"attn_pdrop": "0.1"}, "attn_pdrop='0.1'"),
        ("gpt2", {"tie_word_embeddings": "yes"}, "tie_word_embeddings='yes'"),
        (
            "gpt2",
            {
                "architectures": ["GPT2ForSequenceClassification"],
                "problem_type": "ranking",
            },
            "problem_type='ranking'",
        ),
        ("openai-gpt", {"afn": "gelu_new"}, "afn='gelu_new'.*gelu, relu"),
        ("gpt-neo-125m", {"attention_types": [[["global"], 3]]}, "attention_types=.*num_layers=12"),
        ("gpt-neo-125m", {"attention_types": [[["sparse"], 12]]}, "attention_types=.*sparse"),
        ("gpt-neo-125m", {"attention_types": [[[{}], 12]]}, "attention_types=.*{}"),
        ("gpt-neo-125m", {"attention_types": "global"}, "attention_types='global'"),
        ("llama-2-7b", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_scaling.*'yarn'"),
        ("llama-2-7b", {"rope_scaling": {"type": "linear"}}, "rope_scaling has no factor"),
        ("llama-2-7b", {"rope_parameters": {"full_attention": {}}}, "rope_parameters=.*all layers"),
        ("llama-2-7b", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ("llama-2-7b", {"hidden_act": "relu"}, "hidden_act='relu'.*silu"),
        (
            "qwen2-7b",
            {"layer_types": ["full_attention"] * 27 + ["linear_attention"]},
            "linear_attention.*sliding_attention",
        ),
        ("qwen2-7b", {"layer_types": [["full_attention"]] * 28}, "full_attention, sliding"),
        ("qwen2-7b", {"layer_types": ["full_attention"]}, "num_hidden_layers=28"),
        (
            "qwen2-7b",
            {"layer_types": ["sliding_attention"] * 28},
            "use_sliding_window is false",
        ),
    ],
)
def test_what_is_not_supported_is_named(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(published(name, **changes))


def test_unknown_model_types() -> None:
    with pytest.raises(UserError, match="model_type='mamba'.*gpt2.*qwen3"):
        family_of_folder({"model_type": "mamba"})
    with pytest.raises(UserError, match="no model_type"):
        family_of_folder({})
    types = [kind for family in FAMILIES for kind in family.model_types]
    assert len(types) == len(set(types))


@pytest.mark.parametrize(
    ("name", "family", "changes", "message"),
    [
        ("gpt2", "gpt2", {"position": ALiBi()}, "position.kind='alibi'.*'learned'"),
        ("gpt2", "gpt2", {"norm": NormConfig(kind="rms")}, "norm.kind='rms'"),
        ("gpt2", "gpt2", {"activation": "swiglu"}, "activation='swiglu'.*'gelu_tanh'"),
        ("gpt2", "gpt2", {"num_kv_heads": 2}, "num_kv_heads=2"),
        ("gpt2", "gpt2", {"attention_bias": False}, "attention_bias=False"),
        ("gpt2", "gpt2", {"attention_softcap": 30.0}, "attention_softcap=30.0"),
        ("gpt2", "gpt2", {"scale_embeddings": True}, "scale_embeddings=True"),
        ("gpt2", "gpt2", {"lm_head_bias": True}, "lm_head_bias=True"),
        ("gpt2", "gpt2", {"layer_pattern": ("local",), "window": 2}, "window=2"),
        ("gpt2", "gpt2", {"architecture": "encoder"}, "architecture='encoder'"),
        ("gpt2", "gpt2", {"head_dim": 3}, "head_dim=3"),
        ("gpt2", "gpt2", {"d_ff": 0}, "no family can express d_ff=0"),
        ("gpt2", None, {"d_ff": 0}, "no family can express d_ff=0"),
        ("llama-2-7b", "llama", {"position": RelativeKeys(8)}, "kind='relative_keys'.*'rotary'"),
        ("gpt2", "gpt2", {"heads": (HeadConfig("span", 2),)}, "span beside lm_head='linear'"),
        ("openai-gpt", "openai-gpt", {"d_ff": 24}, "d_ff=24"),
        ("gpt-neo-125m", "gpt_neo", {"attention_scale": None}, "attention_scale=None"),
        ("llama-2-7b", "llama", {"position": Learned(12)}, "position.kind='learned'.*'rotary'"),
        ("llama-2-7b", "llama", {"position": Rotary(fraction=0.5)}, "position.fraction=0.5"),
        ("llama-2-7b", "llama", {"norm": NormConfig(kind="layer")}, "norm.kind='layer'"),
        ("llama-2-7b", "llama", {"logit_softcap": 30.0}, "llama cannot express logit_softcap=30.0"),
        ("qwen3-0.6b", "llama", {"mlp_bias": True}, "llama.*qk_norm=True.*qwen3.*mlp_bias=True"),
    ],
)
def test_what_a_family_cannot_express_is_named(
    name: str, family: str | None, changes: dict[str, Any], message: str
) -> None:
    model = replace(read(small(name)), **changes)
    with pytest.raises(ConfigError, match=message):
        family_of_model(model, family)


def test_training_and_computing_do_not_hinder() -> None:
    model = replace(
        read(SMALL["llama"]),
        dropout=DropoutConfig(residual=0.1),
        compute_dtype="bfloat16",
        remat="full",
        scan_layers=True,
        attention_kernel="blocks",
        init=InitConfig(0.1, scale_residual=True),
    )
    family_of_model(model)


def test_the_family_of_a_model() -> None:
    chosen = {name: family_of_model(read(values)).name for name, values in SMALL.items()}
    for name, family in chosen.items():
        assert family == family_of_folder(SMALL[name]).name
    with pytest.raises(ConfigError, match="no family is called 'lama'; did you mean 'llama'"):
        family_of_model(read(SMALL["llama"]), "lama")
    with pytest.raises(ConfigError, match="no family.*\n.*llama cannot(.|\n)*gpt2 cannot"):
        family_of_model(replace(read(SMALL["gpt2"]), position=ALiBi()))
