"""The families of models that other projects publish, and which of them a checkpoint belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm.config import ModelConfig
from lm.convert.families import (
    bart,
    bert,
    electra,
    gpt2,
    gpt_neo,
    llama,
    openai_gpt,
    roberta,
    t5,
    xlnet,
)
from lm.convert.families.common import Family
from lm.errors import ConfigError, UserError, did_you_mean

__all__ = ["FAMILIES", "Family", "family_of_folder", "family_of_model"]

# The first that can express a model is the one it is written as.
FAMILIES: tuple[Family, ...] = (
    llama.FAMILY,
    gpt2.FAMILY,
    openai_gpt.FAMILY,
    gpt_neo.FAMILY,
    bert.FAMILY,
    roberta.FAMILY,
    electra.FAMILY,
    xlnet.FAMILY,
    t5.FAMILY,
    bart.FAMILY,
)


def family_of_folder(config: Mapping[str, Any]) -> Family:
    """The family of a Hugging Face folder, from its config.json.

    Raises:
      UserError: no `model_type`, or one that no family has.
    """
    name = config.get("model_type")
    for family in FAMILIES:
        if name in family.model_types:
            return family
    known = sorted(kind for family in FAMILIES for kind in family.model_types)
    if not isinstance(name, str):
        raise UserError(
            f"config.json has no model_type (known: {', '.join(known)}): is this the folder of a "
            "Hugging Face model?"
        )
    raise UserError(
        f"config.json: model_type={name!r} is not supported; supported: {', '.join(known)}"
    )


def family_of_model(model: ModelConfig, name: str | None = None) -> Family:
    """The family to write a model as: the one named, else the first that can express it.

    Raises:
      ConfigError: no family has that name, the named one cannot express the model, or none can.
    """
    if model.d_ff == 0:
        raise ConfigError("no family can express d_ff=0: all have feed-forward layers")
    if name is not None:
        for family in FAMILIES:
            if family.name == name:
                family.write_config(model)
                return family
        names = [family.name for family in FAMILIES]
        raise ConfigError(f"no family is called {name!r}{did_you_mean(name, names)}")
    reasons = []
    for family in FAMILIES:
        try:
            family.write_config(model)
        except ConfigError as error:
            reasons.append(f"  {error}")
        else:
            return family
    raise ConfigError("no family can express this model:\n" + "\n".join(reasons))
