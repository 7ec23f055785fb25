"""What is computed and what is learned: architectures and objectives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Union

from lm.config.checks import at_least, check, positive, share
from lm.errors import ConfigError


@dataclass(frozen=True)
class Learned:
    """A trained vector per absolute position (GPT-1/2/3, BERT). Longer sequences are an error."""

    max_length: int
    kind: Literal["learned"] = "learned"

    def __post_init__(self) -> None:
        at_least(self, 1, "max_length")


@dataclass(frozen=True)
class Sinusoidal:
    """Fixed sines and cosines added to the embeddings (Vaswani et al. 2017, section 3.5)."""

    base: float = 10000.0
    kind: Literal["sinusoidal"] = "sinusoidal"

    def __post_init__(self) -> None:
        positive(self, "base")


@dataclass(frozen=True)
class Rotary:
    """Rotation of queries and keys by position (RoPE, Su et al. 2021).

    `fraction` of each head is rotated (GPT-NeoX); `interleaved` pairs neighbours (RoFormer)
    instead of halves (Llama in Hugging Face's layout).
    """

    base: float = 10000.0
    fraction: float = 1.0
    interleaved: bool = False
    kind: Literal["rotary"] = "rotary"

    def __post_init__(self) -> None:
        positive(self, "base")
        check(0 < self.fraction <= 1, f"fraction must be in (0, 1], not {self.fraction}")


@dataclass(frozen=True)
class ALiBi:
    """A head-wise linear penalty on distance (Press et al. 2022)."""

    kind: Literal["alibi"] = "alibi"


@dataclass(frozen=True)
class T5Relative:
    """A trained bias per head and distance bucket, shared by the layers (Raffel et al. 2020)."""

    num_buckets: int = 32
    max_distance: int = 128
    kind: Literal["t5_relative"] = "t5_relative"

    def __post_init__(self) -> None:
        at_least(self, 2, "num_buckets")
        check(
            self.max_distance > self.num_buckets // 2,
            f"max_distance={self.max_distance} must be above num_buckets // 2 = "
            f"{self.num_buckets // 2}: up to there every distance has a bucket of its own",
        )


@dataclass(frozen=True)
class NoPosition:
    """No position information besides the causal mask."""

    kind: Literal["none"] = "none"


PositionConfig = Union[Learned, Sinusoidal, Rotary, ALiBi, T5Relative, NoPosition]

Activation = Literal["relu", "gelu", "gelu_tanh", "silu", "swiglu", "geglu", "geglu_tanh"]


@dataclass(frozen=True)
class NormConfig:
    """Layer normalisation (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019), and where it stands.

    pre: x + f(norm(x)), and a norm after the last layer. post: norm(x + f(x)). `bias` of None is
    the kind's own way: LayerNorm has one, RMSNorm cannot.
    """

    kind: Literal["layer", "rms"] = "layer"
    placement: Literal["pre", "post"] = "pre"
    epsilon: float = 1e-5
    bias: bool | None = None

    def __post_init__(self) -> None:
        positive(self, "epsilon")
        check(not (self.kind == "rms" and self.bias), "RMSNorm has no bias: unset norm.bias")

    @property
    def has_bias(self) -> bool:
        return self.kind == "layer" and self.bias is not False


@dataclass(frozen=True)
class DropoutConfig:
    """Dropout rates: after the embeddings, on attention probabilities, on each sub-layer's output,
    and on the feed-forward's hidden activations."""

    embedding: float = 0.0
    attention: float = 0.0
    residual: float = 0.0
    feed_forward: float = 0.0

    def __post_init__(self) -> None:
        share(self, "embedding", "attention", "residual", "feed_forward")


@dataclass(frozen=True)
class InitConfig:
    """Initial weights: normal(stddev); projections into the residual stream are divided by
    sqrt(2 * num_layers) when `scale_residual` (GPT-2)."""

    stddev: float = 0.02
    scale_residual: bool = True

    def __post_init__(self) -> None:
        positive(self, "stddev")


@dataclass(frozen=True)
class ModelConfig:
    """What is computed. Static and hashable; a family (GPT-2, Llama ...) is a value of this class.

    `layer_pattern` is repeated over the layers: "global" attends to everything the mask allows,
    "local" to the last `window` positions. `num_kv_heads` of None is multi-head attention, 1 is
    multi-query (Shazeer 2019), between them grouped-query (Ainslie et al. 2023).
    """

    vocab_size: int
    num_layers: int
    d_model: int
    num_heads: int
    d_ff: int
    position: PositionConfig
    architecture: Literal["decoder"] = "decoder"
    norm: NormConfig = NormConfig()
    activation: Activation = "gelu"
    num_kv_heads: int | None = None
    head_dim: int | None = None
    attention_bias: bool = True
    attention_output_bias: bool = True
    mlp_bias: bool = True
    attention_scale: float | None = None
    attention_softcap: float | None = None
    layer_pattern: tuple[Literal["global", "local"], ...] = ("global",)
    window: int | None = None
    tie_embeddings: bool = True
    scale_embeddings: bool = False
    logit_softcap: float | None = None
    dropout: DropoutConfig = DropoutConfig()
    init: InitConfig = InitConfig()
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "full", "dots"] = "none"
    scan_layers: bool = False

    def __post_init__(self) -> None:
        at_least(self, 1, "vocab_size", "num_layers", "d_model", "num_heads", "d_ff")
        at_least(self, 1, "num_kv_heads", "head_dim", "window")
        positive(self, "attention_scale", "attention_softcap", "logit_softcap")
        check(len(self.layer_pattern) > 0, "layer_pattern names no layer")
        if self.head_dim is None and self.d_model % self.num_heads:
            raise ConfigError(
                f"d_model={self.d_model} is not divisible by num_heads={self.num_heads}; "
                "change one, or set head_dim"
            )
        if self.num_heads % self.kv_heads:
            raise ConfigError(
                f"num_heads={self.num_heads} is not divisible by num_kv_heads={self.num_kv_heads}"
            )
        if "local" in self.layer_pattern and self.window is None:
            raise ConfigError(
                "layer_pattern has a 'local' layer, so window (positions) must be set"
            )
        if "local" not in self.layer_pattern and self.window is not None:
            raise ConfigError(
                f"window={self.window} is used by no layer: add 'local' to layer_pattern, or "
                "unset it"
            )
        if self.num_layers % len(self.layer_pattern):
            raise ConfigError(
                f"num_layers={self.num_layers} is not a multiple of the {len(self.layer_pattern)} "
                "entries of layer_pattern"
            )
        if isinstance(self.position, Rotary):
            rotated = self.width_of_head * self.position.fraction
            if rotated != int(rotated) or int(rotated) % 2:
                raise ConfigError(
                    f"rotary positions rotate pairs: head width {self.width_of_head} * fraction "
                    f"{self.position.fraction} must be an even whole number"
                )

    @property
    def kv_heads(self) -> int:
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def width_of_head(self) -> int:
        return self.d_model // self.num_heads if self.head_dim is None else self.head_dim


@dataclass(frozen=True)
class CausalLM:
    """Predict the next token.

    `label_smoothing` as in Szegedy et al. 2016; `z_loss` is the coefficient of log(Z)^2 (PaLM).
    `chunk_tokens`: logits are made for that many tokens at a time; None chooses by the size of
    the vocabulary, 0 never splits.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    chunk_tokens: int | None = None
    kind: Literal["causal_lm"] = "causal_lm"

    def __post_init__(self) -> None:
        share(self, "label_smoothing")
        at_least(self, 0, "z_loss", "chunk_tokens")


ObjectiveConfig = CausalLM
