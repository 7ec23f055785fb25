"""What is learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Union

from lm.config.checks import at_least, check, positive, share
from lm.config.data import DataConfig
from lm.config.model import ModelConfig


@dataclass(frozen=True)
class ObjectiveBase:
    """What every objective says of itself: which architectures it trains, and the path of the
    model to use among the parameters (ELECTRA's discriminator)."""

    ARCHITECTURES: ClassVar[tuple[str, ...]]
    MODEL: ClassVar[tuple[str, ...]] = ()

    @property
    def predicts_tokens(self) -> bool:
        """Whether "loss" is a cross-entropy of tokens, in nats."""
        return True

    @property
    def takes_pairs(self) -> bool:
        """Whether a row is a document and its target."""
        return False

    @property
    def packs_pairs(self) -> bool:
        """Whether a row may hold several pairs, kept apart (data.packing "first_fit")."""
        return False

    @property
    def takes_examples(self) -> bool:
        """Whether it learns from examples of a task, labelled mostly, not from documents."""
        return False

    @property
    def takes(self) -> Literal["texts", "text", "document"]:
        """What a row may hold: several texts, kept apart; one, be it of several documents; or one
        document (or a part of it)."""
        return "text"

    @property
    def name(self) -> str:
        return str(getattr(self, "kind", type(self).__name__))

    def ratios(self, means: Mapping[str, float]) -> dict[str, float]:
        """Metrics that are ratios of the terms' means over a whole split."""
        return {}

    def model_for(self, model: ModelConfig) -> ModelConfig:
        """The model that is trained, of the one in the config: a task's has the task's head. The
        model of a resolved config stays as it is."""
        return model

    def check_model(self, model: ModelConfig) -> None:
        """Raises ConfigError where the objective cannot train this model."""
        check(
            model.architecture in self.ARCHITECTURES,
            f"objective {self.name!r} trains {' or '.join(self.ARCHITECTURES)}, and "
            f"model.architecture is {model.architecture!r}",
        )
        self.check_heads(model)

    def check_heads(self, model: ModelConfig) -> None:
        """Raises ConfigError where the model lacks a head that the objective needs."""
        check(
            model.lm_head != "none",
            f'objective {self.name!r} needs a language-model head: model.lm_head is "none"',
        )

    def check_data(self, data: DataConfig) -> None:
        """Raises ConfigError where sources have no targets and the objective needs them, or the
        other way round, and where rows hold what it does not take."""
        for split, sources in (("train", data.train), ("validation", data.validation)):
            for name, source in sources.items():
                place = f"data.{split}.{name} (kind {source.kind!r})"
                check(
                    not source.has_examples,
                    f"{place} has examples of a task, and objective {self.name!r} learns from "
                    "documents: use a source of kind 'text', 'jsonl' or 'tsv'",
                )
                check(
                    source.has_target or not self.takes_pairs,
                    f"objective {self.name!r} needs pairs of texts, and {place} has no targets: "
                    "set target_paths (text), target_field (jsonl) or target_column (tsv)",
                )
                check(
                    self.takes_pairs or not source.has_target,
                    f"{place} has targets, which objective {self.name!r} would not read: leave "
                    'them out, or use "sequence_to_sequence" or "masked_lm" with '
                    'pairs="translation"',
                )
        check(
            self.takes_pairs or data.too_long == "error",
            f"data.too_long={data.too_long!r} is for pairs of texts, which objective "
            f"{self.name!r} does not take: leave it out",
        )
        if self.takes_pairs or self.takes == "document":
            what = "pair" if self.takes_pairs else "document"
            check(
                data.packing == "none" or (self.packs_pairs and data.packing == "first_fit"),
                f"objective {self.name!r} takes a row for a {what}: set data.packing='none', not "
                f"{data.packing!r}",
            )
        check(
            self.takes != "text"
            or self.packs_pairs
            or data.packing == "none"
            or (data.packing == "stream" and not data.segments),
            f"objective {self.name!r} takes a row for one text, and data puts several, apart from "
            "each other, into one: set data.packing='none', or 'stream' with data.segments=False",
        )


@dataclass(frozen=True)
class CausalLM(ObjectiveBase):
    """Predict the next token.

    `label_smoothing` as in Szegedy et al. 2016; `z_loss` is the coefficient of log(Z)^2 (PaLM).
    `chunk_tokens`: logits are made for that many tokens at a time; None chooses by the size of
    the vocabulary, 0 never splits.
    """

    ARCHITECTURES: ClassVar[tuple[str, ...]] = ("decoder",)

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    chunk_tokens: int | None = None
    kind: Literal["causal_lm"] = "causal_lm"

    def __post_init__(self) -> None:
        share(self, "label_smoothing")
        at_least(self, 0, "z_loss", "chunk_tokens")

    @property
    def takes(self) -> Literal["texts", "text", "document"]:
        return "texts"


@dataclass(frozen=True)
class Masking(ObjectiveBase):
    """Which tokens are masked, and how: see `lm.data.corruption.masking.mask_tokens`.

    `chinese_words`: words of several characters are found by a segmenter (extra `chinese`).
    `wrap` puts the tokenizer's bos and eos ([CLS] and [SEP]) around every row, which then has two
    tokens of text fewer (RoBERTa); without it they stand where data.add_bos and add_eos put them.
    """

    rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    selection: Literal["tokens", "whole_words", "spans"] = "tokens"
    exact: bool = True
    max_predictions: int | None = None
    chinese_words: bool = False
    wrap: bool = False

    def __post_init__(self) -> None:
        check(0 < self.rate <= 1, f"rate must be in (0, 1], not {self.rate}")
        for name in ("mask_share", "random_share"):
            value = getattr(self, name)
            check(0 <= value <= 1, f"{name} must be in [0, 1], not {value}")
        at_least(self, 1, "max_predictions")
        check(
            self.mask_share + self.random_share <= 1 + 1e-9,
            f"mask_share={self.mask_share} and random_share={self.random_share} are more than all",
        )
        check(
            not self.chinese_words or self.selection != "tokens",
            'chinese_words needs selection="whole_words" or "spans"',
        )

    @property
    def takes(self) -> Literal["texts", "text", "document"]:
        return "text" if self.wrap else "texts"


@dataclass(frozen=True)
class MaskedLM(Masking):
    """Predict masked tokens (BERT; RoBERTa with pairs="none").

    `pairs`: rows are [CLS] A [SEP] B [SEP] of one document, and the next_sentence head says whether
    B follows A (BERT), or whether they are in order (ALBERT's "sentence_order"). "translation": a
    row is a document and its target, masked both, so that one can help with the other; positions
    begin again with the target, and its token_types, the paper's languages, are 1 (Conneau &
    Lample 2019, section 3.3; with data.add_bos and add_eos around either text, as there).
    """

    ARCHITECTURES: ClassVar[tuple[str, ...]] = ("encoder",)

    pairs: Literal["none", "next_sentence", "sentence_order", "translation"] = "none"
    kind: Literal["masked_lm"] = "masked_lm"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.pairs == "none" or not self.wrap, "wrap is for rows without pairs")

    @property
    def takes_pairs(self) -> bool:
        return self.pairs == "translation"

    @property
    def takes(self) -> Literal["texts", "text", "document"]:
        return "document" if self.classifies_pairs else super().takes

    @property
    def classifies_pairs(self) -> bool:
        """Whether a head says how the two segments of a row belong together."""
        return self.pairs in ("next_sentence", "sentence_order")

    def check_heads(self, model: ModelConfig) -> None:
        super().check_heads(model)
        if self.pairs == "none":
            return
        check(
            not self.classifies_pairs or any(h.kind == "next_sentence" for h in model.heads),
            f"objective pairs={self.pairs!r} needs a head of kind 'next_sentence' in model.heads",
        )
        check(model.token_types >= 2, f"objective pairs={self.pairs!r} needs model.token_types=2")


