"""RoBERTa (Liu et al. 2019): transformers' `roberta`, and `xlm-roberta` (Conneau et al. 2020) and
`camembert` (Martin et al. 2020), which compute the same."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from lm.config import InitConfig, Learned, ModelConfig, NormConfig
from lm.convert.families import common
from lm.convert.families.classes import (
    FIRST_TANH,
    Classes,
    Head,
    head_rules,
    names_of,
    read_heads,
    write_heads,
)
from lm.convert.families.common import (
    CONFIG,
    READ_ACTIVATION,
    Family,
    choice,
    flag,
    linear,
    norm,
    number,
    whole,
)
from lm.convert.families.encoders import (
    POSITION_IDS,
    before_pooler,
    body_rules,
    check_encoder,
    output_rules,
    read_dropout,
    write_encoder,
)
from lm.convert.layout import Plan
from lm.errors import ConfigError, UserError

NAME = "roberta"
CLASSES = Classes(
    stems=("Roberta", "XLMRoberta", "Camembert"),
    language="ForMaskedLM",
    language_tensor="lm_head.dense.weight",
    pooler_tensor="pooler.dense",
    heads=(
        Head(
            "classification",
            "ForSequenceClassification",
            "classifier.out_proj",
            FIRST_TANH,
            "classifier.dense",
        ),
        Head("token_classification", "ForTokenClassification", "classifier"),
        Head("span", "ForQuestionAnswering", "qa_outputs", dropout=False),
        Head("multiple_choice", "ForMultipleChoice", "classifier", FIRST_TANH, "{}pooler.dense"),
    ),
)


def read_config(values: Mapping[str, Any], names: Collection[str]) -> ModelConfig:
    """See `Family`."""
    check_encoder(values)
    found = read_heads(values, names, CLASSES)
    # Positions count on from the row of the padding token's id, which is padding's own.
    offset = whole(values, "pad_token_id", 1) + 1
    rows = whole(values, "max_position_embeddings", 512)
    if rows <= offset:
        raise UserError(
            f"{CONFIG}: max_position_embeddings={rows} leaves no position after the {offset} "
            f"rows that pad_token_id={offset - 1} sets aside"
        )
    activation = choice(values, "hidden_act", READ_ACTIVATION, "gelu")
    if found.language and activation != "gelu":
        raise UserError(
            f"{CONFIG}: hidden_act={values.get('hidden_act')!r} is not supported with a "
            "language-model head, which has 'gelu' whatever the layers have"
        )
    return common.canonical(
        ModelConfig(
            architecture="encoder",
            vocab_size=whole(values, "vocab_size"),
            num_layers=whole(values, "num_hidden_layers"),
            d_model=whole(values, "hidden_size"),
            num_heads=whole(values, "num_attention_heads"),
            d_ff=whole(values, "intermediate_size"),
            position=Learned(max_length=rows - offset, offset=offset),
            token_types=whole(values, "type_vocab_size", 2),
            embedding_norm=True,
            norm=NormConfig(placement="post", epsilon=number(values, "layer_norm_eps", 1e-12)),
            activation=activation,
            tie_embeddings=not found.language or flag(values, "tie_word_embeddings", True),
            lm_head="transform" if found.language else "none",
            lm_head_bias=found.language,
            pooler=found.pooler,
            heads=found.heads,
            dropout=before_pooler(read_dropout(values, found.head), found.heads),
            init=InitConfig(stddev=number(values, "initializer_range", 0.02), scale_residual=False),
        )
    )


def write_config(model: ModelConfig) -> dict[str, Any]:
    """See `Family`."""
    length = common.learned_length(NAME, model)
    offset = model.position.offset if isinstance(model.position, Learned) else 0
    if offset < 1:
        raise ConfigError(f"{NAME} cannot express position.offset={offset}; it can: 1 and more")
    values = {
        "model_type": "roberta",
        **write_heads(model, CLASSES),
        **write_encoder(NAME, model),
        "max_position_embeddings": length + offset,
        "pad_token_id": offset - 1,
    }
    names = names_of(plan(model, None))
    common.check_expressed(NAME, model, lambda: read_config(values, names))
    return values


def plan(model: ModelConfig, names: Collection[str] | None) -> Plan:
    """See `Family`."""
    usual = "" if model.lm_head == "none" and not model.heads else "roberta."
    prefix = common.prefix_of(names, "embeddings.word_embeddings.weight", (usual, "roberta.", ""))
    rules = body_rules(model, prefix)
    last = Plan(())
    if model.lm_head != "none":
        last = output_rules(
            model,
            names,
            table=f"{prefix}embeddings.word_embeddings.weight",
            decoder="lm_head.decoder",
            bias="lm_head.bias",
        )
        rules += [
            *linear("lm_head.dense", "lm_transform"),
            *norm("lm_head.layer_norm", "lm_norm"),
            *last.rules,
        ]
    rules += head_rules(model, CLASSES, prefix)
    ignored = {**POSITION_IDS, **last.ignored}
    if any(rule.reference == "classifier.dense.weight" for rule in rules):
        ignored[rf"{re.escape(prefix)}pooler\.dense\.(weight|bias)"] = (
            "the base model's pooler, which a classifier with one of its own does not use"
        )
    return Plan(tuple(rules), last.duplicates, ignored)


FAMILY = Family(NAME, ("roberta", "xlm-roberta", "camembert"), read_config, write_config, plan)
