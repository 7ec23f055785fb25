"""Which class of the reference a model is, and its heads: of encoders, and of encoders with
decoders."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lm.config import HeadConfig, HeadKind, ModelConfig, PoolerConfig
from lm.convert.families.common import (
    CONFIG,
    ONE_LABEL,
    SEVERAL_LABELS,
    architecture,
    label_values,
    linear,
    num_labels,
)
from lm.convert.layout import Plan, Rule
from lm.errors import ConfigError, UserError

FIRST_TANH = PoolerConfig(token="first", dense=True, activation="tanh")
LAST_TANH = PoolerConfig(token="last", dense=True, activation="tanh")


@dataclass(frozen=True)
class Head:
    """A head of the reference: `suffix` of the class that has it, names of its modules.

    `pooler` is its own way to one vector a sequence, with the projection `pooler_tensor`; in that
    name "{}" is the base model's prefix. A head of kind "classification" may turn out as
    "regression": that is another `problem_type` to the reference. `dropout`: whether
    `DropoutConfig.head` stands before it.
    """

    kind: HeadKind
    suffix: str
    tensor: str
    pooler: PoolerConfig | None = None
    pooler_tensor: str = ""
    transform: str = ""
    dropout: bool = True


@dataclass(frozen=True)
class Classes:
    """A family's classes: `stem` + suffix.

    `language`: suffix of the one with a language-model head; `language_tensor`: a tensor of that
    head where it has any that is not tied. `pretraining`: suffix of the one that has both
    that head and `pretraining_head`. `pooler_tensor`: the base model's pooler, where it has one.
    """

    stems: tuple[str, ...]
    language: str
    heads: tuple[Head, ...]
    language_tensor: str = ""
    pretraining: str = ""
    pretraining_head: HeadKind | None = None
    pooler_tensor: str = ""

    @property
    def suffixes(self) -> list[str]:
        pretraining = [self.pretraining] if self.pretraining else []
        own = [head.suffix for head in self.heads]
        return list(dict.fromkeys(["Model", self.language, *pretraining, *own]))

    def head(self, model: ModelConfig) -> Head | None:
        """The reference's head of a model. Raises ConfigError where it has no such one."""
        if not model.heads:
            return None
        kinds = [_kind(head.kind) for head in model.heads]
        found = [head for head in self.heads if head.kind in kinds]
        if len(kinds) > 1 or not found:
            wanted = ", ".join(head.kind for head in model.heads)
            known = ", ".join(head.kind for head in self.heads)
            raise ConfigError(
                f"{self.stems[0]} cannot express heads: {wanted}; it can, one at a time: {known}"
            )
        return found[0]


class Found(NamedTuple):
    """What a checkpoint's class and tensors say about its heads."""

    language: bool
    head: Head | None
    config: HeadConfig | None
    pooler: PoolerConfig | None

    @property
    def heads(self) -> tuple[HeadConfig, ...]:
        return () if self.config is None else (self.config,)


def _kind(kind: HeadKind) -> HeadKind:
    return "classification" if kind == "regression" else kind


def read_heads(values: Mapping[str, Any], names: Collection[str], classes: Classes) -> Found:
    """The heads of a checkpoint, from its tensors where they are known, else from its class.

    Raises:
      UserError: a class that is not supported, or tensors that fit several and no class.
    """
    suffix = _suffix(values, classes)
    head = _head_by_tensors(suffix, names, classes) or _head_by_class(suffix, classes)
    # What the class should have and the file lacks is then missed by name.
    language = suffix in (classes.language, classes.pretraining)
    if suffix is None and not (names and classes.language_tensor):
        language = head is None
    language = language or (bool(classes.language_tensor) and classes.language_tensor in names)
    pooler = head.pooler if head is not None else None
    if pooler is None and classes.pooler_tensor:
        if names:
            there = any(name.endswith(f"{classes.pooler_tensor}.weight") for name in names)
        else:
            there = suffix == "Model"
        pooler = FIRST_TANH if there else None
    return Found(language, head, None if head is None else _head_config(values, head), pooler)