@dataclass(frozen=True)
class ReplacedTokens(Masking):
    """ELECTRA (Clark et al. 2020): a small generator fills masked places, and the model says of
    every token whether it was replaced.

    `coefficient` is the paper's lambda, of the model's loss; the generator's counts once.
    `share_embeddings`: the generator uses the model's tables of tokens, positions and types.
    `task`: "replaced" is ELECTRA; "original" predicts the original tokens at the masked places from
    the generator's (the paper's Replace MLM), "all_originals" at every place (All-Tokens MLM).
    """

    ARCHITECTURES: ClassVar[tuple[str, ...]] = ("encoder",)
    MODEL: ClassVar[tuple[str, ...]] = ("discriminator",)

    generator: ModelConfig | None = None
    mask_share: float = 0.85
    random_share: float = 0.0
    coefficient: float = 50.0
    temperature: float = 1.0
    share_embeddings: bool = True
    task: Literal["replaced", "original", "all_originals"] = "replaced"
    kind: Literal["replaced_tokens"] = "replaced_tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "coefficient", "temperature")
        check(self.generator is not None, "replaced_tokens needs a generator (a model)")

    @property
    def predicts_tokens(self) -> bool:
        return self.task != "replaced"

    def ratios(self, means: Mapping[str, float]) -> dict[str, float]:
        """Precision, recall and F1 of finding what was replaced; 0 where nothing was found."""
        if self.task != "replaced":
            return {}
        replaced, found, detected = (means[name] for name in ("replaced", "found", "detected"))
        return {
            "precision": detected / found if found else 0.0,
            "recall": detected / replaced if replaced else 0.0,
            "f1": 2 * detected / (found + replaced) if found + replaced else 0.0,
        }

    def check_heads(self, model: ModelConfig) -> None:
        if self.task == "replaced":
            check(
                any(head.kind == "replaced_token" for head in model.heads),
                "objective 'replaced_tokens' needs a head of kind 'replaced_token' in model.heads",
            )
        else:
            super().check_heads(model)
        generator = self.generator
        assert generator is not None
        check(
            generator.architecture == "encoder" and generator.lm_head != "none",
            "objective.generator must be an encoder with a language-model head",
        )
        check(
            generator.vocab_size == model.vocab_size,
            f"objective.generator.vocab_size={generator.vocab_size} is not the model's "
            f"{model.vocab_size}",
        )
        if self.share_embeddings:
            for name in ("width_of_embedding", "position", "token_types"):
                one, other = getattr(generator, name), getattr(model, name)
                check(
                    one == other,
                    f"share_embeddings: the generator's {name} is {one}, the model's {other}",
                )


