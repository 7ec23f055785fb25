"""GPT-1 (Radford et al. 2018): transformers' `openai-gpt`, GPT-2's weights with the norms behind
the residual sums."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lm.config import Activation, DropoutConfig, InitConfig, Learned, ModelConfig, NormConfig
from lm.convert.families import common
from lm.convert.families.common import Family, embedding, flag, module, norm, number, whole
from lm.convert.families.decoders import Classes, head_rules, read_heads, tied_head, write_heads
from lm.convert.families.gpt2 import fused_attention
from lm.convert.layout import SAME, Plan, Rule

NAME = "openai-gpt"
CLASSES = Classes(
    base="OpenAIGPTModel",
    causal="OpenAIGPTLMHeadModel",
    heads={"classification": ("OpenAIGPTForSequenceClassification", "score", False)},
)
# Its "gelu" is the approximation with tanh.
READ_ACTIVATION: dict[str, Activation] = {
    "gelu": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
WRITE_ACTIVATION = {"gelu_tanh": "gelu", "relu": "relu", "silu": "silu"}


def read_config(values: Mapping[str, Any], names: Collection[str]) -> ModelConfig:
    """See `Family`."""
    d_model = whole(values, "n_embd")
    return common.canonical(
        ModelConfig(
            vocab_size=whole(values, "vocab_size"),
            num_layers=whole(values, "n_layer"),
            d_model=d_model,
            num_heads=whole(values, "n_head"),
            d_ff=4 * d_model,
            position=Learned(max_length=whole(values, "n_positions")),
            norm=NormConfig(placement="post", epsilon=number(values, "layer_norm_epsilon", 1e-5)),
            activation=common.choice(values, "afn", READ_ACTIVATION, "gelu"),
            tie_embeddings=flag(values, "tie_word_embeddings", True),
            dropout=DropoutConfig(
                embedding=number(values, "embd_pdrop", 0.1),
                attention=number(values, "attn_pdrop", 0.1),
                residual=number(values, "resid_pdrop", 0.1),
            ),
            init=InitConfig(number(values, "initializer_range", 0.02), scale_residual=False),
            **read_heads(values, names, CLASSES),
        )
    )


def write_config(model: ModelConfig) -> dict[str, Any]:
    """See `Family`."""
    length = common.learned_length(NAME, model)
    values = {
        "model_type": "openai-gpt",
        **write_heads(NAME, model, CLASSES),
        "vocab_size": model.vocab_size,
        "n_positions": length,
        "n_ctx": length,
        "n_embd": model.d_model,
        "n_layer": model.num_layers,
        "n_head": model.num_heads,
        "afn": common.expressed(NAME, WRITE_ACTIVATION, "activation", model.activation),
        "layer_norm_epsilon": model.norm.epsilon,
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
    prefix = common.prefix_of(names, "tokens_embed.weight", (usual, "transformer.", ""))
    rules = [
        *embedding(f"{prefix}tokens_embed", "token_embedding"),
        *embedding(f"{prefix}positions_embed", "position_embedding"),
    ]
    for i in range(model.num_layers):
        rules += _layer(model, f"{prefix}h.{i}", f"layer_{i}")
    return Plan(
        rules=(*rules, *head_rules(model, CLASSES)),
        duplicates=tied_head(model, f"{prefix}tokens_embed.weight"),
        ignored={
            r"(transformer\.)?h\.\d+\.attn\.bias": "the causal mask, a constant",
            r"(transformer\.)?position_ids": "the numbers from 0 on, a constant",
        },
    )


def _layer(model: ModelConfig, reference: str, path: str) -> list[Rule]:
    return [
        *fused_attention(model, f"{reference}.attn", f"{path}/attention"),
        *norm(f"{reference}.ln_1", f"{path}/attention_norm"),
        *module(f"{reference}.mlp.c_fc", f"{path}/mlp/up", SAME, SAME),
        *module(f"{reference}.mlp.c_proj", f"{path}/mlp/down", SAME, SAME),
        *norm(f"{reference}.ln_2", f"{path}/mlp_norm"),
    ]


FAMILY = Family(NAME, ("openai-gpt",), read_config, write_config, plan)
