"""XLNet (Yang et al. 2019): transformers' `xlnet`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from lm.config import (
    DropoutConfig,
    InitConfig,
    ModelConfig,
    NormConfig,
    PoolerConfig,
    XLNetRelative,
)
from lm.convert.families import common
from lm.convert.families.classes import (
    LAST_TANH,
    Classes,
    Found,
    Head,
    head_rules,
    names_of,
    read_heads,
    write_heads,
)
from lm.convert.families.common import (
    CONFIG,
    READ_ACTIVATION,
    WRITE_ACTIVATION,
    Family,
    choice,
    embedding,
    flag,
    linear,
    norm,
    number,
    only,
    whole,
)
from lm.convert.layout import LINEAR, SAME, Leading, Plan, Rule, Transposed
from lm.errors import ConfigError, UserError

NAME = "xlnet"
_SUMMARY = "sequence_summary.summary"
CLASSES = Classes(
    stems=("XLNet",),
    language="LMHeadModel",
    language_tensor="lm_loss.bias",
    heads=(
        Head("classification", "ForSequenceClassification", "logits_proj", LAST_TANH, _SUMMARY),
        Head("token_classification", "ForTokenClassification", "classifier", dropout=False),
        Head("span", "ForQuestionAnsweringSimple", "qa_outputs", dropout=False),
        Head("multiple_choice", "ForMultipleChoice", "logits_proj", LAST_TANH, _SUMMARY),
    ),
)
SUMMARY_TYPES: dict[str, Literal["first", "last", "mean"]] = {
    "last": "last",
    "first": "first",
    "mean": "mean",
}


def read_config(values: Mapping[str, Any], names: Collection[str]) -> ModelConfig:
    """See `Family`."""
    only(values, "attn_type", "bi")
    only(values, "bi_data", False)
    only(values, "same_length", False)
    found = read_heads(values, names, CLASSES)
    d_model, heads = whole(values, "d_model"), whole(values, "n_head")
    width = whole(values, "d_head", d_model // max(heads, 1))
    if width * heads != d_model:
        raise UserError(
            f"{CONFIG}: d_head={width} is not d_model / n_head = {d_model} / {heads}, which the "
            "reference needs"
        )
    dropout = number(values, "dropout", 0.1)
    before_head = found.head is not None and found.head.dropout
    clamp = values.get("clamp_len")
    return common.canonical(
        ModelConfig(
            architecture="two_stream",
            vocab_size=whole(values, "vocab_size"),
            num_layers=whole(values, "n_layer"),
            d_model=d_model,
            num_heads=heads,
            d_ff=whole(values, "d_inner"),
            position=XLNetRelative(
                None if clamp is None or clamp == -1 else whole(values, "clamp_len")
            ),
            token_types=2,
            norm=NormConfig(placement="post", epsilon=number(values, "layer_norm_eps", 1e-12)),
            activation=choice(values, "ff_activation", READ_ACTIVATION, "gelu"),
            attention_bias=False,
            attention_output_bias=False,
            tie_embeddings=not found.language or flag(values, "tie_word_embeddings", True),
            lm_head="linear" if found.language else "none",
            lm_head_bias=found.language,
            pooler=_pooler(values, found),
            heads=found.heads,
            dropout=DropoutConfig(
                embedding=dropout,
                attention=dropout,
                residual=dropout,
                feed_forward=dropout,
                output=dropout,
                head=number(values, "summary_last_dropout", 0.1) if before_head else 0.0,
            ),
            init=InitConfig(stddev=number(values, "initializer_range", 0.02), scale_residual=False),
        )
    )


def _pooler(values: Mapping[str, Any], found: Found) -> PoolerConfig | None:
    """The way to one vector a sequence, which config.json may choose."""
    if found.pooler is None:
        return None
    projected = flag(values, "summary_use_proj", True)
    tanh = values.get("summary_activation", "tanh") or ""
    if tanh not in ("tanh", "") or (tanh and not projected):
        raise UserError(
            f"{CONFIG}: summary_activation={tanh!r} with summary_use_proj={projected} is not "
            "supported; supported: 'tanh' after a projection, or none"
        )
    token = choice(values, "summary_type", SUMMARY_TYPES, "last")
    return PoolerConfig(token=token, dense=projected, activation="tanh" if tanh else "none")


def write_config(model: ModelConfig) -> dict[str, Any]:
    """See `Family`."""
    if not isinstance(model.position, XLNetRelative):
        raise ConfigError(
            f"{NAME} cannot express position.kind={model.position.kind!r}; it can: 'xlnet_relative'"
        )
    pooler = model.pooler or LAST_TANH
    clamp = model.position.clamp_length
    values = {
        "model_type": "xlnet",
        **write_heads(model, CLASSES),
        "vocab_size": model.vocab_size,
        "d_model": model.d_model,
        "n_layer": model.num_layers,
        "n_head": model.num_heads,
        "d_head": model.width_of_head,
        "d_inner": model.d_ff,
        "ff_activation": common.expressed(NAME, WRITE_ACTIVATION, "activation", model.activation),
        "attn_type": "bi",
        "bi_data": False,
        "same_length": False,
        "untie_r": True,
        "clamp_len": -1 if clamp is None else clamp,
        "layer_norm_eps": model.norm.epsilon,
        "tie_word_embeddings": model.tie_embeddings,
        "dropout": model.dropout.residual,
        "initializer_range": model.init.stddev,
        "summary_type": pooler.token,
        "summary_use_proj": pooler.dense,
        "summary_activation": "" if pooler.activation == "none" else pooler.activation,
        "summary_last_dropout": model.dropout.head,
    }
    names = names_of(plan(model, None))
    common.check_expressed(NAME, model, lambda: read_config(values, names))
    return values


def plan(model: ModelConfig, names: Collection[str] | None) -> Plan:
    """See `Family`."""
    usual = "" if model.lm_head == "none" and not model.heads else "transformer."
    prefix = common.prefix_of(names, "word_embedding.weight", (usual, "transformer.", ""))
    rules = [
        *embedding(f"{prefix}word_embedding", "token_embedding"),
        Rule(f"{prefix}mask_emb", ("mask_embedding/embedding",), Leading()),
    ]
    for i in range(model.num_layers):
        rules += _layer(f"{prefix}layer.{i}", f"layer_{i}")
    duplicates: dict[str, str] = {}
    if model.lm_head != "none":
        rules.append(Rule("lm_loss.bias", ("lm_head/bias",), SAME))
        if model.tie_embeddings:
            duplicates["lm_loss.weight"] = f"{prefix}word_embedding.weight"
        else:
            rules.append(Rule("lm_loss.weight", ("lm_head/kernel",), LINEAR))
    rules += head_rules(model, CLASSES, prefix)
    return Plan(rules=tuple(rules), duplicates=duplicates)


def _layer(reference: str, path: str) -> list[Rule]:
    # The projections have lm's axes already, but for the one out of the heads.
    attention = {
        "q": ("query/kernel", SAME),
        "k": ("key/kernel", SAME),
        "v": ("value/kernel", SAME),
        "r": ("relative/kernel", SAME),
        "o": ("output/kernel", Transposed((1, 2, 0))),
        "r_w_bias": ("content_bias/bias", SAME),
        "r_r_bias": ("position_bias/bias", SAME),
        "r_s_bias": ("segment_bias/bias", SAME),
        "seg_embed": ("segment_embedding/embedding", SAME),
    }
    return [
        *(
            Rule(f"{reference}.rel_attn.{name}", (f"{path}/attention/{parameter}",), layout)
            for name, (parameter, layout) in attention.items()
        ),
        *norm(f"{reference}.rel_attn.layer_norm", f"{path}/attention_norm"),
        *linear(f"{reference}.ff.layer_1", f"{path}/mlp/up"),
        *linear(f"{reference}.ff.layer_2", f"{path}/mlp/down"),
        *norm(f"{reference}.ff.layer_norm", f"{path}/mlp_norm"),
    ]


FAMILY = Family(NAME, ("xlnet",), read_config, write_config, plan)
