"""T5 (Raffel et al. 2020), v1.0 and v1.1: transformers' `t5`, and `mt5` (Xue et al. 2021).

v1.0 has a ReLU and one table for embeddings and logits, which it scales by d_model ** -0.5; v1.1
has a gated GELU, a table for the logits of their own, and scales nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from lm.config import Activation, DropoutConfig, InitConfig, ModelConfig, NormConfig, T5Relative
from lm.convert.families import common
from lm.convert.families.classes import (
    first_there,
    names_of,
)
from lm.convert.families.common import (
    CONFIG,
    Family,
    architecture,
    choice,
    embedding,
    flag,
    linear,
    norm,
    number,
    only,
    whole,
)
from lm.convert.families.encoders import (
    attention_rules,
)
from lm.convert.layout import SAME, Plan, Rule
from lm.errors import ConfigError, UserError

NAME = "t5"
# suffix of the class -> (lm's architecture, whether it has a language-model head)
CLASSES = {
    "ForConditionalGeneration": ("encoder_decoder", "linear"),
    "WithLMHeadModel": ("encoder_decoder", "linear"),  # the first name of the one above
    "Model": ("encoder_decoder", "none"),
    "EncoderModel": ("encoder", "none"),
}
# The reference's name of each is its first letter.
PARTS = ("query", "key", "value", "output")
READ_ACTIVATION: dict[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "silu": "silu",
    "gated-gelu": "geglu_tanh",
    "gated-gelu_new": "geglu_tanh",
    "gated-silu": "swiglu",
}
WRITE_ACTIVATION = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_new",
    "silu": "silu",
    "geglu_tanh": "gated-gelu",
    "swiglu": "gated-silu",
}


def read_config(values: Mapping[str, Any], names: Collection[str]) -> ModelConfig:
    """See `Family`."""
    only(values, "is_decoder", False)
    kind, lm_head = _class(values)
    joined = kind == "encoder_decoder"
    d_model, dropout = whole(values, "d_model"), number(values, "dropout_rate", 0.1)
    layers = whole(values, "num_layers")
    scaled = _scaled(values) and lm_head != "none"
    return common.canonical(
        ModelConfig(
            architecture="encoder_decoder" if joined else "encoder",
            vocab_size=whole(values, "vocab_size"),
            num_layers=layers,
            num_decoder_layers=whole(values, "num_decoder_layers", layers) if joined else None,
            d_model=d_model,
            num_heads=whole(values, "num_heads"),
            head_dim=whole(values, "d_kv", 64),
            d_ff=whole(values, "d_ff"),
            position=T5Relative(
                num_buckets=whole(values, "relative_attention_num_buckets", 32),
                max_distance=whole(values, "relative_attention_max_distance", 128),
            ),
            decoder_start_id=(
                whole(values, "decoder_start_token_id", whole(values, "pad_token_id", 0))
                if joined
                else None
            ),
            norm=NormConfig(
                kind="rms", placement="pre", epsilon=number(values, "layer_norm_epsilon", 1e-6)
            ),
            activation=choice(
                values, "feed_forward_proj", READ_ACTIVATION, _usual_activation(values)
            ),
            attention_bias=False,
            attention_output_bias=False,
            mlp_bias=False,
            attention_scale=1.0,
            tie_embeddings=lm_head == "none" or _tied(values, names),
            lm_head="linear" if lm_head == "linear" else "none",
            logit_scale=d_model**-0.5 if scaled else None,
            dropout=DropoutConfig(
                embedding=dropout,
                attention=dropout,
                residual=dropout,
                feed_forward=dropout,
                output=dropout,
            ),
            init=InitConfig(scale_residual=False),
        )
    )


def _class(values: Mapping[str, Any]) -> tuple[str, str]:
    """lm's architecture and lm_head."""
    name = architecture(values)
    if name is None:
        return CLASSES["ForConditionalGeneration"]
    known = CLASSES.get(name.removeprefix("MT5").removeprefix("T5"))
    if known is None:
        supported = ", ".join(f"T5{suffix}" for suffix in CLASSES)
        raise UserError(
            f"{CONFIG}: architectures={name!r} is not supported; supported: {supported}"
        )
    return known


def _usual_activation(values: Mapping[str, Any]) -> str:
    return "gated-gelu" if values.get("model_type") == "mt5" else "relu"


def _scaled(values: Mapping[str, Any]) -> bool:
    """Whether logits are scaled. A file from before transformers 5 says so by its embeddings being
    tied; since then they always count as tied, and there is a key for it."""
    if values.get("model_type") == "mt5":
        return False
    return flag(values, "scale_decoder_outputs", values.get("tie_word_embeddings") is not False)


def _tied(values: Mapping[str, Any], names: Collection[str]) -> bool:
    """Whether logits come from the embeddings' table. The reference has a table of their own where
    the file does: one beside scaled logits is the same table twice."""
    if names:
        return _scaled(values) or "lm_head.weight" not in names
    return flag(values, "tie_word_embeddings", True)


