"""Position schemes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Union

from lm.config.checks import at_least, check, positive


@dataclass(frozen=True)
class Learned:
    """A trained vector per absolute position (GPT-1/2/3, BERT). Longer sequences are an error.

    Position i is row `offset` + i of the table, which has `max_length` + `offset` rows (RoBERTa's
    first two rows stand for padding).
    """

    max_length: int
    offset: int = 0
    kind: Literal["learned"] = "learned"

    def __post_init__(self) -> None:
        at_least(self, 1, "max_length")
        at_least(self, 0, "offset")


@dataclass(frozen=True)
class Sinusoidal:
    """Fixed sines and cosines added to the embeddings (Vaswani et al. 2017, section 3.5).

    `layout`: "interleaved" is the paper's, sines at even and cosines at odd dimensions; "halves"
    has all the sines first (Marian); "tensor2tensor" too, and its frequencies reach 1 / base
    exactly (tensor2tensor, fairseq, M2M-100). `offset` is added to every position (M2M-100: 2).
    """

    base: float = 10000.0
    layout: Literal["interleaved", "halves", "tensor2tensor"] = "interleaved"
    offset: int = 0
    kind: Literal["sinusoidal"] = "sinusoidal"

    def __post_init__(self) -> None:
        positive(self, "base")
        at_least(self, 0, "offset")


@dataclass(frozen=True)
class LinearScaling:
    """Position interpolation (Chen et al. 2023): positions are divided by `factor`."""

    factor: float
    kind: Literal["linear"] = "linear"

    def __post_init__(self) -> None:
        positive(self, "factor")


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretching of the slow rotations (Dubey et al. 2024): frequencies that turn less
    than `low_frequency_factor` times within `original_length` positions are divided by `factor`,
    those that turn more than `high_frequency_factor` times stay, those between are blended."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_length: int
    kind: Literal["llama3"] = "llama3"

    def __post_init__(self) -> None:
        positive(self, "factor", "low_frequency_factor")
        at_least(self, 1, "original_length")
        check(
            self.high_frequency_factor > self.low_frequency_factor,
            f"high_frequency_factor={self.high_frequency_factor} must be above "
            f"low_frequency_factor={self.low_frequency_factor}",
        )


@dataclass(frozen=True)
class Rotary:
    """Rotation of queries and keys by position (RoPE, Su et al. 2021).

    `fraction` of each head is rotated (GPT-NeoX); `interleaved` pairs neighbours (RoFormer)
    instead of halves (Llama in Hugging Face's layout). `scaling` stretches the rotations over
    longer sequences than the model was trained on.
    """

    base: float = 10000.0
    fraction: float = 1.0
    interleaved: bool = False
    scaling: Union[LinearScaling, Llama3Scaling, None] = None
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
    """A trained bias per head and distance bucket, shared by the layers (Raffel et al. 2020).

    Where attention looks both ways (encoders), half of the buckets are for later keys.
    """

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
class XLNetRelative:
    """Transformer-XL's and XLNet's relative positions (Dai et al. 2019, section 3.3; Yang et al.
    2019): every layer projects sinusoids of the distance to keys of their own, and has trained
    biases in the place of the query. Distances beyond `clamp_length` count as that."""

    clamp_length: int | None = None
    kind: Literal["xlnet_relative"] = "xlnet_relative"

    def __post_init__(self) -> None:
        at_least(self, 1, "clamp_length")


@dataclass(frozen=True)
class RelativeKeys:
    """In every layer a trained vector per head and distance, added to the keys as a query sees them
    (Shaw et al. 2018, equation 4, for decoders). Distances beyond `max_distance` count as that."""

    max_distance: int
    kind: Literal["relative_keys"] = "relative_keys"

    def __post_init__(self) -> None:
        at_least(self, 1, "max_distance")


@dataclass(frozen=True)
class NoPosition:
    """No position information besides the causal mask."""

    kind: Literal["none"] = "none"


PositionConfig = Union[
    Learned,
    Sinusoidal,
    Rotary,
    ALiBi,
    T5Relative,
    XLNetRelative,
    RelativeKeys,
    NoPosition,
]
