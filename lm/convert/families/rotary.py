"""Rotary positions in a reference's config.json, where there are three ways to write them.

transformers 5 has everything in `rope_parameters`; before, `rope_theta` stood beside
`rope_scaling`, whose kind was `type` at first and `rope_type` later. All are read, and all are
written, because vLLM, llama.cpp and older transformers read one or the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm.config import LinearScaling, Llama3Scaling, ModelConfig, Rotary
from lm.convert.families.common import choice, number, only, whole
from lm.errors import ConfigError, UserError

DEFAULT_BASE = 10000.0
KINDS = {"default": "none", "linear": "linear", "llama3": "llama3"}


def read_rotary(values: Mapping[str, Any]) -> Rotary:
    """Raises UserError for a kind of scaling that is not known, and for rotation of a part."""
    given: dict[str, Any] = {}
    where = "config.json"
    for key in ("rope_parameters", "rope_scaling"):
        value = values.get(key)
        if value is None:
            continue
        if not isinstance(value, Mapping) or any(isinstance(v, Mapping) for v in value.values()):
            raise UserError(
                f"config.json: {key}={value!r} is not supported: it is not one set of parameters "
                "for all layers"
            )
        # As in the reference, rope_scaling counts where there are both.
        if value:
            where, given = f"config.json: {key}", dict(value)
    if given.get("rope_type") is None:
        given["rope_type"] = given.get("type")
    for key in ("rope_theta", "partial_rotary_factor"):
        if given.get(key) is None:
            given[key] = values.get(key)
    only(given, "partial_rotary_factor", 1.0, where=where)
    kind = choice(given, "rope_type", KINDS, "default", where=where)
    scaling: LinearScaling | Llama3Scaling | None = None
    if kind == "linear":
        scaling = LinearScaling(number(given, "factor", where=where))
    if kind == "llama3":
        scaling = Llama3Scaling(
            factor=number(given, "factor", where=where),
            low_frequency_factor=number(given, "low_freq_factor", where=where),
            high_frequency_factor=number(given, "high_freq_factor", where=where),
            original_length=whole(given, "original_max_position_embeddings", where=where),
        )
    return Rotary(base=number(given, "rope_theta", DEFAULT_BASE, where=where), scaling=scaling)


def write_rotary(name: str, model: ModelConfig) -> dict[str, Any]:
    """Raises ConfigError for any other scheme."""
    position = model.position
    if not isinstance(position, Rotary):
        raise ConfigError(
            f"{name} cannot express position.kind={position.kind!r}; it can: 'rotary'"
        )
    scaling: dict[str, Any] = {}
    if isinstance(position.scaling, LinearScaling):
        scaling = {"factor": position.scaling.factor}
    if isinstance(position.scaling, Llama3Scaling):
        scaling = {
            "factor": position.scaling.factor,
            "low_freq_factor": position.scaling.low_frequency_factor,
            "high_freq_factor": position.scaling.high_frequency_factor,
            "original_max_position_embeddings": position.scaling.original_length,
        }
    kind = "default" if position.scaling is None else position.scaling.kind
    return {
        "rope_theta": position.base,
        "rope_scaling": {"type": kind, "rope_type": kind, **scaling} if scaling else None,
        "rope_parameters": {"rope_type": kind, "rope_theta": position.base, **scaling},
    }