def write_config(model: ModelConfig) -> dict[str, Any]:
    """See `Family`."""
    joined = model.architecture == "encoder_decoder"
    if not isinstance(model.position, T5Relative):
        raise ConfigError(
            f"{NAME} cannot express position.kind={model.position.kind!r}; it can: 't5_relative'"
        )
    if model.heads:
        raise ConfigError(f"{NAME} cannot express heads; it can: a language-model head or none")
    scaled = model.logit_scale is not None and math.isclose(
        model.logit_scale, model.d_model**-0.5, rel_tol=1e-6
    )
    if scaled and not model.tie_embeddings:
        raise ConfigError(
            f"{NAME} cannot express logit_scale={model.logit_scale} with tie_embeddings=False; it "
            "can: a scale where they are tied"
        )
    language = "ForConditionalGeneration" if model.lm_head == "linear" else "Model"
    values = {
        "model_type": "t5",
        "architectures": [f"T5{language if joined else 'EncoderModel'}"],
        "is_encoder_decoder": joined,
        "vocab_size": model.vocab_size,
        "d_model": model.d_model,
        "num_layers": model.num_layers,
        "num_decoder_layers": model.decoder_layers,
        "num_heads": model.num_heads,
        "d_kv": model.width_of_head,
        "d_ff": model.d_ff,
        "relative_attention_num_buckets": model.position.num_buckets,
        "relative_attention_max_distance": model.position.max_distance,
        "feed_forward_proj": common.expressed(
            NAME, WRITE_ACTIVATION, "activation", model.activation
        ),
        "layer_norm_epsilon": model.norm.epsilon,
        "tie_word_embeddings": model.tie_embeddings,
        "scale_decoder_outputs": scaled,
        "dropout_rate": model.dropout.residual,
    }
    if joined:
        values["decoder_start_token_id"] = model.decoder_start_id
    names = names_of(plan(model, None))
    exact = replace(model, logit_scale=model.d_model**-0.5) if scaled else model
    common.check_expressed(NAME, exact, lambda: read_config(values, names))
    return values


def plan(model: ModelConfig, names: Collection[str] | None) -> Plan:
    """See `Family`."""
    joined = model.architecture == "encoder_decoder"
    tables = ["shared.weight", "encoder.embed_tokens.weight"]
    if joined:
        tables.append("decoder.embed_tokens.weight")
    if joined and model.lm_head != "none" and model.tie_embeddings:
        tables.append("lm_head.weight")
    table = first_there(names, tuple(tables))
    rules = [
        Rule(table, ("token_embedding/embedding",), SAME),
        *_stack(model, "encoder", "encoder/" if joined else "", model.num_layers, cross=False),
    ]
    if joined:
        rules += _stack(model, "decoder", "decoder/", model.decoder_layers, cross=True)
    if model.lm_head != "none" and not model.tie_embeddings:
        rules += linear("lm_head", "lm_head", bias=False)
    return Plan(
        rules=tuple(rules),
        duplicates={name: table for name in tables if name != table},
        ignored={
            r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": (
                "cross-attention has no positions: the reference does not read it either"
            )
        },
    )


def _stack(
    model: ModelConfig, reference: str, path: str, num_layers: int, *, cross: bool
) -> list[Rule]:
    rules = embedding(
        f"{reference}.block.0.layer.0.SelfAttention.relative_attention_bias",
        f"{path}relative_bias",
    )
    for i in range(num_layers):
        block, layer = f"{reference}.block.{i}.layer", f"{path}layer_{i}"
        names = {part: f"{block}.0.SelfAttention.{part[0]}" for part in PARTS}
        rules += attention_rules(model, f"{layer}/attention", names, bias=False)
        rules += norm(f"{block}.0.layer_norm", f"{layer}/attention_norm", bias=False)
        if cross:
            names = {part: f"{block}.1.EncDecAttention.{part[0]}" for part in PARTS}
            rules += attention_rules(model, f"{layer}/cross_attention", names, bias=False)
            rules += norm(f"{block}.1.layer_norm", f"{layer}/cross_attention_norm", bias=False)
        last = f"{block}.{2 if cross else 1}"
        gated = model.activation in ("swiglu", "geglu", "geglu_tanh")
        # The first of two is the one that goes through the activation.
        inner = {"wi_0": "gate", "wi_1": "up"} if gated else {"wi": "up"}
        for name, parameter in {**inner, "wo": "down"}.items():
            rules += linear(f"{last}.DenseReluDense.{name}", f"{layer}/mlp/{parameter}", bias=False)
        rules += norm(f"{last}.layer_norm", f"{layer}/mlp_norm", bias=False)
    return [*rules, *norm(f"{reference}.final_layer_norm", f"{path}final_norm", bias=False)]


FAMILY = Family(NAME, ("t5", "mt5"), read_config, write_config, plan)
