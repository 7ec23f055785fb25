"""Llama 1 to 3 (Touvron et al. 2023, Dubey et al. 2024), SmolLM, Mistral, Qwen2 and Qwen3: one
stack of transformers', of which each `model_type` can set some switches.

Those that are written differ in: biases (llama: all four projections of attention or none, and the
feed-forward's; qwen2: queries, keys and values; qwen3: as llama), windows (mistral: every layer or
none; qwen2 and qwen3: any layers), and the norm of queries and keys (qwen3).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

from lm.config import Activation, DropoutConfig, InitConfig, ModelConfig, NormConfig
from lm.convert.families import common
from lm.convert.families.common import Family, embedding, flag, linear, module, norm, number, whole
from lm.convert.families.decoders import (
    Classes,
    head_dropout,
    head_rules,
    read_heads,
    tied_head,
    write_heads,
)
from lm.convert.families.rotary import read_rotary, write_rotary
from lm.convert.layout import (
    SAME,
    HeadsBias,
    HeadsIn,
    HeadsOut,
    HeadVector,
    Layout,
    Plan,
    Rule,
    rotary_order,
)
from lm.errors import ConfigError, UserError

NAME = "llama"
STEMS = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
CLASSES = {
    kind: Classes(
        base=f"{stem}Model",
        causal=f"{stem}ForCausalLM",
        heads={
            "classification": (f"{stem}ForSequenceClassification", "score", False),
            "token_classification": (f"{stem}ForTokenClassification", "score", True),
            "span": (f"{stem}ForQuestionAnswering", "qa_outputs", True),
        },
    )
    for kind, stem in STEMS.items()
}
READ_ACTIVATION: dict[str, Activation] = {
    "silu": "swiglu",
    "swish": "swiglu",
    "gelu": "geglu",
    "gelu_new": "geglu_tanh",
    "gelu_pytorch_tanh": "geglu_tanh",
}
WRITE_ACTIVATION = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_pytorch_tanh"}
LAYER_TYPES = {"full_attention": "global", "sliding_attention": "local"}


def read_config(values: Mapping[str, Any], names: Collection[str]) -> ModelConfig:
    """See `Family`."""
    kind = common.choice(values, "model_type", {name: name for name in STEMS})
    classes = CLASSES[kind]
    d_model, num_heads = whole(values, "hidden_size"), whole(values, "num_attention_heads")
    num_layers = whole(values, "num_hidden_layers")
    layers, window = _windows(values, kind, num_layers)
    bias, output_bias = _attention_biases(values, kind)
    # transformers' own default of qwen3 is a number; the others divide.
    head_dim = whole(values, "head_dim", 128 if kind == "qwen3" else d_model // num_heads)
    return common.canonical(
        ModelConfig(
            vocab_size=whole(values, "vocab_size"),
            num_layers=num_layers,
            d_model=d_model,
            num_heads=num_heads,
            d_ff=whole(values, "intermediate_size"),
            position=read_rotary(values),
            norm=NormConfig(kind="rms", epsilon=number(values, "rms_norm_eps", 1e-6)),
            activation=common.choice(values, "hidden_act", READ_ACTIVATION, "silu"),
            num_kv_heads=whole(values, "num_key_value_heads", num_heads),
            head_dim=head_dim,
            qk_norm=kind == "qwen3",
            attention_bias=bias,
            attention_output_bias=output_bias,
            mlp_bias=kind == "llama" and flag(values, "mlp_bias", False),
            layer_pattern=tuple(layers),
            window=window,
            tie_embeddings=flag(values, "tie_word_embeddings", False),
            dropout=DropoutConfig(
                attention=number(values, "attention_dropout", 0.0),
                head=head_dropout(values, names, classes),
            ),
            init=InitConfig(number(values, "initializer_range", 0.02), scale_residual=False),
            **read_heads(values, names, classes),
        )
    )


def _attention_biases(values: Mapping[str, Any], kind: str) -> tuple[bool, bool]:
    """Of queries, keys and values, and of the output."""
    if kind == "qwen2":
        return True, False
    if kind == "mistral":
        return False, False
    bias = flag(values, "attention_bias", False)
    return bias, bias


def _windows(values: Mapping[str, Any], kind: str, num_layers: int) -> tuple[list[Any], int | None]:
    """Whether each layer is "global" or "local", and the width of the local ones' window."""
    layers = ["global"] * num_layers
    if kind == "llama":
        return layers, None
    # Absent is not null here: the reference's default is a window.
    windowed = values.get("sliding_window", 4096) is not None
    if kind == "mistral":
        layers = ["local" if windowed else "global"] * num_layers
        return layers, whole(values, "sliding_window", 4096) if windowed else None
    sliding = flag(values, "use_sliding_window", False) and windowed
    if sliding:
        first = whole(values, "max_window_layers", 28)
        layers = ["global" if i < first else "local" for i in range(num_layers)]
    types = values.get("layer_types")
    if types is not None:
        known = isinstance(types, list) and all(name in [*LAYER_TYPES] for name in types)
        if not known or len(types) != num_layers:
            raise UserError(
                f"config.json: layer_types={types!r} is not supported; supported: a list of "
                f"{', '.join(LAYER_TYPES)}, one for each of num_hidden_layers={num_layers}"
            )
        layers = [LAYER_TYPES[name] for name in types]
        if "local" in layers and not sliding:
            raise UserError(
                "config.json: layer_types has sliding_attention, but use_sliding_window is false "
                "or sliding_window null"
            )
    return layers, whole(values, "sliding_window", 4096) if "local" in layers else None


