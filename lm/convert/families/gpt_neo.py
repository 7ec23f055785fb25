"""GPT-Neo (Black et al. 2021): transformers' `gpt_neo`, whose layers look at everything and at a
window in turn. It is the nearest public reference of GPT-3's layers; its scores are not scaled."""

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
    linear,
    module,
    norm,
    number,
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
from lm.convert.layout import SAME, HeadsIn, HeadsOut, Plan, Rule
from lm.errors import UserError

NAME = "gpt_neo"
CLASSES = Classes(
    base="GPTNeoModel",
    causal="GPTNeoForCausalLM",
    heads={
        "classification": ("GPTNeoForSequenceClassification", "score", False),
        "token_classification": ("GPTNeoForTokenClassification", "classifier", True),
        "span": ("GPTNeoForQuestionAnswering", "qa_outputs", True),
    },
)
DEFAULT_TYPES = [[["global", "local"], 12]]


def read_config(values: Mapping[str, Any], names: Collection[str]) -> ModelConfig:
    """See `Family`."""
    d_model = whole(values, "hidden_size")
    num_layers = whole(values, "num_layers")
    layers = _layer_kinds(values, num_layers)
    return common.canonical(
        ModelConfig(
            vocab_size=whole(values, "vocab_size"),
            num_layers=num_layers,
            d_model=d_model,
            num_heads=whole(values, "num_heads"),
            d_ff=whole(values, "intermediate_size", 4 * d_model),
            position=Learned(max_length=whole(values, "max_position_embeddings")),
            norm=NormConfig(epsilon=number(values, "layer_norm_epsilon", 1e-5)),
            activation=common.choice(values, "activation_function", READ_ACTIVATION, "gelu_new"),
            attention_bias=False,
            attention_scale=1.0,
            layer_pattern=tuple(layers),
            window=whole(values, "window_size", 256) if "local" in layers else None,
            tie_embeddings=flag(values, "tie_word_embeddings", True),
            dropout=DropoutConfig(
                embedding=number(values, "embed_dropout", 0.0),
                attention=number(values, "attention_dropout", 0.0),
                residual=number(values, "resid_dropout", 0.0),
                head=head_dropout(values, names, CLASSES),
            ),
            init=InitConfig(number(values, "initializer_range", 0.02), scale_residual=False),
            **read_heads(values, names, CLASSES),
        )
    )


def _layer_kinds(values: Mapping[str, Any], num_layers: int) -> list[Any]:
    """Whether each layer is "global" or "local", from pairs of a pattern and its repetitions."""
    types: Any = values.get("attention_types") or DEFAULT_TYPES
    try:
        kinds = [kind for pattern, times in types for kind in list(pattern) * times]
    except (TypeError, ValueError):
        kinds = []
    if len(kinds) != num_layers or any(kind not in ("global", "local") for kind in kinds):
        raise UserError(
            f"config.json: attention_types={types!r} does not name 'global' or 'local' for each "
            f"of num_layers={num_layers}"
        )
    return kinds


def write_config(model: ModelConfig) -> dict[str, Any]:
    """See `Family`."""
    length = common.learned_length(NAME, model)
    repeated = model.num_layers // len(model.layer_pattern)
    values = {
        "model_type": "gpt_neo",
        **write_heads(NAME, model, CLASSES),
        "vocab_size": model.vocab_size,
        "max_position_embeddings": length,
        "hidden_size": model.d_model,
        "num_layers": model.num_layers,
        "num_heads": model.num_heads,
        "intermediate_size": model.d_ff,
        "activation_function": common.expressed(
            NAME, WRITE_ACTIVATION, "activation", model.activation
        ),
        "attention_types": [[list(model.layer_pattern), repeated]],
        "attention_layers": list(model.layer_pattern) * repeated,
        # The reference wants a number here even where no layer is local.
        "window_size": 256 if model.window is None else model.window,
        "layer_norm_epsilon": model.norm.epsilon,
        "embed_dropout": model.dropout.embedding,
        "attention_dropout": model.dropout.attention,
        "resid_dropout": model.dropout.residual,
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
    masks = r"(transformer\.)?h\.\d+\.attn\.attention\.(masked_)?bias"
    return Plan(
        rules=(*rules, *head_rules(model, CLASSES)),
        duplicates=tied_head(model, f"{prefix}wte.weight"),
        ignored={masks: "the causal mask, a constant"},
    )


def _layer(model: ModelConfig, reference: str, path: str) -> list[Rule]:
    heads, width = model.num_heads, model.width_of_head
    attention = f"{reference}.attn.attention"
    rules = norm(f"{reference}.ln_1", f"{path}/attention_norm")
    for name, to in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        rules += module(
            f"{attention}.{name}", f"{path}/attention/{to}", HeadsOut(heads, width), None
        )
    output = HeadsIn(heads, width)
    return [
        *rules,
        *module(f"{attention}.out_proj", f"{path}/attention/output", output, SAME),
        *norm(f"{reference}.ln_2", f"{path}/mlp_norm"),
        *linear(f"{reference}.mlp.c_fc", f"{path}/mlp/up"),
        *linear(f"{reference}.mlp.c_proj", f"{path}/mlp/down"),
    ]


FAMILY = Family(NAME, ("gpt_neo",), read_config, write_config, plan)
