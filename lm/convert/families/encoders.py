"""The body of BERT, RoBERTa and ELECTRA, and what is the same in every model with an encoder."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lm.config import DropoutConfig, HeadConfig, ModelConfig
from lm.convert.families.classes import Head, first_there
from lm.convert.families.common import (
    WRITE_ACTIVATION,
    embedding,
    expressed,
    linear,
    module,
    norm,
    number,
    only,
)
from lm.convert.layout import LINEAR, SAME, HeadsBias, HeadsIn, HeadsOut, Plan, Rule
from lm.errors import ConfigError

POSITION_IDS = {r"(.*\.)?embeddings\.position_ids": "the numbers 0, 1, 2 ..., a constant"}


def attention_rules(
    model: ModelConfig, path: str, reference: Mapping[str, str], *, bias: bool = True
) -> list[Rule]:
    """The four projections of attention; `reference`: query, key, value, output -> module."""
    heads, width = model.num_heads, model.width_of_head
    rules = module(
        reference["output"], f"{path}/output", HeadsIn(heads, width), SAME if bias else None
    )
    for name in ("query", "key", "value"):
        rules += module(
            reference[name],
            f"{path}/{name}",
            HeadsOut(heads, width),
            HeadsBias(heads, width) if bias else None,
        )
    return rules


def check_encoder(values: Mapping[str, Any]) -> None:
    """Raises UserError where a BERT-like model is more than an encoder."""
    only(values, "is_decoder", False)
    only(values, "add_cross_attention", False)
    only(values, "position_embedding_type", "absolute")
    only(values, "pruned_heads", {})


def read_dropout(values: Mapping[str, Any], head: Head | None) -> DropoutConfig:
    """The dropout rates of a BERT-like model."""
    hidden = number(values, "hidden_dropout_prob", 0.1)
    before_head = head is not None and head.dropout
    return DropoutConfig(
        embedding=hidden,
        attention=number(values, "attention_probs_dropout_prob", 0.1),
        residual=hidden,
        head=number(values, "classifier_dropout", hidden) if before_head else 0.0,
    )


def before_pooler(dropout: DropoutConfig, heads: Sequence[HeadConfig]) -> DropoutConfig:
    """The rates of a family whose classifier drops before its projection as well as after it."""
    classifies = any(head.kind in ("classification", "regression") for head in heads)
    return replace(dropout, pooler=dropout.head) if classifies else dropout


def write_encoder(name: str, model: ModelConfig) -> dict[str, Any]:
    """The keys of config.json that BERT, RoBERTa and ELECTRA share.

    Raises:
      ConfigError: switches that none of them has.
    """
    if not model.token_types:
        raise ConfigError(f"{name} cannot express token_types=0; it can: 1 and more")
    values: dict[str, Any] = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.d_ff,
        "hidden_act": expressed(name, WRITE_ACTIVATION, "activation", model.activation),
        "type_vocab_size": model.token_types,
        "layer_norm_eps": model.norm.epsilon,
        "tie_word_embeddings": model.tie_embeddings,
        "hidden_dropout_prob": model.dropout.residual,
        "attention_probs_dropout_prob": model.dropout.attention,
        "initializer_range": model.init.stddev,
    }
    if model.heads:
        values["classifier_dropout"] = model.dropout.head
    return values


def body_rules(model: ModelConfig, prefix: str) -> list[Rule]:
    """Embeddings and layers of BERT, RoBERTa and ELECTRA."""
    rules = [
        *embedding(f"{prefix}embeddings.word_embeddings", "token_embedding"),
        *embedding(f"{prefix}embeddings.position_embeddings", "position_embedding"),
        *embedding(f"{prefix}embeddings.token_type_embeddings", "token_type_embedding"),
        *norm(f"{prefix}embeddings.LayerNorm", "embedding_norm"),
    ]
    if model.width_of_embedding != model.d_model:
        rules += linear(f"{prefix}embeddings_project", "embedding_projection")
    for i in range(model.num_layers):
        reference, path = f"{prefix}encoder.layer.{i}", f"layer_{i}"
        attention = {
            name: f"{reference}.attention.self.{name}" for name in ("query", "key", "value")
        }
        attention["output"] = f"{reference}.attention.output.dense"
        rules += [
            *attention_rules(model, f"{path}/attention", attention),
            *norm(f"{reference}.attention.output.LayerNorm", f"{path}/attention_norm"),
            *linear(f"{reference}.intermediate.dense", f"{path}/mlp/up"),
            *linear(f"{reference}.output.dense", f"{path}/mlp/down"),
            *norm(f"{reference}.output.LayerNorm", f"{path}/mlp_norm"),
        ]
    return rules


def output_rules(
    model: ModelConfig, names: Collection[str] | None, table: str, decoder: str, bias: str
) -> Plan:
    """The last step of a masked language model, tied or not.

    Args:
      model: the config.
      names: the checkpoint's tensors, where they are known.
      table: the tensor of the token embeddings.
      decoder: the module from vectors to logits, whose weight is `table` where they are tied.
      bias: the tensor that its bias is tied to, along with its weight.
    """
    own = f"{decoder}.bias"
    if model.tie_embeddings:
        chosen, other = (bias, own) if first_there(names, (bias, own)) == bias else (own, bias)
        rule = Rule(chosen, ("lm_head/bias",), SAME)
        return Plan((rule,), {other: chosen, f"{decoder}.weight": table})
    # Files from before transformers 5 have the tied bias only, and it counts.
    chosen = first_there(names, (own, bias))
    rules = (
        Rule(f"{decoder}.weight", ("lm_head/kernel",), LINEAR),
        Rule(chosen, ("lm_head/bias",), SAME),
    )
    unused = "a bias that the reference does not read where the embeddings are not tied"
    return Plan(rules, {}, {re.escape(bias): unused} if chosen == own else {})
