"""Workdirs of models that were never trained, of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lm.config import (
    ByteTokenizer,
    Config,
    DataConfig,
    Duration,
    Learned,
    ModelConfig,
    NormConfig,
    Rotary,
    T5Relative,
    TrainConfig,
    XLNetRelative,
)
from lm.convert.accounting import parameter_shapes
from lm.convert.store import LazyArray, write_checkpoint
from lm.data.tokenizer import Tokenizer
from lm.data.tokenizers.simple import Bytes
from lm.train.restoring import nested
from lm.train.workdir import CHECKPOINTS, TOKENIZER, write_config

LENGTH = 40
BASE: dict[str, Any] = dict(vocab_size=264, num_layers=1, d_model=16, num_heads=2, d_ff=32)
GROUPED = ModelConfig(
    **{**BASE, "num_layers": 2}, num_kv_heads=1, position=Rotary(), activation="swiglu"
)
TIED = ModelConfig(**BASE, position=Learned(48), tie_embeddings=True)
ENCODER = ModelConfig(
    **BASE,
    position=Learned(LENGTH),
    architecture="encoder",
    token_types=2,
    embedding_norm=True,
    norm=NormConfig(placement="post"),
)
JOINED = ModelConfig(
    **BASE,
    position=T5Relative(8, 16),
    architecture="encoder_decoder",
    decoder_start_id=256,
    norm=NormConfig(kind="rms"),
)
TWO_STREAM = ModelConfig(
    **BASE,
    position=XLNetRelative(),
    architecture="two_stream",
    norm=NormConfig(placement="post"),
    attention_bias=False,
    attention_output_bias=False,
    token_types=3,
)


def make_run(
    workdir: Path,
    model: ModelConfig,
    objective: Any = None,
    tokenizer: Tokenizer | None = None,
    **data: Any,
) -> Path:
    """A workdir with random parameters, of about the size that a trained one's have."""
    model = model if objective is None else objective.model_for(model)
    tokenizer = tokenizer or Bytes()
    packing = "stream" if objective is None else "none"
    config = Config(
        model=model,
        data=DataConfig(train={}, tokenizer=ByteTokenizer(), sequence_length=LENGTH,
                        packing=packing, **data),
        objective=objective,
        train=TrainConfig(batch_size=1, duration=Duration(steps=1)),
    )  # fmt: skip
    workdir.mkdir()
    write_config(workdir, config)
    tokenizer.save(workdir / TOKENIZER)
    rng = np.random.default_rng(0)

    def leaf(name: str, shape: tuple[int, ...]) -> LazyArray:
        centre = 1.0 if name.endswith("scale") else 0.0
        values = (centre + 0.3 * rng.standard_normal(shape)).astype(np.float32)
        return LazyArray(shape, values.dtype, lambda: values)

    leaves = {name: leaf(name, shape) for name, shape in parameter_shapes(model).items()}
    write_checkpoint(workdir / CHECKPOINTS, nested(leaves), data={}, meta={"evaluation": {}})
    return workdir