@dataclass(frozen=True)
class SourceToTarget(ObjectiveBase):
    """What objectives with a source and a target share: `label_smoothing` while training."""

    ARCHITECTURES: ClassVar[tuple[str, ...]] = ("encoder_decoder",)

    label_smoothing: float = 0.0
    chunk_tokens: int | None = None

    def __post_init__(self) -> None:
        share(self, "label_smoothing")
        at_least(self, 0, "chunk_tokens")


@dataclass(frozen=True)
class SpanCorruption(SourceToTarget):
    """T5 (Raffel et al. 2020): spans of `mean_length` tokens, `density` of the text, are replaced
    by sentinels, and the target says what they were. A source has data.sequence_length tokens."""

    density: float = 0.15
    mean_length: float = 3.0
    kind: Literal["span_corruption"] = "span_corruption"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.density < 1, f"density must be in (0, 1), not {self.density}")
        check(self.mean_length >= 1, f"mean_length must be at least 1, not {self.mean_length}")


@dataclass(frozen=True)
class MixtureOfDenoisers(SourceToTarget):
    """UL2 (Tay et al. 2022): every row is given to one of seven denoisers. `mode_tokens`: sources
    begin with a token that says of which kind, taken from the end of the vocabulary."""

    mode_tokens: bool = True
    kind: Literal["mixture_of_denoisers"] = "mixture_of_denoisers"


@dataclass(frozen=True)
class Denoising(SourceToTarget):
    """BART (Lewis et al. 2020): the text is to be restored. Noises, in this order; the defaults are
    the paper's final recipe (section 5.1).

    permute_sentences, rotate: of a row's sentences, and of its tokens.
    infill: the share of text that becomes spans, each a single mask token, of lengths
      Poisson(`mean_length`), in words (`whole_words`, as the released code's) or in tokens.
    delete, mask: the shares of tokens that are left out, and that each become a mask token.
    """

    permute_sentences: bool = True
    rotate: bool = False
    infill: float = 0.3
    mean_length: float = 3.0
    whole_words: bool = True
    delete: float = 0.0
    mask: float = 0.0
    kind: Literal["denoising"] = "denoising"

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self, "infill", "delete", "mask")
        check(self.mean_length >= 1, f"mean_length must be at least 1, not {self.mean_length}")


@dataclass(frozen=True)
class PrefixLM(SourceToTarget):
    """A text is continued from a prefix of any length, which sees itself both ways (Raffel et al.
    2020, section 3.2): by a decoder, or by an encoder-decoder."""

    ARCHITECTURES: ClassVar[tuple[str, ...]] = ("decoder", "encoder_decoder")

    kind: Literal["prefix_lm"] = "prefix_lm"


@dataclass(frozen=True)
class SequenceToSequence(SourceToTarget):
    """Write the target of a document, given the document: translation, summaries.

    An encoder-decoder reads sources of at most data.sequence_length tokens and writes at most
    `target_length` (None: as many); to a decoder the source is a prefix that sees itself both ways,
    in one row with the target. Both are as data.add_bos and add_eos make them. With data.packing
    "first_fit" an encoder-decoder's rows hold as many pairs as there is room for; each sees itself.
    """

    ARCHITECTURES: ClassVar[tuple[str, ...]] = ("encoder_decoder", "decoder")

    target_length: int | None = None
    kind: Literal["sequence_to_sequence"] = "sequence_to_sequence"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "target_length")

    @property
    def takes_pairs(self) -> bool:
        return True

    @property
    def packs_pairs(self) -> bool:
        return True

    def check_model(self, model: ModelConfig) -> None:
        super().check_model(model)
        check(
            self.target_length is None or model.architecture == "encoder_decoder",
            "objective.target_length is an encoder-decoder's: a decoder has source and target in "
            "one row of data.sequence_length",
        )

    def check_data(self, data: DataConfig) -> None:
        super().check_data(data)
        check(
            data.add_eos or not data.train,
            f"objective {self.name!r} needs data.add_eos=True: a target without an end is never "
            "finished, and a decoder would not see where the source ends",
        )


@dataclass(frozen=True)
class PermutationLM(ObjectiveBase):
    """XLNet (Yang et al. 2019): tokens are predicted in a random order, the last of it only
    (`num_predict` of a row). See `lm.data.corruption.permutation.permute`.

    The data's own order of documents is kept within a row; memory from row to row is not used in
    training here, `reuse_length` only keeps that part of a row to itself.
    """

    ARCHITECTURES: ClassVar[tuple[str, ...]] = ("two_stream",)

    num_predict: int = 85
    alpha: int = 6
    beta: int = 1
    max_gram: int = 5
    reuse_length: int = 0
    perm_size: int | None = None
    kind: Literal["permutation_lm"] = "permutation_lm"

    def __post_init__(self) -> None:
        at_least(self, 1, "num_predict", "alpha", "beta", "max_gram", "perm_size")
        at_least(self, 0, "reuse_length")


# What learns from documents, or from pairs of them; with the tasks: lm.config.tasks.
TextObjective = Union[
    CausalLM,
    MaskedLM,
    ReplacedTokens,
    SpanCorruption,
    MixtureOfDenoisers,
    Denoising,
    PrefixLM,
    SequenceToSequence,
    PermutationLM,
]
