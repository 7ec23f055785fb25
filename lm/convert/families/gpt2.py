"""GPT-2 (Radford et al. 2019): transformers' `gpt2`, with Conv1D weights [in, out] and one fused
projection to queries, keys and values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lm.config import DropoutConfig, InitConfig, Learned, ModelConfig, NormConfig
from lm.convert.families import common
from lm.convert.families.common import (
    READ_ACTIVATION,
    WRITE_ACTIVATION,
    Family,
    embedding,
    flag,
    module,
    norm,
    number,
    only,
    whole,
)
from lm.convert.families.decoders import (
    Classes,
    head_dropout,
    head_rules,
    read_heads,
    tied_head,
    write_heads,
)
from lm.convert.layout import SAME, Fused, HeadsBias, HeadsIn, HeadsOut, Plan, Rule

NAME = "gpt2"
CLASSES = Classes(
    base="GPT2Model",
    causal="GPT2LMHeadModel",
    heads={
        "classification": ("GPT2ForSequenceClassification", "score", False),
        "token_classification": ("GPT2ForTokenClassification", "classifier", True),
        "span": ("GPT2ForQuestionAnswering", "qa_outputs", True),
    },
)


def read_config(values: Mapping[str, Any], names: Collection[str]) -> ModelConfig:
    """See `Family`."""
    only(values, "scale_attn_by_inverse_layer_idx", False)
    only(values, "reorder_and_upcast_attn", False)
    only(values, "add_cross_attention", False)
    d_model = whole(values, "n_embd")
    return common.canonical(
        ModelConfig(
            vocab_size=whole(values, "vocab_size"),
            num_layers=whole(values, "n_layer"),
            d_model=d_model,
            num_heads=whole(values, "n_head"),
            d_ff=whole(values, "n_inner", 4 * d_model),
            position=Learned(max_length=whole(values, "n_positions")),
            norm=NormConfig(epsilon=number(values, "layer_norm_epsilon", 1e-5)),
            activation=common.choice(values, "activation_function", READ_ACTIVATION, "gelu_new"),
            attention_scale=None if flag(values, "scale_attn_weights", True) else 1.0,
            tie_embeddings=flag(values, "tie_word_embeddings", True),
            dropout=DropoutConfig(
                embedding=number(values, "embd_pdrop", 0.1),
                attention=number(values, "attn_pdrop", 0.1),
                residual=number(values, "resid_pdrop", 0.1),
                head=head_dropout(values, names, CLASSES),
            ),
            init=InitConfig(stddev=number(values, "initializer_range", 0.02)),
            **read_heads(values, names, CLASSES),
        )
    )


def write_config(model: ModelConfig) -> dict[str, Any]:
    """See `Family`."""
    length = common.learned_length(NAME, model)
    values = {
        "model_type": "gpt2",
        **write_heads(NAME, model, CLASSES),
        "vocab_size": model.vocab_size,
        "n_positions": length,
        # The old name of n_positions, which llama.cpp reads.
        "n_ctx": length,
        "n_embd": model.d_model,
        "n_layer": model.num_layers,
        "n_head": model.num_heads,
        "n_inner": model.d_ff,
        "activation_function": common.expressed(
            NAME, WRITE_ACTIVATION, "activation", model.activation
        ),
        "layer_norm_epsilon": model.norm.epsilon,
        "scale_attn_weights": model.attention_scale != 1.0,
        "embd_pdrop": model.dropout.embedding,
        "attn_pdrop": model.dropout.attention,
        "resid_pdrop": model.dropout.residual,
        "initializer_range": model.init.stddev,
    }
    common.check_expressed(NAME, model, lambda: read_config(values, ()))
    return values


def plan(model: ModelConfig, names: Collection[str] | None) -> Plan:
    """See `Family`."""
    usual = "" if model.lm_head == "none" and not model.heads else "transformer."
    prefix = common.prefix_of(names, "wte.weight", (usual, "transformer.", ""))
    rules = [
        *embedding(f"{prefix}wte", "token_embedding"),
        *embedding(f"{prefix}wpe", "position_embedding"),
    ]
    for i in range(model.num_layers):
        rules += _layer(model, f"{prefix}h.{i}", f"layer_{i}")
    rules += norm(f"{prefix}ln_f", "final_norm")
    return Plan(
        rules=(*rules, *head_rules(model, CLASSES)),
        duplicates=tied_head(model, f"{prefix}wte.weight"),
        ignored={r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias": "the causal mask, a constant"},
    )


def _layer(model: ModelConfig, reference: str, path: str) -> list[Rule]:
    return [
        *norm(f"{reference}.ln_1", f"{path}/attention_norm"),
        *fused_attention(model, f"{reference}.attn", f"{path}/attention"),
        *norm(f"{reference}.ln_2", f"{path}/mlp_norm"),
        *module(f"{reference}.mlp.c_fc", f"{path}/mlp/up", SAME, SAME),
        *module(f"{reference}.mlp.c_proj", f"{path}/mlp/down", SAME, SAME),
    ]


def fused_attention(model: ModelConfig, reference: str, path: str) -> list[Rule]:
    """`c_attn` and `c_proj`, Conv1D both: of GPT-1 and GPT-2."""
    heads, width = model.num_heads, model.width_of_head
    kernel, bias = HeadsOut(heads, width, conv1d=True), HeadsBias(heads, width)
    parts = [f"{path}/{name}" for name in ("query", "key", "value")]
    sizes = (heads * width,) * 3
    return [
        Rule(
            f"{reference}.c_attn.weight",
            tuple(f"{part}/kernel" for part in parts),
            Fused((kernel,) * 3, sizes, axis=1),
        ),
        Rule(
            f"{reference}.c_attn.bias",
            tuple(f"{part}/bias" for part in parts),
            Fused((bias,) * 3, sizes),
        ),
        *module(f"{reference}.c_proj", f"{path}/output", HeadsIn(heads, width, conv1d=True), SAME),
    ]


FAMILY = Family(NAME, ("gpt2",), read_config, write_config, plan)
