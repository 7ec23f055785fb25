"""What is learned from labelled examples: classes, numbers, tags, answers, choices, replies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Union

from lm.config.checks import at_least, check, share
from lm.config.data import DataConfig, Source
from lm.config.in_context import InContextRegression
from lm.config.model import POOLED_HEADS, HeadConfig, HeadKind, ModelConfig, PoolerConfig
from lm.config.objective import ObjectiveBase, TextObjective
from lm.errors import ConfigError, did_you_mean

# A number for each label, or by how often the training data has it.
ClassWeights = Union[tuple[float, ...], Literal["balanced"], None]


class Roles(NamedTuple):
    """Names of what an example has: what must be there, what may be, and the targets."""

    inputs: tuple[str, ...]
    optional: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class TaskBase(ObjectiveBase):
    """What every task says of itself: the names of what an example has (`INPUTS`, `OPTIONAL`, and
    `TARGETS`, which an example to be answered lacks), and the head that the model gets.

    The head is the model's own (`model.heads`), so that a classifier is converted, both ways, as
    any model is. A resolved config has it: the model of a config, or of a warm start, keeps its
    layers and its pooler, and gets this one head in the place of those of its pretraining.
    """

    INPUTS: ClassVar[tuple[str, ...]]
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    TARGETS: ClassVar[tuple[str, ...]]
    HEAD: ClassVar[HeadKind | None] = None

    @property
    def takes_examples(self) -> bool:
        return True

    @property
    def predicts_tokens(self) -> bool:
        return False

    @property
    def takes(self) -> Literal["texts", "text", "document"]:
        return "document"

    @property
    def num_outputs(self) -> int:
        """Numbers that the head gives."""
        return 1

    def roles(self, source: Source) -> Roles:
        """What is read of a source's examples."""
        return Roles(self.INPUTS, self.OPTIONAL, self.TARGETS)

    def model_for(self, model: ModelConfig) -> ModelConfig:
        """With the task's head alone. Where the model pools nothing yet, an encoder does it as BERT
        does, a decoder and XLNet take the last token, an encoder-decoder as BART does."""
        if self.HEAD is None or model.architecture not in self.ARCHITECTURES:
            return model
        pooled = self.HEAD in POOLED_HEADS
        # GPT-2's classifier of a sequence is the one without a bias.
        bias = not (pooled and model.architecture == "decoder")
        new = HeadConfig(kind=self.HEAD, num_labels=self.num_outputs, bias=bias)
        given = [head for head in model.heads if head.kind == self.HEAD]
        head = dataclasses.replace(given[0], num_labels=self.num_outputs) if given else new
        pooler = (model.pooler or _POOLERS[model.architecture]) if pooled else None
        return dataclasses.replace(
            model,
            lm_head="none",
            lm_head_bias=False,
            logit_scale=None,
            logit_softcap=None,
            heads=(head,),
            pooler=pooler,
        )

    def check_heads(self, model: ModelConfig) -> None:
        if self.HEAD is None:
            super().check_heads(model)
            return
        sizes = {head.kind: head.num_labels for head in model.heads}
        check(
            sizes.get(self.HEAD) == self.num_outputs,
            f"objective {self.name!r} needs a head of kind {self.HEAD!r} with "
            f"{self.num_outputs} outputs in model.heads",
        )

    def check_data(self, data: DataConfig) -> None:
        """Raises ConfigError where a source has no examples, or names what the task has not."""
        for split, sources in (("train", data.train), ("validation", data.validation)):
            for name, source in sources.items():
                self.check_source(source, f"data.{split}.{name}")
        check(
            data.packing == "none" or not data.train,
            f"objective {self.name!r} takes a row for an example: set data.packing='none', not "
            f"{data.packing!r}",
        )

    def check_source(self, source: Source, place: str) -> None:
        """Raises ConfigError where a source does not have examples of this task."""
        check(
            source.has_examples,
            f"objective {self.name!r} learns from examples, and {place} (kind {source.kind!r}) has "
            "documents: use kind 'examples', or 'tfds' with fields",
        )
        known = ("id", *self.INPUTS, *self.OPTIONAL, *self.TARGETS)
        for role in getattr(source, "fields", {}):
            check(
                role in known,
                f"{place}.fields: {role!r} is nothing that objective {self.name!r} reads"
                f"{did_you_mean(role, known)}",
            )
        form = getattr(source, "format", None)
        check(
            form != "squad" or self.INPUTS == QuestionAnswering.INPUTS,
            f"{place}: format='squad' has questions, which objective {self.name!r} does not read",
        )