def _suffix(values: Mapping[str, Any], classes: Classes) -> str | None:
    """What the class's name says besides the family: one of `classes.suffixes`."""
    name = architecture(values)
    if name is None:
        return None
    for stem in classes.stems:
        if name.removeprefix(stem) in classes.suffixes and name.startswith(stem):
            return name.removeprefix(stem)
    supported = ", ".join(f"{classes.stems[0]}{suffix}" for suffix in classes.suffixes)
    raise UserError(f"{CONFIG}: architectures={name!r} is not supported; supported: {supported}")


def _head_by_class(suffix: str | None, classes: Classes) -> Head | None:
    for head in classes.heads:
        if head.suffix == suffix:
            return head
        if suffix == classes.pretraining and head.kind == classes.pretraining_head:
            return head
    return None


def _head_by_tensors(suffix: str | None, names: Collection[str], classes: Classes) -> Head | None:
    found = [head for head in classes.heads if f"{head.tensor}.weight" in names]
    for head in found:
        if head.suffix == suffix or len(found) == 1:
            return head
    if found:
        could_be = ", ".join(f"{classes.stems[0]}{head.suffix}" for head in found)
        raise UserError(
            f"the tensor {found[0].tensor}.weight can be of several classes: say which in "
            f"{CONFIG}: architectures, one of {could_be}"
        )
    return None


def _head_config(values: Mapping[str, Any], head: Head) -> HeadConfig:
    transform = bool(head.transform)
    if head.kind not in ("classification", "token_classification"):
        fixed = 1 if head.kind in ("multiple_choice", "replaced_token") else 2
        return HeadConfig(kind=head.kind, num_labels=fixed, transform=transform)
    labels = num_labels(values)
    kind: HeadKind = head.kind
    if kind == "classification":
        problem = values.get("problem_type")
        # Where the config does not say, one label means regression to the reference.
        if problem == "regression" or (problem is None and labels == 1):
            kind = "regression"
        elif problem not in (None, ONE_LABEL, SEVERAL_LABELS):
            raise UserError(
                f"{CONFIG}: problem_type={problem!r} is not supported; supported: "
                f"{ONE_LABEL}, {SEVERAL_LABELS}, regression"
            )
    return HeadConfig(kind=kind, num_labels=labels, transform=transform)


def write_heads(model: ModelConfig, classes: Classes) -> dict[str, Any]:
    """`architectures` and what else the class needs to have these heads.

    Raises:
      ConfigError: no class of the family has them.
    """
    head = classes.head(model)
    suffix = head.suffix if head else "Model"
    if model.lm_head != "none":
        if head is None:
            suffix = classes.language
        elif head.kind == classes.pretraining_head:
            suffix = classes.pretraining
        else:
            raise ConfigError(
                f"{classes.stems[0]} cannot express a {head.kind} head beside lm_head="
                f'{model.lm_head!r}: it has a class for each; set lm_head="none"'
            )
    values: dict[str, Any] = {"architectures": [f"{classes.stems[0]}{suffix}"]}
    if head is not None and head.kind in ("classification", "token_classification"):
        values |= label_values(model.heads[0].num_labels)
        if head.kind == "classification":
            regression = model.heads[0].kind == "regression"
            values["problem_type"] = "regression" if regression else ONE_LABEL
    return values


def head_rules(model: ModelConfig, classes: Classes, prefix: str) -> list[Rule]:
    """The tensors of the heads besides the language-model head, and of the pooler."""
    head, rules = classes.head(model), []
    if model.pooler is not None and model.pooler.dense:
        own = head.pooler_tensor if head is not None else ""
        tensor = own.format(prefix) or f"{prefix}{classes.pooler_tensor}"
        rules += linear(tensor, "pooler")
    if head is not None:
        kind = model.heads[0].kind
        if head.transform:
            rules += linear(head.transform, f"{kind}_transform")
        rules += linear(head.tensor, kind)
    return rules


def names_of(plan: Plan) -> list[str]:
    """The tensors that a plan writes."""
    return [rule.reference for rule in plan.rules]


def first_there(names: Collection[str] | None, candidates: tuple[str, ...]) -> str:
    """The first candidate among the names; the first of all where none is, or none are known."""
    return next((name for name in candidates if names and name in names), candidates[0])
