"""ELECTRA (Clark et al. 2020): transformers' `electra`, discriminators and generators."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from lm.config import InitConfig, Learned, ModelConfig, NormConfig, PoolerConfig
from lm.convert.families import common
from lm.convert.families.classes import (
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
    only,
    whole,
)
from lm.convert.families.encoders import (
    POSITION_IDS,
    before_pooler,
    body_rules,
    check_encoder,
    read_dropout,
    write_encoder,
)
from lm.convert.layout import LINEAR, SAME, Plan, Rule
from lm.errors import UserError

NAME = "electra"
FIRST_GELU = PoolerConfig(token="first", dense=True, activation="gelu")
CLASSES = Classes(
    stems=("Electra",),
    language="ForMaskedLM",
    language_tensor="generator_predictions.dense.weight",
    heads=(
        Head(
            "replaced_token",
            "ForPreTraining",
            "discriminator_predictions.dense_prediction",
            transform="discriminator_predictions.dense",
            dropout=False,
        ),
        Head(
            "classification",
            "ForSequenceClassification",
            "classifier.out_proj",
            FIRST_GELU,
            "classifier.dense",
        ),
        Head("token_classification", "ForTokenClassification", "classifier"),
        Head("span", "ForQuestionAnswering", "qa_outputs", dropout=False),
        Head(
            "multiple_choice",
            "ForMultipleChoice",
            "classifier",
            FIRST_GELU,
            "sequence_summary.summary",
        ),
    ),
)


def read_config(values: Mapping[str, Any], names: Collection[str]) -> ModelConfig:
    """See `Family`."""
    check_encoder(values)
    found = read_heads(values, names, CLASSES)
    activation = choice(values, "hidden_act", READ_ACTIVATION, "gelu")
    if found.language and activation != "gelu":
        raise UserError(
            f"{CONFIG}: hidden_act={values.get('hidden_act')!r} is not supported in a generator, "
            "whose head has 'gelu' whatever the layers have"
        )
    dropout = read_dropout(values, found.head)
    if found.head is not None and found.head.kind == "multiple_choice":
        for key, supported in (
            ("summary_type", "first"),
            ("summary_use_proj", True),
            ("summary_activation", "gelu"),
        ):
            only(values, key, supported)
        dropout = replace(dropout, head=number(values, "summary_last_dropout", 0.1))
    return common.canonical(
        ModelConfig(
            architecture="encoder",
            vocab_size=whole(values, "vocab_size"),
            num_layers=whole(values, "num_hidden_layers"),
            d_model=whole(values, "hidden_size"),
            num_heads=whole(values, "num_attention_heads"),
            d_ff=whole(values, "intermediate_size"),
            embedding_size=whole(values, "embedding_size", 128),
            position=Learned(max_length=whole(values, "max_position_embeddings", 512)),
            token_types=whole(values, "type_vocab_size", 2),
            embedding_norm=True,
            norm=NormConfig(placement="post", epsilon=number(values, "layer_norm_eps", 1e-12)),
            activation=activation,
            tie_embeddings=not found.language or flag(values, "tie_word_embeddings", True),
            lm_head="transform" if found.language else "none",
            lm_head_bias=found.language,
            pooler=found.pooler,
            heads=found.heads,
            dropout=before_pooler(dropout, found.heads),
            init=InitConfig(stddev=number(values, "initializer_range", 0.02), scale_residual=False),
        )
    )


def write_config(model: ModelConfig) -> dict[str, Any]:
    """See `Family`."""
    values = {
        "model_type": "electra",
        **write_heads(model, CLASSES),
        **write_encoder(NAME, model),
        "embedding_size": model.width_of_embedding,
        "max_position_embeddings": common.learned_length(NAME, model),
        "summary_type": "first",
        "summary_use_proj": True,
        "summary_activation": "gelu",
        "summary_last_dropout": model.dropout.head,
    }
    names = names_of(plan(model, None))
    common.check_expressed(NAME, model, lambda: read_config(values, names))
    return values


def plan(model: ModelConfig, names: Collection[str] | None) -> Plan:
    """See `Family`."""
    usual = "" if model.lm_head == "none" and not model.heads else "electra."
    prefix = common.prefix_of(names, "embeddings.word_embeddings.weight", (usual, "electra.", ""))
    rules = body_rules(model, prefix)
    duplicates: dict[str, str] = {}
    if model.lm_head != "none":
        rules += [
            *linear("generator_predictions.dense", "lm_transform"),
            *norm("generator_predictions.LayerNorm", "lm_norm"),
            Rule("generator_lm_head.bias", ("lm_head/bias",), SAME),
        ]
        if model.tie_embeddings:
            duplicates["generator_lm_head.weight"] = f"{prefix}embeddings.word_embeddings.weight"
        else:
            rules.append(Rule("generator_lm_head.weight", ("lm_head/kernel",), LINEAR))
    rules += head_rules(model, CLASSES, prefix)
    return Plan(rules=tuple(rules), duplicates=duplicates, ignored=POSITION_IDS)


FAMILY = Family(NAME, ("electra",), read_config, write_config, plan)
