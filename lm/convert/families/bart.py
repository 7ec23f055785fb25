"""The family of fairseq's and Marian's translators: transformers' `bart` (Lewis et al. 2020),
`m2m_100` (Fan et al. 2021; NLLB too), and `marian`, which is the original Transformer (Vaswani et
al. 2017).

They differ in where the norms stand, in their positions, and in few flags. All of the reference's
stacks may be of two widths; lm's are of one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lm.config import (
    DropoutConfig,
    InitConfig,
    Learned,
    ModelConfig,
    NormConfig,
    Sinusoidal,
)
from lm.convert.families import common
from lm.convert.families.classes import (
    LAST_TANH,
    Classes,
    Head,
    first_there,
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
from lm.convert.families.encoders import attention_rules, before_pooler
from lm.convert.layout import LINEAR, SAME, Leading, Plan, Rule
from lm.errors import ConfigError, UserError

NAME = "bart"
PARTS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}


@dataclass(frozen=True)
class Kind:
    """What one of the three has that the others do not.

    `bias`: whether the file may have a bias of the logits. `start` and `scaled` are the defaults of
    decoder_start_token_id and scale_embedding.
    """

    classes: Classes
    placement: Literal["pre", "post"]
    embedding_norm: bool
    bias: bool
    activation: str
    start: int
    scaled: bool


KINDS = {
    "bart": Kind(
        classes=Classes(
            stems=("Bart",),
            language="ForConditionalGeneration",
            heads=(
                Head(
                    "classification",
                    "ForSequenceClassification",
                    "classification_head.out_proj",
                    LAST_TANH,
                    "classification_head.dense",
                ),
            ),
        ),
        placement="post",
        embedding_norm=True,
        bias=True,
        activation="gelu",
        start=2,
        scaled=False,
    ),
    "m2m_100": Kind(
        classes=Classes(stems=("M2M100",), language="ForConditionalGeneration", heads=()),
        placement="pre",
        embedding_norm=False,
        bias=False,
        activation="relu",
        start=2,
        scaled=True,
    ),
    "marian": Kind(
        classes=Classes(stems=("Marian",), language="MTModel", heads=()),
        placement="post",
        embedding_norm=False,
        bias=True,
        activation="gelu",
        start=58100,
        scaled=False,
    ),
}


def read_config(values: Mapping[str, Any], names: Collection[str]) -> ModelConfig:
    """See `Family`."""
    name = values["model_type"]
    kind = KINDS[name]
    only(values, "is_decoder", False)
    found = read_heads(values, names, kind.classes)
    tied = flag(values, "tie_word_embeddings", True)
    separate = name == "marian" and not flag(values, "share_encoder_decoder_embeddings", True)
    if not tied and not separate:
        raise UserError(
            f"{CONFIG}: tie_word_embeddings=false is not supported: encoder and decoder would "
            "have a table of token embeddings each, of one vocabulary"
        )
    dropout, size = number(values, "dropout", 0.1), whole(values, "vocab_size")
    return common.canonical(
        ModelConfig(
            architecture="encoder_decoder",
            vocab_size=whole(values, "decoder_vocab_size", size) if separate else size,
            source_vocab_size=size if separate else None,
            num_layers=whole(values, "encoder_layers"),
            num_decoder_layers=whole(values, "decoder_layers"),
            d_model=whole(values, "d_model"),
            num_heads=_of_both(values, "attention_heads"),
            d_ff=_of_both(values, "ffn_dim"),
            position=_position(values),
            decoder_start_id=whole(values, "decoder_start_token_id", kind.start),
            embedding_norm=kind.embedding_norm,
            norm=NormConfig(placement=kind.placement),
            activation=choice(values, "activation_function", READ_ACTIVATION, kind.activation),
            scale_embeddings=flag(values, "scale_embedding", kind.scaled),
            tie_embeddings=tied or not found.language,
            lm_head="linear" if found.language else "none",
            # The reference has it in every file that it writes, all zeros if it was not trained.
            lm_head_bias=(
                found.language and kind.bias and (not names or "final_logits_bias" in names)
            ),
            pooler=found.pooler,
            heads=found.heads,
            dropout=before_pooler(
                DropoutConfig(
                    embedding=dropout,
                    residual=dropout,
                    attention=number(
                        values, "attention_dropout", 0.1 if name == "m2m_100" else 0.0
                    ),
                    feed_forward=number(values, "activation_dropout", 0.0),
                    head=number(values, "classifier_dropout", 0.0) if found.head else 0.0,
                ),
                found.heads,
            ),
            init=InitConfig(stddev=number(values, "init_std", 0.02), scale_residual=False),
        )
    )


def _of_both(values: Mapping[str, Any], what: str) -> int:
    """A size that encoder and decoder have alike."""
    encoder, decoder = whole(values, f"encoder_{what}"), whole(values, f"decoder_{what}")
    if encoder != decoder:
        raise UserError(
            f"{CONFIG}: encoder_{what}={encoder} and decoder_{what}={decoder} differ, which is not "
            "supported: a model's encoder and decoder have layers of one size"
        )
    return encoder


def _position(values: Mapping[str, Any]) -> Learned | Sinusoidal:
    if values["model_type"] == "bart":
        return Learned(max_length=whole(values, "max_position_embeddings", 1024), offset=2)
    if values["model_type"] == "marian":
        return Sinusoidal(layout="halves")
    # The first position has the number after that of the padding token.
    return Sinusoidal(layout="tensor2tensor", offset=whole(values, "pad_token_id", 1) + 1)


def _kind_of(model: ModelConfig) -> str:
    """The model_type to write a model as."""
    position = model.position
    if isinstance(position, Sinusoidal):
        return "m2m_100" if position.layout == "tensor2tensor" else "marian"
    if isinstance(position, Learned):
        return "bart"
    raise ConfigError(
        f"{NAME} cannot express position.kind={position.kind!r}; it can: 'learned', 'sinusoidal'"
    )


def write_config(model: ModelConfig) -> dict[str, Any]:
    """See `Family`."""
    name = _kind_of(model)
    if model.architecture != "encoder_decoder":
        raise ConfigError(
            f"{name} cannot express architecture={model.architecture!r}; it can: 'encoder_decoder'"
        )
    separate = model.source_vocab_size is not None
    values = {
        "model_type": name,
        **write_heads(model, KINDS[name].classes),
        "is_encoder_decoder": True,
        "vocab_size": model.source_vocab_size if separate else model.vocab_size,
        "d_model": model.d_model,
        "activation_function": common.expressed(
            name, WRITE_ACTIVATION, "activation", model.activation
        ),
        "scale_embedding": model.scale_embeddings,
        "decoder_start_token_id": model.decoder_start_id,
        "tie_word_embeddings": model.tie_embeddings,
        "dropout": model.dropout.residual,
        "attention_dropout": model.dropout.attention,
        "activation_dropout": model.dropout.feed_forward,
        "classifier_dropout": model.dropout.head,
        "init_std": model.init.stddev,
    }
    for stack, layers in (("encoder", model.num_layers), ("decoder", model.decoder_layers)):
        values |= {
            f"{stack}_layers": layers,
            f"{stack}_attention_heads": model.num_heads,
            f"{stack}_ffn_dim": model.d_ff,
            f"{stack}_layerdrop": 0.0,
        }
    if isinstance(model.position, Learned):
        values["max_position_embeddings"] = model.position.max_length
    elif isinstance(model.position, Sinusoidal) and name == "m2m_100":
        values["pad_token_id"] = max(model.position.offset - 1, 0)
    else:
        # Marian's decoder starts with the padding token; the default is beyond most vocabularies.
        values |= {
            "pad_token_id": model.decoder_start_id,
            "share_encoder_decoder_embeddings": not separate,
            "decoder_vocab_size": model.vocab_size,
        }
    names = names_of(plan(model, None))
    common.check_expressed(name, model, lambda: read_config(values, names))
    return values


def plan(model: ModelConfig, names: Collection[str] | None) -> Plan:
    """See `Family`."""
    kind = KINDS[_kind_of(model)]
    usual = "" if model.lm_head == "none" and not model.heads else "model."
    separate = model.source_vocab_size is not None
    marker = "encoder.layers.0.fc1.weight"
    prefix = common.prefix_of(names, marker, (usual, "model.", ""))
    encoder, decoder = (f"{prefix}{stack}.embed_tokens.weight" for stack in ("encoder", "decoder"))
    tables = [decoder] if separate else [f"{prefix}shared.weight", encoder, decoder]
    if model.lm_head != "none" and model.tie_embeddings:
        tables.append("lm_head.weight")
    table = first_there(names, tuple(tables))
    rules = [Rule(table, ("token_embedding/embedding",), SAME)]
    if separate:
        rules.append(Rule(encoder, ("encoder/token_embedding/embedding",), SAME))
    rules += _stack(model, f"{prefix}encoder", "encoder", model.num_layers, cross=False)
    rules += _stack(model, f"{prefix}decoder", "decoder", model.decoder_layers, cross=True)
    if model.lm_head != "none" and not model.tie_embeddings:
        rules.append(Rule("lm_head.weight", ("lm_head/kernel",), LINEAR))
    if model.lm_head_bias:
        rules.append(Rule("final_logits_bias", ("lm_head/bias",), Leading()))
    rules += head_rules(model, kind.classes, prefix)
    ignored = {r"(model\.)?(encoder|decoder)\.version": "a number of the file's format"}
    if isinstance(model.position, Sinusoidal):
        ignored[r"(model\.)?(encoder|decoder)\.embed_positions\.weights?"] = (
            "sines and cosines of the positions, which are computed"
        )
    return Plan(
        rules=tuple(rules),
        duplicates={name: table for name in tables if name != table},
        ignored=ignored,
    )


def _stack(
    model: ModelConfig, reference: str, path: str, num_layers: int, *, cross: bool
) -> list[Rule]:
    rules = []
    if isinstance(model.position, Learned):
        rules += embedding(f"{reference}.embed_positions", f"{path}/position_embedding")
    if model.embedding_norm:
        rules += norm(f"{reference}.layernorm_embedding", f"{path}/embedding_norm")
    attentions = {"self_attn": "attention"}
    if cross:
        attentions["encoder_attn"] = "cross_attention"
    for i in range(num_layers):
        block, layer = f"{reference}.layers.{i}", f"{path}/layer_{i}"
        for name, attention in attentions.items():
            parts = {part: f"{block}.{name}.{projection}" for part, projection in PARTS.items()}
            rules += attention_rules(model, f"{layer}/{attention}", parts)
            rules += norm(f"{block}.{name}_layer_norm", f"{layer}/{attention}_norm")
        rules += linear(f"{block}.fc1", f"{layer}/mlp/up")
        rules += linear(f"{block}.fc2", f"{layer}/mlp/down")
        rules += norm(f"{block}.final_layer_norm", f"{layer}/mlp_norm")
    if model.norm.placement == "pre":
        rules += norm(f"{reference}.layer_norm", f"{path}/final_norm")
    return rules


FAMILY = Family(NAME, ("bart", "m2m_100", "marian"), read_config, write_config, plan)