_POOLERS = {
    "encoder": PoolerConfig(token="first", dense=True, activation="tanh"),
    "two_stream": PoolerConfig(token="last", dense=True, activation="tanh"),
    "decoder": PoolerConfig(token="last", dense=False, activation="none"),
    "encoder_decoder": PoolerConfig(token="last", dense=True, activation="tanh"),
}
_ALL = ("encoder", "decoder", "encoder_decoder", "two_stream")


def _check_labels(labels: tuple[str, ...], least: int) -> None:
    check(
        len(labels) >= least,
        f"labels must name at least {least}, as the data spells them; given: {len(labels)}",
    )
    twice = [label for label in labels if labels.count(label) > 1]
    check(not twice, f"labels has {twice[0]!r} twice" if twice else "")


def _check_weights(weights: ClassWeights, labels: tuple[str, ...]) -> None:
    check(
        not isinstance(weights, tuple) or (len(weights) == len(labels) and min(weights) > 0),
        f"class_weights needs a number above 0 for each of the {len(labels)} labels",
    )


def _rates(actual: float, found: float, hit: float) -> dict[str, float]:
    """Precision, recall and F1 from shares; 0 where there is nothing."""
    return {
        "precision": hit / found if found else 0.0,
        "recall": hit / actual if actual else 0.0,
        "f1": 2 * hit / (found + actual) if found + actual else 0.0,
    }


@dataclass(frozen=True)
class SequenceTask(TaskBase):
    """A task of one text, or of a pair of them.

    An encoder reads [CLS] text [SEP] text_pair [SEP] (or as the tokenizer's files say), with
    `separators` of them between (RoBERTa: 2); others read both with what data.add_bos and
    data.add_eos put before and after, and an eos between.
    """

    ARCHITECTURES: ClassVar[tuple[str, ...]] = _ALL
    INPUTS: ClassVar[tuple[str, ...]] = ("text",)
    OPTIONAL: ClassVar[tuple[str, ...]] = ("text_pair",)

    separators: int = 1

    def __post_init__(self) -> None:
        at_least(self, 1, "separators")


@dataclass(frozen=True)
class Classification(SequenceTask):
    """Which of the `labels` a text, or a pair, has; with `multi_label` any number of them.

    Examples: text, perhaps text_pair, and label: one of `labels` (numbers and truth values as JSON
    spells them), or for `multi_label` a list of them (in a table: with commas between).
    `class_weights` weighs the loss of examples by their label: a number for each, or "balanced",
    n / (L * n_label) by the training data; with `multi_label`, of each label's loss. Labels are
    smoothed and weighed while training; "loss" stays the plain cross-entropy.
    """

    TARGETS: ClassVar[tuple[str, ...]] = ("label",)
    HEAD: ClassVar[HeadKind | None] = "classification"

    labels: tuple[str, ...] = ()
    multi_label: bool = False
    class_weights: ClassWeights = None
    label_smoothing: float = 0.0
    kind: Literal["classification"] = "classification"

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self, "label_smoothing")
        _check_labels(self.labels, 1 if self.multi_label else 2)
        _check_weights(self.class_weights, self.labels)
        balanced = self.class_weights == "balanced"
        check(
            not self.multi_label or not (balanced or self.label_smoothing),
            'multi_label takes class_weights as numbers, and no "balanced" or label_smoothing',
        )

    @property
    def num_outputs(self) -> int:
        return len(self.labels)

    @property
    def counted(self) -> bool:
        """Whether the terms count what F1 needs: of the second of two labels, or of all labels
        together where there may be many. (Of one of several, that F1 is the accuracy.)"""
        return self.multi_label or len(self.labels) == 2

    def ratios(self, means: Mapping[str, float]) -> dict[str, float]:
        """Precision, recall, F1; of two labels also Matthews' correlation (0 where undefined)."""
        if not self.counted:
            return {}
        actual, found, hit = (means[name] for name in ("actual", "found", "hit"))
        result = _rates(actual, found, hit)
        if not self.multi_label:
            square = actual * found * (1 - actual) * (1 - found)
            result["matthews"] = (hit - actual * found) / math.sqrt(square) if square > 0 else 0.0
        return result


