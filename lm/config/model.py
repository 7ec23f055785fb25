"""What is computed: every architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lm.config.checks import at_least, check, positive, share
from lm.config.position import (
    ALiBi,
    PositionConfig,
    RelativeKeys,
    Rotary,
    T5Relative,
    XLNetRelative,
)
from lm.errors import ConfigError

# Widths of a head that cuDNN's attention takes, forward and backward, from Ampere on.
CUDNN_HEAD_WIDTHS = range(8, 129, 8)

Activation = Literal["relu", "gelu", "gelu_tanh", "silu", "swiglu", "geglu", "geglu_tanh"]


@dataclass(frozen=True)
class NormConfig:
    """Layer normalisation (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019), and where it stands;
    "none" leaves what it is given.

    pre: x + f(norm(x)), and a norm after the last layer. post: norm(x + f(x)). `bias` of None is
    the kind's own way: LayerNorm has one, RMSNorm cannot.
    """

    kind: Literal["layer", "rms", "none"] = "layer"
    placement: Literal["pre", "post"] = "pre"
    epsilon: float = 1e-5
    bias: bool | None = None

    def __post_init__(self) -> None:
        positive(self, "epsilon")
        check(not (self.kind == "rms" and self.bias), "RMSNorm has no bias: unset norm.bias")
        check(not (self.kind == "none" and self.bias), "no norm has no bias: unset norm.bias")

    @property
    def has_bias(self) -> bool:
        return self.kind == "layer" and self.bias is not False


@dataclass(frozen=True)
class DropoutConfig:
    """Dropout rates: after the embeddings, on attention probabilities, on each sub-layer's output,
    on the feed-forward's hidden activations, on the last layer's normalised output (T5), before the
    pooler's projection (RoBERTa's classifier), and before a classification head (on a pooled
    vector, or on every token's)."""

    embedding: float = 0.0
    attention: float = 0.0
    residual: float = 0.0
    feed_forward: float = 0.0
    output: float = 0.0
    pooler: float = 0.0
    head: float = 0.0

    def __post_init__(self) -> None:
        share(
            self, "embedding", "attention", "residual", "feed_forward", "output", "pooler", "head"
        )


@dataclass(frozen=True)
class InitConfig:
    """Initial weights: normal(stddev); projections into the residual stream are divided by
    sqrt(2 * num_layers) when `scale_residual` (GPT-2). What `zero` names begins at zero: the
    projection to queries, the untied readout (Yang et al. 2022, appendix D.2).

    `projections` of "xavier" gives the layers' matrices a variance of 2 / (inputs + outputs)
    instead (Glorot and Bengio 2010, equation 16), queries, keys and values taken as one matrix, as
    fairseq and PyTorch take them; `stddev` is then for embeddings and heads."""

    stddev: float = 0.02
    scale_residual: bool = True
    zero: tuple[Literal["query", "readout"], ...] = ()
    projections: Literal["normal", "xavier"] = "normal"

    def __post_init__(self) -> None:
        positive(self, "stddev")


HeadKind = Literal[
    "next_sentence",
    "classification",
    "regression",
    "multiple_choice",
    "token_classification",
    "span",
    "replaced_token",
]
# Heads that read one vector a sequence; the others read every token's.
POOLED_HEADS = ("next_sentence", "classification", "regression", "multiple_choice")


@dataclass(frozen=True)
class PoolerConfig:
    """One vector a sequence: that of its first or last token, or the mean over its tokens; with
    `dense`, through a square projection and `activation` (BERT: first, tanh)."""

    token: Literal["first", "last", "mean"] = "first"
    dense: bool = True
    activation: Literal["tanh", "gelu", "none"] = "tanh"

    def __post_init__(self) -> None:
        check(
            self.dense or self.activation == "none",
            'without dense there is no activation: set activation="none"',
        )


@dataclass(frozen=True)
class HeadConfig:
    """A projection to `num_labels` numbers, of the pooled vector or of every token.

    next_sentence (2), classification, regression, multiple_choice (1 a choice; choices are rows)
    read the pooled vector; token_classification, span (start and end) and replaced_token (1)
    every token's. `transform`: a square projection and the model's activation before
    (ELECTRA's discriminator).
    """

    kind: HeadKind
    num_labels: int
    bias: bool = True
    transform: bool = False

    def __post_init__(self) -> None:
        at_least(self, 1, "num_labels")
        fixed = {"next_sentence": 2, "multiple_choice": 1, "span": 2, "replaced_token": 1}
        wanted = fixed.get(self.kind, self.num_labels)
        check(
            self.num_labels == wanted,
            f"a {self.kind} head has num_labels={wanted}, not {self.num_labels}",
        )


@dataclass(frozen=True)
class ModelConfig:
    """What is computed. Static and hashable; a family (GPT-2, BERT ...) is a value of this class.

    `architecture`: "decoder" looks back, "encoder" both ways, "encoder_decoder" has a stack of
    each (`num_layers` and `num_decoder_layers`, None: as many) joined by cross-attention, and
    "two_stream" is XLNet's. `d_ff` of 0 is attention alone, without feed-forward layers.

    Embeddings: `embedding_size` of None is d_model, another size is projected to it (ELECTRA);
    `token_types` is the number of segment kinds (BERT: 2); `embedding_norm` normalises the sum.
    `source_vocab_size` of None shares one table between encoder and decoder; a number gives the
    encoder a table of its own, of that size. `decoder_start_id` is the token before every target.

    Attention: `layer_pattern` is repeated over the layers: "global" attends to everything the mask
    allows, "local" to the last `window` positions (an encoder: as many to either side).
    `num_kv_heads` of None is multi-head attention, 1 is multi-query (Shazeer 2019), between them
    grouped-query (Ainslie et al. 2023). `qk_norm` normalises every head's query and key (Qwen3).

    `attention_kernel` says how attention is computed, not what: "auto" is cuDNN's fused kernel on
    an NVIDIA GPU for every call that it computes exactly, and blocks of queries for all others;
    "blocks" is always blocks; "cudnn" is "auto", but raises ConfigError where the config or the
    machine rules cuDNN out. It takes bfloat16 alone and no cache (decoding), and on scores no bias,
    softcap or dropout; see `lm.model.fused_attention`. Its gradients are sums in no fixed order:
    for a run on a GPU that repeats bit for bit say "blocks".

    Heads: `lm_head` is "linear" (tied to the embeddings or not), "transform" (BERT's: projection,
    activation and norm first), or "none". Further heads read `pooler`'s vector or every token's.
    """

    vocab_size: int
    num_layers: int
    d_model: int
    num_heads: int
    d_ff: int
    position: PositionConfig
    architecture: Literal["decoder", "encoder", "encoder_decoder", "two_stream"] = "decoder"
    num_decoder_layers: int | None = None
    norm: NormConfig = NormConfig()
    activation: Activation = "gelu"
    embedding_size: int | None = None
    token_types: int = 0
    embedding_norm: bool = False
    source_vocab_size: int | None = None
    decoder_start_id: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    qk_norm: bool = False
    attention_bias: bool = True
    attention_output_bias: bool = True
    mlp_bias: bool = True
    attention_scale: float | None = None
    attention_softcap: float | None = None
    layer_pattern: tuple[Literal["global", "local"], ...] = ("global",)
    window: int | None = None
    tie_embeddings: bool = True
    scale_embeddings: bool = False
    lm_head: Literal["linear", "transform", "none"] = "linear"
    lm_head_bias: bool = False
    logit_scale: float | None = None
    logit_softcap: float | None = None
    pooler: PoolerConfig | None = None
    heads: tuple[HeadConfig, ...] = ()
    dropout: DropoutConfig = DropoutConfig()
    init: InitConfig = InitConfig()
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "full", "dots"] = "none"
    scan_layers: bool = False
    attention_kernel: Literal["auto", "blocks", "cudnn"] = "auto"

    def __post_init__(self) -> None:
        at_least(self, 1, "vocab_size", "num_layers", "d_model", "num_heads")
        at_least(self, 0, "d_ff")
        at_least(self, 1, "num_kv_heads", "head_dim", "window", "num_decoder_layers")
        at_least(self, 1, "embedding_size", "source_vocab_size")
        at_least(self, 0, "token_types", "decoder_start_id")
        positive(self, "attention_scale", "attention_softcap", "logit_softcap", "logit_scale")
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
        for name in ("num_layers", "num_decoder_layers"):
            layers = getattr(self, name)
            if layers is not None and layers % len(self.layer_pattern):
                raise ConfigError(
                    f"{name}={layers} is not a multiple of the {len(self.layer_pattern)} "
                    "entries of layer_pattern"
                )
        if isinstance(self.position, Rotary):
            rotated = self.width_of_head * self.position.fraction
            if rotated != int(rotated) or int(rotated) % 2:
                raise ConfigError(
                    f"rotary positions rotate pairs: head width {self.width_of_head} * fraction "
                    f"{self.position.fraction} must be an even whole number"
                )
        check(
            "readout" not in self.init.zero or (self.lm_head != "none" and not self.tie_embeddings),
            "init.zero names the readout, which needs a language-model head of its own: set "
            "tie_embeddings=False",
        )
        self._check_architecture()
        self._check_heads()
        if self.attention_kernel == "cudnn":
            self._check_cudnn()

    def _check_architecture(self) -> None:
        joined = self.architecture == "encoder_decoder"
        for name in ("num_decoder_layers", "source_vocab_size", "decoder_start_id"):
            given = getattr(self, name) is not None
            check(
                joined or not given,
                f'{name} is for architecture="encoder_decoder", not {self.architecture!r}',
            )
        check(
            not joined or self.decoder_start_id is not None,
            "an encoder_decoder needs decoder_start_id, the token its targets start with",
        )
        check(
            self.decoder_start_id is None or self.decoder_start_id < self.vocab_size,
            f"decoder_start_id={self.decoder_start_id} is not in a vocabulary of {self.vocab_size}",
        )
        check(
            not joined or not self.token_types,
            "token_types are for single stacks, not for an encoder_decoder",
        )
        if isinstance(self.position, T5Relative):
            check(
                self.architecture == "decoder" or self.position.num_buckets >= 4,
                f"position.num_buckets={self.position.num_buckets} must be at least 4 in an "
                f"{self.architecture}, which looks both ways: half of the buckets are for either",
            )
        check(
            self.architecture == "decoder" or not isinstance(self.position, RelativeKeys),
            f'position.kind="relative_keys" is for architecture="decoder", not '
            f"{self.architecture!r}",
        )
        two_stream = self.architecture == "two_stream"
        if two_stream != isinstance(self.position, XLNetRelative):
            raise ConfigError(
                'architecture="two_stream" and position.kind="xlnet_relative" go together; this '
                f"is {self.architecture!r} with {self.position.kind!r}"
            )
        if two_stream:
            self._check_two_stream()

    def _check_two_stream(self) -> None:
        """XLNet has its own attention, in which the switches of the other one mean nothing."""
        unused = {
            "num_kv_heads": None,
            "qk_norm": False,
            "attention_bias": False,
            "attention_output_bias": False,
            "attention_softcap": None,
            "attention_scale": None,
            "window": None,
            "embedding_size": None,
            "embedding_norm": False,
            "scan_layers": False,
            "scale_embeddings": False,
        }
        for name, value in unused.items():
            check(
                getattr(self, name) == value,
                f'architecture="two_stream" needs {name}={value}, not {getattr(self, name)}',
            )
        check(self.init.zero == (), 'architecture="two_stream" needs init.zero=()')
        check(self.d_ff > 0, 'architecture="two_stream" has a feed-forward: d_ff must be above 0')
        check(self.norm.placement == "post", 'architecture="two_stream" has norm.placement="post"')
        check(
            self.d_model % 2 == 0,
            f"d_model={self.d_model} must be even: XLNet's positions are pairs of sine and cosine",
        )

    def _check_cudnn(self) -> None:
        """cuDNN was asked for by name: it has to take some of the model's calls, training's too."""
        kernel, width = 'attention_kernel="cudnn"', self.width_of_head
        check(
            self.compute_dtype == "bfloat16",
            f'{kernel} needs compute_dtype="bfloat16", not {self.compute_dtype!r}',
        )
        check(
            self.attention_softcap is None,
            f"{kernel} needs attention_softcap=None, not {self.attention_softcap}",
        )
        check(
            not isinstance(self.position, (ALiBi, T5Relative, RelativeKeys, XLNetRelative)),
            f"{kernel} takes no bias on scores, which position.kind={self.position.kind!r} is",
        )
        check(
            not self.dropout.attention,
            f"{kernel} needs dropout.attention=0, not {self.dropout.attention}",
        )
        check(
            width in CUDNN_HEAD_WIDTHS,
            f"{kernel} takes heads whose width is a multiple of 8 up to "
            f"{CUDNN_HEAD_WIDTHS[-1]}, not {width}",
        )

    def _check_heads(self) -> None:
        kinds = [head.kind for head in self.heads]
        check(len(set(kinds)) == len(kinds), f"heads names a kind twice: {', '.join(kinds)}")
        pooled = [kind for kind in kinds if kind in POOLED_HEADS]
        check(
            not pooled or self.pooler is not None,
            f"heads: {', '.join(pooled)} read the pooled vector, so pooler must be set",
        )
        if self.lm_head != "none":
            widths_differ = self.embedding_size not in (None, self.d_model)
            check(
                not (widths_differ and self.lm_head == "linear"),
                f"embedding_size={self.embedding_size} is not d_model={self.d_model}: "
                'lm_head="transform" projects back to it, lm_head="linear" does not',
            )
        check(
            self.logit_scale is None or self.tie_embeddings or not self.lm_head_bias,
            "logit_scale scales products, not a bias, so without tied embeddings it needs "
            "lm_head_bias=False",
        )
        unused = {"lm_head_bias": False, "logit_scale": None, "logit_softcap": None}
        for name, value in unused.items():
            check(
                self.lm_head != "none" or getattr(self, name) == value,
                f'{name} is set, but lm_head="none"',
            )

    @property
    def kv_heads(self) -> int:
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def width_of_head(self) -> int:
        return self.d_model // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def width_of_embedding(self) -> int:
        return self.d_model if self.embedding_size is None else self.embedding_size

    @property
    def decoder_layers(self) -> int:
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers
