"""BERT (Devlin et al. 2019): transformers' `bert`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
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
    body_rules,
    check_encoder,
    output_rules,
    read_dropout,
    write_encoder,
)
from lm.convert.layout import Plan

NAME = "bert"
_POOLER = "{}pooler.dense"
CLASSES = Classes(
    stems=("Bert",),
    language="ForMaskedLM",
    language_tensor="cls.predictions.transform.dense.weight",
    pretraining="ForPreTraining",
    pretraining_head="next_sentence",
    pooler_tensor="pooler.dense",
    heads=(
        Head(
            "next_sentence",
            "ForNextSentencePrediction",
            "cls.seq_relationship",
            FIRST_TANH,
            _POOLER,
            dropout=False,
        ),
        Head("classification", "ForSequenceClassification", "classifier", FIRST_TANH, _POOLER),
        Head("token_classification", "ForTokenClassification", "classifier"),
        Head("span", "ForQuestionAnswering", "qa_outputs", dropout=False),
        Head("multiple_choice", "ForMultipleChoice", "classifier", FIRST_TANH, _POOLER),
    ),
)


def read_config(values: Mapping[str, Any], names: Collection[str]) -> ModelConfig:
    """See `Family`."""
    check_encoder(values)
    names = {_current(name) for name in names}
    found = read_heads(values, names, CLASSES)
    return common.canonical(
        ModelConfig(
            architecture="encoder",
            vocab_size=whole(values, "vocab_size"),
            num_layers=whole(values, "num_hidden_layers"),
            d_model=whole(values, "hidden_size"),
            num_heads=whole(values, "num_attention_heads"),
            d_ff=whole(values, "intermediate_size"),
            position=Learned(max_length=whole(values, "max_position_embeddings", 512)),
            token_types=whole(values, "type_vocab_size", 2),
            embedding_norm=True,
            norm=NormConfig(placement="post", epsilon=number(values, "layer_norm_eps", 1e-12)),
            activation=choice(values, "hidden_act", READ_ACTIVATION, "gelu"),
            tie_embeddings=not found.language or flag(values, "tie_word_embeddings", True),
            lm_head="transform" if found.language else "none",
            lm_head_bias=found.language,
            pooler=found.pooler,
            heads=found.heads,
            dropout=read_dropout(values, found.head),
            init=InitConfig(stddev=number(values, "initializer_range", 0.02), scale_residual=False),
        )
    )


def write_config(model: ModelConfig) -> dict[str, Any]:
    """See `Family`."""
    values = {
        "model_type": "bert",
        **write_heads(model, CLASSES),
        **write_encoder(NAME, model),
        "max_position_embeddings": common.learned_length(NAME, model),
    }
    names = names_of(plan(model, None))
    common.check_expressed(NAME, model, lambda: read_config(values, names))
    return values


def plan(model: ModelConfig, names: Collection[str] | None) -> Plan:
    """See `Family`."""
    old = {_current(name): name for name in names or ()}
    usual = "" if model.lm_head == "none" and not model.heads else "bert."
    prefix = common.prefix_of(old, "embeddings.word_embeddings.weight", (usual, "bert.", ""))
    rules = body_rules(model, prefix)
    last = Plan(())
    if model.lm_head != "none":
        transform = "cls.predictions.transform"
        last = output_rules(
            model,
            old,
            table=f"{prefix}embeddings.word_embeddings.weight",
            decoder="cls.predictions.decoder",
            bias="cls.predictions.bias",
        )
        rules += [
            *linear(f"{transform}.dense", "lm_transform"),
            *norm(f"{transform}.LayerNorm", "lm_norm"),
            *last.rules,
        ]
    rules += head_rules(model, CLASSES, prefix)
    # The names that the file has, where those are the older ones.
    rules = [replace(rule, reference=old.get(rule.reference, rule.reference)) for rule in rules]
    return Plan(tuple(rules), last.duplicates, {**POSITION_IDS, **last.ignored})


def _current(name: str) -> str:
    """Today's name of a tensor: the first checkpoints have TensorFlow's words for the norms."""
    if name.endswith("LayerNorm.gamma"):
        return name.removesuffix("gamma") + "weight"
    if name.endswith("LayerNorm.beta"):
        return name.removesuffix("beta") + "bias"
    return name


FAMILY = Family(NAME, ("bert",), read_config, write_config, plan)
