"""What is computed: one Flax module for every `ModelConfig`."""

from __future__ import annotations

from lm.config import ModelConfig
from lm.model.cache import Cache, init_cache
from lm.model.masks import Mask
from lm.model.transformer import Decoder

__all__ = ["Cache", "Decoder", "Mask", "build_model", "init_cache"]


def build_model(config: ModelConfig) -> Decoder:
    """The module for a config: pure `init` and `apply`, see `lm.model.transformer.Decoder`."""
    return Decoder(config)