def write_config(model: ModelConfig) -> dict[str, Any]:
    """See `Family`; the first model type that has the model's switches."""
    reasons = []
    for kind in STEMS:
        values = _written(model, kind)
        read = functools.partial(read_config, values, ())
        # Layouts reorder the heads' dimensions to halves.
        different = common.inexpressible(model, read, free=("position.interleaved",))
        # transformers' own check of a llama.
        if kind == "llama" and model.d_model % model.num_heads:
            different.append(f"d_model={model.d_model} with num_heads={model.num_heads}")
        if not different:
            return values
        reasons.append((len(different), f"{kind} cannot express {', '.join(different)}"))
    fewest = min(count for count, _ in reasons)
    raise ConfigError("; ".join(reason for count, reason in reasons if count == fewest))


def _written(model: ModelConfig, kind: str) -> dict[str, Any]:
    values = {
        "model_type": kind,
        **write_heads(NAME, model, CLASSES[kind]),
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.width_of_head,
        "intermediate_size": model.d_ff,
        "hidden_act": common.expressed(NAME, WRITE_ACTIVATION, "activation", model.activation),
        "rms_norm_eps": model.norm.epsilon,
        **write_rotary(NAME, model),
        "attention_dropout": model.dropout.attention,
        "initializer_range": model.init.stddev,
    }
    if kind in ("llama", "qwen3"):
        values["attention_bias"] = model.attention_bias
    if kind == "llama":
        values["mlp_bias"] = model.mlp_bias
    if kind == "mistral":
        values["sliding_window"] = model.window
    if kind in ("qwen2", "qwen3"):
        values |= _written_windows(model)
    return values


def _written_windows(model: ModelConfig) -> dict[str, Any]:
    pattern = model.layer_pattern * (model.num_layers // len(model.layer_pattern))
    names = {here: there for there, here in LAYER_TYPES.items()}
    first = pattern.index("local") if "local" in pattern else model.num_layers
    return {
        "use_sliding_window": model.window is not None,
        "sliding_window": model.window,
        # What readers that do not know layer_types go by.
        "max_window_layers": first,
        "layer_types": [names[kind] for kind in pattern],
    }


def plan(model: ModelConfig, names: Collection[str] | None) -> Plan:
    """See `Family`."""
    prefix = common.prefix_of(
        names, "embed_tokens.weight", (_usual_prefix(model), "model.", "transformer.", "")
    )
    rules = embedding(f"{prefix}embed_tokens", "token_embedding")
    for i in range(model.num_layers):
        rules += _layer(model, f"{prefix}layers.{i}", f"layer_{i}")
    rules += norm(f"{prefix}norm", "final_norm", bias=False)
    return Plan(
        rules=(*rules, *head_rules(model, CLASSES["llama"])),
        duplicates=tied_head(model, f"{prefix}embed_tokens.weight"),
        ignored={r"(.*\.)?rotary_emb\.inv_freq": "rotary frequencies, computed from the config"},
    )


def _usual_prefix(model: ModelConfig) -> str:
    if model.lm_head == "none" and not model.heads:
        return ""
    if any(head.kind == "span" for head in model.heads):
        # An old name that only Mistral's class has not got.
        mistral = write_config(model)["model_type"] == "mistral"
        return "model." if mistral else "transformer."
    return "model."


def _layer(model: ModelConfig, reference: str, path: str) -> list[Rule]:
    attention, feed_forward = f"{reference}.self_attn", f"{reference}.mlp"
    rules = norm(f"{reference}.input_layernorm", f"{path}/attention_norm", bias=False)
    rules += _attention(model, attention, f"{path}/attention")
    rules += norm(f"{reference}.post_attention_layernorm", f"{path}/mlp_norm", bias=False)
    for name in ("gate", "up", "down"):
        rules += linear(f"{feed_forward}.{name}_proj", f"{path}/mlp/{name}", model.mlp_bias)
    return rules


def _attention(model: ModelConfig, reference: str, path: str) -> list[Rule]:
    width = model.width_of_head
    order = rotary_order(width, reference=False, here=getattr(model.position, "interleaved", False))
    rules = []
    for name, to, heads, turned in (
        ("q_proj", "query", model.num_heads, order),
        ("k_proj", "key", model.kv_heads, order),
        ("v_proj", "value", model.kv_heads, None),
    ):
        bias: Layout | None = HeadsBias(heads, width, turned) if model.attention_bias else None
        rules += module(f"{reference}.{name}", f"{path}/{to}", HeadsOut(heads, width, turned), bias)
    output_bias = SAME if model.attention_output_bias else None
    output = HeadsIn(model.num_heads, width)
    rules += module(f"{reference}.o_proj", f"{path}/output", output, output_bias)
    if model.qk_norm:
        for name, to in (("q_norm", "query_norm"), ("k_norm", "key_norm")):
            rules.append(
                Rule(f"{reference}.{name}.weight", (f"{path}/{to}/scale",), HeadVector(order))
            )
    return rules


FAMILY = Family(NAME, tuple(STEMS), read_config, write_config, plan)
