"""What is computed: one Flax module an architecture, which every `ModelConfig` describes."""

from __future__ import annotations

from lm.config import ModelConfig
from lm.model.cache import Cache, init_cache
from lm.model.encoder_decoder import EncoderDecoder
from lm.model.heads import pool
from lm.model.masks import Mask
from lm.model.transformer import Transformer
from lm.model.two_stream import TwoStream

__all__ = [
    "Cache",
    "EncoderDecoder",
    "Mask",
    "Model",
    "Transformer",
    "TwoStream",
    "build_model",
    "init_cache",
    "pool",
]

Model = Transformer | EncoderDecoder | TwoStream

MODULES: dict[str, type[Model]] = {
    "decoder": Transformer,
    "encoder": Transformer,
    "encoder_decoder": EncoderDecoder,
    "two_stream": TwoStream,
}


def build_model(config: ModelConfig) -> Model:
    """The module for a config: pure `init` and `apply`."""
    return MODULES[config.architecture](config)
