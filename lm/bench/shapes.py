"""The sizes that are measured: models to train, and models to decode with.

i, ii and iii are character-level and word-piece GPT-2s as nanoGPT has them (LayerNorm without bias,
no biases, exact GELU, tied embeddings) at sizes for a CPU; gpt2 and llama are for an accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lm.config import (
    Adafactor,
    AdamW,
    BPETokenizer,
    CausalLM,
    CharacterTokenizer,
    CheckpointConfig,
    Config,
    DataConfig,
    Duration,
    Embedded,
    InitConfig,
    Learned,
    ModelConfig,
    NormConfig,
    OptimizerConfig,
    TextFiles,
    TokenizerConfig,
    TrainConfig,
    from_dict,
)
from lm.errors import ConfigError, did_you_mean

# The file of characters that `lm.bench.workload` makes, and how many different ones it has.
CHARACTERS, TEXT = 65, "characters.txt"
# Of the tokenizer that is trained on the embedded text, for models of any vocabulary above it.
PIECES = 8192
# XLA for CPUs otherwise lets as many operations run side by side as it can.
LEAST_MEMORY = "--xla_cpu_enable_concurrency_optimized_scheduler=false"


@dataclass(frozen=True)
class TrainShape:
    """A training run to measure.

    `round_steps` are the optimiser steps of a round, a multiple of twice `steps_per_dispatch`: a
    checkpoint that is written in a round is written in the middle of it.
    """

    describe: str
    model: Callable[[], ModelConfig]
    sequence_length: int
    batch_size: int
    round_steps: int
    steps_per_dispatch: int = 1
    learning_rate: float = 1e-3
    objective: CausalLM = CausalLM()  # noqa: RUF009 (frozen)
    # A checkpoint in the background takes the memory of one more state.
    asynchronous: bool = True
    # Ours, where it is not the peers' AdamW: then the losses are not comparable.
    other_optimizer: OptimizerConfig | None = None
    # Flags for XLA, of ours.
    xla_flags: str = ""

    @property
    def lead_steps(self) -> int:
        """Steps at the beginning of a round that are not timed: while a contestant stood still, a
        virtual machine may have given its free memory back, and then the first step after that
        takes seconds in the kernel to have it again. Nobody who trains stands still. Two
        dispatches, for the loop is one ahead."""
        return 2 * self.steps_per_dispatch

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.sequence_length

    @property
    def adamw(self) -> AdamW:
        # A constant rate: the loss at a step does not depend on how many rounds follow.
        return AdamW(learning_rate=self.learning_rate, beta2=0.95, weight_decay=0.1, clip_norm=1.0)

    def config(
        self, steps: int, save_at: int | None = None, *, asynchronous: bool = True
    ) -> Config:
        """The run: `steps` long, with checkpoints at the multiples of `save_at`."""
        model = self.model()
        return Config(
            model=model,
            objective=self.objective,
            data=_data(model, self.sequence_length),
            train=TrainConfig(
                batch_size=self.batch_size,
                duration=Duration(steps=steps),
                steps_per_dispatch=self.steps_per_dispatch,
                log_every=min(10, self.round_steps // 2),
            ),
            optimizer=self.other_optimizer or self.adamw,
            checkpoint=CheckpointConfig(
                every=None if save_at is None else Duration(steps=save_at),
                asynchronous=asynchronous and self.asynchronous,
            ),
        )


def _data(model: ModelConfig, sequence_length: int) -> DataConfig:
    tokenizer: TokenizerConfig
    if model.vocab_size == CHARACTERS:
        source, tokenizer = TextFiles(paths=(TEXT,)), CharacterTokenizer()
        return DataConfig({"text": source}, tokenizer, sequence_length, add_eos=False)
    return DataConfig({"text": Embedded()}, BPETokenizer(vocab_size=PIECES), sequence_length)


def _nano(layers: int, width: int, heads: int, length: int, vocabulary: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocabulary,
        num_layers=layers,
        d_model=width,
        num_heads=heads,
        d_ff=4 * width,
        position=Learned(max_length=length),
        norm=NormConfig(bias=False),
        attention_bias=False,
        attention_output_bias=False,
        mlp_bias=False,
    )


def _published(values: Mapping[str, Any], **changes: Any) -> ModelConfig:
    return from_dict(ModelConfig, {**values, "dropout": {}, **changes}, "model")


def _gpt2() -> ModelConfig:
    from experiments.gpt2.model import model

    return _published(model("124m"), vocab_size=50304, compute_dtype="bfloat16")


def _llama() -> ModelConfig:
    from experiments.llama.model import model

    # Without rematerialisation the attention's probabilities alone would fill the memory.
    return _published(model("3.2-1b"), compute_dtype="bfloat16", remat="full")


def _iii() -> ModelConfig:
    return _nano(4, 768, 12, 512, 50304)


TRAIN: Mapping[str, TrainShape] = {
    "i": TrainShape(
        "4 layers, d=128, 4 heads, T=64, B=12, V=65, float32",
        lambda: _nano(4, 128, 4, 64, CHARACTERS), 64, 12, round_steps=200, steps_per_dispatch=10,
    ),
    "ii": TrainShape(
        "6 layers, d=384, 6 heads, T=256, B=8, V=65, float32",
        lambda: _nano(6, 384, 6, 256, CHARACTERS), 256, 8, round_steps=10, steps_per_dispatch=5,
    ),
    "iii": TrainShape(
        "4 layers, d=768, 12 heads, T=512, B=2, V=50304, float32",
        _iii, 512, 2, round_steps=4, learning_rate=6e-4,
    ),
    "iii-lean": TrainShape(
        "as iii; ours with Adafactor, rematerialised layers, a loss in chunks, operations in the "
        "order that needs the least memory, and checkpoints that are written between two steps",
        lambda: replace(_iii(), remat="full"), 512, 2, round_steps=4, learning_rate=6e-4,
        objective=CausalLM(chunk_tokens=128), asynchronous=False,
        other_optimizer=Adafactor(learning_rate=6e-4, clip_norm=1.0), xla_flags=LEAST_MEMORY,
    ),
    "gpt2": TrainShape(
        "GPT-2 124M: 12 layers, d=768, 12 heads, T=1024, B=16, V=50304, bfloat16",
        _gpt2, 1024, 16, round_steps=20, learning_rate=6e-4,
    ),
    "llama": TrainShape(
        "Llama-3.2-1B: 16 layers, d=2048, 32/8 heads, T=4096, B=2, V=128256, bfloat16",
        _llama, 4096, 2, round_steps=10, learning_rate=3e-4,
    ),
    "tiny": TrainShape(
        "2 layers, d=32, 2 heads, T=16, B=4, V=65, float32: to see that it works",
        lambda: _nano(2, 32, 2, 16, CHARACTERS), 16, 4, round_steps=4, steps_per_dispatch=2,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class DecodeShape:
    """A continuation to measure: `new_tokens` after `prompt_tokens` of `rows` prompts, greedily."""

    describe: str
    model: Callable[[], ModelConfig]
    rows: int
    prompt_tokens: int = 32
    new_tokens: int = 128


def _decoder(layers: int, width: int, length: int = 256, vocabulary: int = 50257) -> ModelConfig:
    """GPT-2's own architecture, which transformers has too."""
    return ModelConfig(
        vocab_size=vocabulary,
        num_layers=layers,
        d_model=width,
        num_heads=width // 64,
        d_ff=4 * width,
        position=Learned(max_length=length),
        activation="gelu_tanh",
        # Wide enough that the largest logit stands clear and rows do not repeat themselves: then
        # the same tokens out say something.
        init=InitConfig(stddev=0.2),
    )


def _decode_shape(layers: int, width: int, rows: int) -> DecodeShape:
    return DecodeShape(
        f"GPT-2, {layers} layers, d={width}, V=50257, B={rows}: 128 tokens after 32, float32",
        lambda: _decoder(layers, width), rows,
    )  # fmt: skip


DECODE: Mapping[str, DecodeShape] = {
    "6x384-b1": _decode_shape(6, 384, 1),
    "6x384-b8": _decode_shape(6, 384, 8),
    "12x768-b1": _decode_shape(12, 768, 1),
    "12x768-b8": _decode_shape(12, 768, 8),
    "tiny": DecodeShape(
        "GPT-2, 2 layers, d=64, V=128, B=2: 8 tokens after 4: to see that it works",
        lambda: _decoder(2, 64, 32, 128), 2, 4, 8,
    ),
}  # fmt: skip


def named(shapes: Mapping[str, Any], name: str) -> Any:
    """The shape called `name`. Raises ConfigError where there is none."""
    if name not in shapes:
        raise ConfigError(
            f"--shape={name}: there is no such shape{did_you_mean(name, shapes)}; "
            f"this suite has: {', '.join(shapes)}"
        )
    return shapes[name]
