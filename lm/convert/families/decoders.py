"""What the families of decoders share: which class of the reference a model is, and its heads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from lm.config import HeadConfig, HeadKind, ModelConfig, PoolerConfig
from lm.convert.families.common import (
    ONE_LABEL,
    SEVERAL_LABELS,
    architecture,
    label_values,
    linear,
    num_labels,
    number,
)
from lm.convert.layout import Rule
from lm.errors import ConfigError, UserError

# A classifier reads the hidden state of the last token that is not padding.
LAST_TOKEN = PoolerConfig(token="last", dense=False, activation="none")
PROBLEMS = {"classification": ONE_LABEL, "regression": "regression"}
LABELLED = (*PROBLEMS, "token_classification")


@dataclass(frozen=True)
class Classes:
    """The names of a family's classes: hidden states, next-token logits, and a head in their place.

    `heads`: kind -> (class, the head's module, whether it has a bias). Regression is classification
    with another `problem_type`.
    """

    base: str
    causal: str
    heads: Mapping[str, tuple[str, str, bool]] = field(default_factory=dict)

    def head(self, kind: str) -> tuple[str, str, bool]:
        """Raises KeyError for a kind that the family has no class for."""
        return self.heads["classification" if kind == "regression" else kind]

    @property
    def names(self) -> list[str]:
        return [self.base, self.causal, *(name for name, _, _ in self.heads.values())]


def read_heads(values: Mapping[str, Any], names: Collection[str], classes: Classes) -> dict:
    """`ModelConfig`'s lm_head, pooler and heads, from `architectures` and the tensors' names.

    Raises:
      UserError: a class that is not supported.
    """
    name = architecture(values)
    if name is not None and name not in classes.names:
        raise UserError(
            f"config.json: architectures={name!r} is not supported; supported: "
            f"{', '.join(classes.names)}"
        )
    if name is None or name == classes.base:
        name = _class_by_tensors(name, names, classes)
    for kind, (head, _, bias) in classes.heads.items():
        if head == name:
            return _one_head(values, kind, bias)
    return {"lm_head": "linear" if name == classes.causal else "none"}


def _class_by_tensors(name: str | None, names: Collection[str], classes: Classes) -> str:
    if "lm_head.weight" in names:
        return classes.causal
    for head, tensor, _ in classes.heads.values():
        if f"{tensor}.weight" in names:
            return head
    return classes.causal if name is None else name


def _one_head(values: Mapping[str, Any], kind: str, bias: bool) -> dict:
    labels = num_labels(values) if kind in LABELLED else 2
    if kind == "classification":
        problem = values.get("problem_type")
        # Where the config does not say, one label means regression to the reference.
        if problem == "regression" or (problem is None and labels == 1):
            kind = "regression"
        elif problem not in (None, ONE_LABEL, SEVERAL_LABELS):
            raise UserError(
                f"config.json: problem_type={problem!r} is not supported; supported: "
                f"{', '.join((*PROBLEMS.values(), SEVERAL_LABELS))}"
            )
    head = HeadConfig(kind=cast(HeadKind, kind), num_labels=labels, bias=bias)
    pooler = LAST_TOKEN if kind in PROBLEMS else None
    return {"lm_head": "none", "heads": (head,), "pooler": pooler}


def head_dropout(values: Mapping[str, Any], names: Collection[str], classes: Classes) -> float:
    """The dropout rate before a token classifier, the only head that has one."""
    heads = read_heads(values, names, classes).get("heads", ())
    tokens = any(head.kind == "token_classification" for head in heads)
    return number(values, "classifier_dropout", 0.1) if tokens else 0.0


def write_heads(name: str, model: ModelConfig, classes: Classes) -> dict[str, Any]:
    """The keys that `read_heads` reads. Raises ConfigError for heads no class of the family has."""
    tied = {"tie_word_embeddings": model.tie_embeddings}
    if not model.heads:
        return {"architectures": [model_class(model, classes)], **tied}
    kinds = [head.kind for head in model.heads]
    known = [*classes.heads, *(["regression"] if "classification" in classes.heads else [])]
    if len(kinds) > 1 or model.lm_head != "none" or kinds[0] not in known:
        beside = "" if model.lm_head == "none" else f" beside lm_head={model.lm_head!r}"
        raise ConfigError(
            f"{name} cannot express heads of kind {', '.join(kinds)}{beside}; it has one head in "
            f"the place of the language model's, of kind {', '.join(known)}"
        )
    values: dict[str, Any] = {"architectures": [model_class(model, classes)], **tied}
    if kinds[0] in LABELLED:
        values |= label_values(model.heads[0].num_labels)
    if kinds[0] in PROBLEMS:
        values["problem_type"] = PROBLEMS[kinds[0]]
    if kinds[0] == "token_classification":
        values["classifier_dropout"] = model.dropout.head
    return values


def model_class(model: ModelConfig, classes: Classes) -> str:
    """The reference's class that has a model's heads."""
    if model.heads:
        return classes.head(model.heads[0].kind)[0]
    return classes.base if model.lm_head == "none" else classes.causal


def head_rules(model: ModelConfig, classes: Classes) -> list[Rule]:
    """The language model's head, where it has weights of its own, or the one in its place."""
    if model.lm_head != "none" and not model.tie_embeddings:
        return linear("lm_head", "lm_head", bias=False)
    return [
        rule
        for head in model.heads
        for rule in linear(classes.head(head.kind)[1], head.kind, head.bias)
    ]


def tied_head(model: ModelConfig, embedding: str) -> dict[str, str]:
    """The duplicate that a checkpoint may have of a tied embedding."""
    tied = model.lm_head != "none" and model.tie_embeddings
    return {"lm_head.weight": embedding} if tied else {}