@dataclass(frozen=True)
class Regression(SequenceTask):
    """A number for a text, or for a pair; "loss" is the mean squared error.

    Examples: text, perhaps text_pair, and value.
    """

    TARGETS: ClassVar[tuple[str, ...]] = ("value",)
    HEAD: ClassVar[HeadKind | None] = "regression"

    kind: Literal["regression"] = "regression"

    def ratios(self, means: Mapping[str, float]) -> dict[str, float]:
        """Pearson's correlation; 0 where one of both does not vary."""
        x, y = means["mean_found"], means["mean_value"]
        of_x, of_y = means["square_found"] - x * x, means["square_value"] - y * y
        product = of_x * of_y
        covariance = means["product"] - x * y
        return {"pearson": covariance / math.sqrt(product) if min(of_x, of_y) > 0 else 0.0}


@dataclass(frozen=True)
class TokenClassification(TaskBase):
    """A tag for every word. Of a word's tokens the first carries the tag, and is weighed alone.

    Examples: words and tags, lists of as many (or strings with spaces between). Words are joined by
    spaces, and then tokenised. `outside`: the tag of nothing, which precision, recall and F1 (of
    words) leave out. `class_weights` weighs the loss of words by their tag while training: a number
    for each, or "balanced", as for classification.
    """

    ARCHITECTURES: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "two_stream")
    INPUTS: ClassVar[tuple[str, ...]] = ("words",)
    TARGETS: ClassVar[tuple[str, ...]] = ("tags",)
    HEAD: ClassVar[HeadKind | None] = "token_classification"

    labels: tuple[str, ...] = ()
    outside: str | None = None
    class_weights: ClassWeights = None
    kind: Literal["token_classification"] = "token_classification"

    def __post_init__(self) -> None:
        _check_labels(self.labels, 2)
        _check_weights(self.class_weights, self.labels)
        check(
            self.outside is None or self.outside in self.labels,
            f"outside={self.outside!r} is none of the labels"
            f"{did_you_mean(str(self.outside), self.labels)}",
        )

    @property
    def num_outputs(self) -> int:
        return len(self.labels)

    def ratios(self, means: Mapping[str, float]) -> dict[str, float]:
        if self.outside is None:
            return {}
        return _rates(means["actual"], means["found"], means["hit"])


@dataclass(frozen=True)
class QuestionAnswering(TaskBase):
    """The span of a context that answers a question (SQuAD; Devlin et al. 2019, section 4.2).

    Examples: question, context, and answers: a list of {text, answer_start} (in characters), or
    two lists under these names. The first answer is learned. A context that does not fit a row is
    read in windows that move on by `stride` tokens; in one without the answer, and where there is
    none at all (`unanswerable`), the span is the [CLS] token, or a decoder's eos at the end, which
    has seen everything (data.add_eos). A predicted answer has at most `max_answer_tokens`; a
    question may have `max_question_tokens` (data.too_long is about those that have more).
    """

    ARCHITECTURES: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "two_stream")
    INPUTS: ClassVar[tuple[str, ...]] = ("question", "context")
    TARGETS: ClassVar[tuple[str, ...]] = ("answers",)
    HEAD: ClassVar[HeadKind | None] = "span"

    stride: int = 128
    unanswerable: bool = False
    max_answer_tokens: int = 30
    max_question_tokens: int = 64
    separators: int = 1
    kind: Literal["question_answering"] = "question_answering"

    def __post_init__(self) -> None:
        at_least(self, 1, "stride", "max_answer_tokens", "max_question_tokens", "separators")

    @property
    def num_outputs(self) -> int:
        return 2

    def check_data(self, data: DataConfig) -> None:
        super().check_data(data)
        room = data.sequence_length - self.max_question_tokens
        check(
            room > 8,
            f"data.sequence_length={data.sequence_length} leaves no room for a context beside a "
            f"question of max_question_tokens={self.max_question_tokens}",
        )


