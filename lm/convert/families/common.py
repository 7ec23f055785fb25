"""What the families share: reading another project's config.json, and saying what cannot be."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from lm.config import Activation, Learned, ModelConfig, differences, to_dict
from lm.convert.layout import LINEAR, SAME, Layout, Plan, Rule
from lm.errors import ConfigError, UserError

T = TypeVar("T")

CONFIG = "config.json"

# transformers' names of the ungated activations, and the one each is written as.
READ_ACTIVATION: dict[str, Activation] = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
WRITE_ACTIVATION = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu", "silu": "silu"}

# What a reference need not have: it says how to train or how to compute, not what.
TRAINING_ONLY = ("dropout", "init", "compute_dtype", "remat", "scan_layers", "attention_kernel")


@dataclass(frozen=True)
class Family:
    """A family's correspondence with Hugging Face: one module beside this one for each.

    read_config: (config.json's values, names of the checkpoint's tensors or none where they are not
      known) -> the model; raises UserError naming the key and value it does not know.
    write_config: model -> config.json's values, model_type and architectures among them; raises
      ConfigError naming the switches the family cannot express.
    plan: (model, names of the checkpoint's tensors or None) -> the tensors' names and layouts; with
      names, those tell whether the base model's prefix is there ("transformer.h.0" or "h.0");
      without, they are those that the reference's class for the model writes.
    """

    name: str
    model_types: tuple[str, ...]
    read_config: Callable[[Mapping[str, Any], Collection[str]], ModelConfig]
    write_config: Callable[[ModelConfig], dict[str, Any]]
    plan: Callable[[ModelConfig, Collection[str] | None], Plan]


# Reading config.json. A key that is null counts as absent, as in the reference.


def whole(
    values: Mapping[str, Any], key: str, default: int | None = None, *, where: str = CONFIG
) -> int:
    """A whole number of at least 0; required where there is no default. Raises UserError."""
    value = _get(values, key, default, where)
    sound = isinstance(value, (int, float)) and not isinstance(value, bool)
    # JSON written by others has 8192.0 where 8192 is meant.
    if not sound or not math.isfinite(value) or value != int(value) or value < 0:
        raise UserError(f"{where}: {key}={value!r} is not a whole number")
    return int(value)


def number(
    values: Mapping[str, Any], key: str, default: float | None = None, *, where: str = CONFIG
) -> float:
    """A finite number; required where there is no default. Raises UserError."""
    value = _get(values, key, default, where)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise UserError(f"{where}: {key}={value!r} is not a number")
    return float(value)


def flag(values: Mapping[str, Any], key: str, default: bool, *, where: str = CONFIG) -> bool:
    """True or false. Raises UserError."""
    value = _get(values, key, default, where)
    if not isinstance(value, bool):
        raise UserError(f"{where}: {key}={value!r} is neither true nor false")
    return value


def choice(
    values: Mapping[str, Any],
    key: str,
    meanings: Mapping[str, T],
    default: str | None = None,
    *,
    where: str = CONFIG,
) -> T:
    """What the key's value means. Raises UserError, listing the known values."""
    value = _get(values, key, default, where)
    if not isinstance(value, str) or value not in meanings:
        raise UserError(
            f"{where}: {key}={value!r} is not supported; supported: {', '.join(meanings)}"
        )
    return meanings[value]


def only(values: Mapping[str, Any], key: str, supported: Any, *, where: str = CONFIG) -> None:
    """Raises UserError where the key is there with another value than the one supported."""
    value = values.get(key)
    if value is not None and value != supported:
        raise UserError(
            f"{where}: {key}={value!r} is not supported; supported: {key}={supported!r}"
        )


def _get(values: Mapping[str, Any], key: str, default: Any, where: str) -> Any:
    value = values.get(key)
    if value is None:
        if default is None:
            raise UserError(f"{where} has no {key}, which this model needs")
        return default
    return value


def architecture(values: Mapping[str, Any]) -> str | None:
    """The reference's class: the first of `architectures`, None where there is none."""
    names = values.get("architectures")
    return names[0] if isinstance(names, (list, tuple)) and names else None


def num_labels(values: Mapping[str, Any]) -> int:
    """The number of labels of a classifier: the reference keeps their names, 2 by default."""
    labels = values.get("id2label")
    if isinstance(labels, Mapping) and labels:
        return len(labels)
    return whole(values, "num_labels", 2)


# What `problem_type` may say of a classifier: its loss, which is no part of the model.
ONE_LABEL, SEVERAL_LABELS = "single_label_classification", "multi_label_classification"


def label_values(count: int) -> dict[str, Any]:
    """The keys from which the reference and `num_labels` know the number of labels."""
    names = [f"LABEL_{i}" for i in range(count)]
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def prefix_of(names: Collection[str] | None, marker: str, candidates: Sequence[str]) -> str:
    """The prefix that the base model's tensors have: the candidate for which candidate + `marker`
    is among the names, the first where none is, or where the names are not known."""
    found = (prefix for prefix in candidates if names and prefix + marker in names)
    return next(found, candidates[0])


# Writing config.json.


def expressed(name: str, table: Mapping[str, T], switch: str, value: Any) -> T:
    """What the reference calls a switch's value. Raises ConfigError where it has no such thing."""
    if value not in table:
        raise ConfigError(
            f"{name} cannot express {switch}={value!r}; it can: {', '.join(map(repr, table))}"
        )
    return table[value]


def learned_length(name: str, model: ModelConfig) -> int:
    """The number of learned positions. Raises ConfigError for any other scheme."""
    if not isinstance(model.position, Learned):
        raise ConfigError(
            f"{name} cannot express position.kind={model.position.kind!r}; it can: 'learned'"
        )
    return model.position.max_length


def inexpressible(
    model: ModelConfig, read: Callable[[], ModelConfig], *, free: Sequence[str] = ()
) -> list[str]:
    """The switches in which a model differs from what is read back from what was written.

    Args:
      model: what was written.
      read: reads it back.
      free: keys that may differ because the layouts make up for it.
    """
    try:
        back = read()
    except UserError as error:
        return [str(error)]
    old, new = to_dict(canonical(model)), to_dict(canonical(back))
    allowed = (*TRAINING_ONLY, *free)
    return [
        f"{key}={was!r} (it has {now!r})"
        for key, was, now in differences(old, new)
        if not any(key == name or key.startswith(f"{name}.") for name in allowed)
    ]


def check_expressed(
    name: str, model: ModelConfig, read: Callable[[], ModelConfig], *, free: Sequence[str] = ()
) -> None:
    """Raises ConfigError naming the switches that a family cannot express (see
    `inexpressible`)."""
    different = inexpressible(model, read, free=free)
    if different:
        raise ConfigError(f"{name} cannot express {', '.join(different)}")


def canonical(model: ModelConfig) -> ModelConfig:
    """The one config of all that mean the same model: what is default is left unset."""
    width, norm = model.width_of_head, model.norm
    usual = model.attention_scale is not None and math.isclose(
        model.attention_scale, 1 / math.sqrt(width), rel_tol=1e-12
    )
    pooled = model.pooler is not None and (model.pooler.dense or model.heads)
    return replace(
        model,
        num_kv_heads=None if model.num_kv_heads == model.num_heads else model.num_kv_heads,
        head_dim=None if model.d_model == width * model.num_heads else width,
        attention_scale=None if usual else model.attention_scale,
        embedding_size=None if model.embedding_size == model.d_model else model.embedding_size,
        norm=replace(norm, bias=None if norm.has_bias == (norm.kind == "layer") else norm.bias),
        layer_pattern=period(model.layer_pattern),
        num_decoder_layers=(
            None if model.num_decoder_layers == model.num_layers else model.num_decoder_layers
        ),
        tie_embeddings=model.tie_embeddings or model.lm_head == "none",
        pooler=model.pooler if pooled else None,
        logit_scale=None if model.logit_scale == 1 else model.logit_scale,
    )


def period(items: Sequence[T]) -> tuple[T, ...]:
    """The shortest sequence of which `items` is a whole number of repetitions."""
    items = tuple(items)
    for length in range(1, len(items)):
        if len(items) % length == 0 and items[:length] * (len(items) // length) == items:
            return items[:length]
    return items


# Rules. A reference module has a `weight` and perhaps a `bias`.


def module(reference: str, path: str, weight: Layout, bias: Layout | None) -> list[Rule]:
    """A projection's kernel and, where it has a layout, its bias."""
    rules = [Rule(f"{reference}.weight", (f"{path}/kernel",), weight)]
    if bias is not None:
        rules.append(Rule(f"{reference}.bias", (f"{path}/bias",), bias))
    return rules


def linear(reference: str, path: str, bias: bool = True) -> list[Rule]:
    """A torch Linear."""
    return module(reference, path, LINEAR, SAME if bias else None)


def embedding(reference: str, path: str) -> list[Rule]:
    return [Rule(f"{reference}.weight", (f"{path}/embedding",), SAME)]


def norm(reference: str, path: str, bias: bool = True) -> list[Rule]:
    rules = [Rule(f"{reference}.weight", (f"{path}/scale",), SAME)]
    return [*rules, Rule(f"{reference}.bias", (f"{path}/bias",), SAME)] if bias else rules