@dataclass(frozen=True)
class MultipleChoice(TaskBase):
    """Which of several texts goes with a text (SWAG; Radford et al. 2018). Each choice is a row of
    its own with the text, as for a pair, and the likeliest wins.

    Examples: text, choices (a list of at most `choices`), and label: the number of the right one,
    from 0.
    """

    ARCHITECTURES: ClassVar[tuple[str, ...]] = _ALL
    INPUTS: ClassVar[tuple[str, ...]] = ("text", "choices")
    TARGETS: ClassVar[tuple[str, ...]] = ("label",)
    HEAD: ClassVar[HeadKind | None] = "multiple_choice"

    choices: int = 4
    separators: int = 1
    kind: Literal["multiple_choice"] = "multiple_choice"

    def __post_init__(self) -> None:
        at_least(self, 2, "choices")
        at_least(self, 1, "separators")


@dataclass(frozen=True)
class ChatTemplate:
    """How a conversation is written (the default is ChatML): `before` (in which "{role}" is the
    speaker's role, by the names that `roles` has for it), the content, `after`, and `between`.

    A marker that the tokenizer has as a special token is that token; a content never is. An answer
    is learned to the end of its `after`, and of the eos that data.add_eos puts there.
    """

    before: str = "<|im_start|>{role}\n"
    after: str = "<|im_end|>"
    between: str = "\n"
    roles: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check("{role}" in self.before, f'before must have "{{role}}" in it, not {self.before!r}')


@dataclass(frozen=True)
class Instruction(TaskBase):
    """Dialogue and instructions: the answers of a conversation are learned, token by token, and
    what the others say is read (Ouyang et al. 2022, the supervised step).

    Examples: messages, a list of {role, content} (roles "system", "user", "assistant"); or prompt
    and response, perhaps after system. "assistant" is who answers. `label_smoothing` and
    `chunk_tokens` as for causal_lm.
    """

    ARCHITECTURES: ClassVar[tuple[str, ...]] = ("decoder",)
    INPUTS: ClassVar[tuple[str, ...]] = ("messages",)
    OPTIONAL: ClassVar[tuple[str, ...]] = ("prompt", "system")
    TARGETS: ClassVar[tuple[str, ...]] = ("response",)

    template: ChatTemplate = ChatTemplate()
    label_smoothing: float = 0.0
    chunk_tokens: int | None = None
    kind: Literal["instruction"] = "instruction"

    def __post_init__(self) -> None:
        share(self, "label_smoothing")
        at_least(self, 0, "chunk_tokens")

    @property
    def predicts_tokens(self) -> bool:
        return True

    def roles(self, source: Source) -> Roles:
        if "prompt" in getattr(source, "fields", {}):
            return Roles(("prompt",), ("system",), ("response",))
        # What is learned is among the messages.
        return Roles(("messages",), (), ())

    def check_source(self, source: Source, place: str) -> None:
        super().check_source(source, place)
        fields = getattr(source, "fields", {})
        if ("prompt" in fields) != ("response" in fields):
            raise ConfigError(f"{place}.fields: prompt and response go together")


TaskConfig = Union[
    Classification,
    Regression,
    TokenClassification,
    QuestionAnswering,
    MultipleChoice,
    Instruction,
]
ObjectiveConfig = Union[TextObjective, TaskConfig, InContextRegression]
