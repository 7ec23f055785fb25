"""Ways of learning besides all parameters to the end: adapters, stopping early, folds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from lm.config.checks import at_least, check, positive, share
from lm.config.model import HeadKind
from lm.errors import ConfigError

# Heads, of which a task's are new to a pretrained model, and the pooler before them.
HEADS = rf"(.*/)?(pooler|({'|'.join(get_args(HeadKind))})(_transform)?)/.*"


def check_pattern(name: str, pattern: str) -> None:
    """Raises ConfigError where `pattern` is not a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        message = f"{name} {pattern!r} is not a regular expression: {error}"
        raise ConfigError(message) from None


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (Hu et al. 2021): of every projection W whose path
    (`layer_0/attention/query`) `targets` matches (re.fullmatch), W + alpha / rank * A B is used,
    and A and B are trained in the place of W. With `rank_stabilised` the factor is
    alpha / sqrt(rank) (Kalajdzievski 2023). `dropout` is on what A reads.

    All other parameters are frozen, but for those whose path `trained` matches: by default a
    task's head, and the pooler before it. Adapters are parameters `.../lora_a/kernel` and
    `.../lora_b/kernel` to optimizer.rules, whose frozen parameters stay so. Checkpoints hold the
    frozen parameters too: a run depends on its own folder alone.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: str = r".*/(query|value)"
    dropout: float = 0.0
    rank_stabilised: bool = False
    trained: str = HEADS

    def __post_init__(self) -> None:
        at_least(self, 1, "rank")
        positive(self, "alpha")
        share(self, "dropout")
        check_pattern("targets", self.targets)
        check_pattern("trained", self.trained)

    @property
    def scale(self) -> float:
        """The factor of A B."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)


@dataclass(frozen=True)
class EarlyStopping:
    """Training ends once `patience` evaluations in a row have not brought `metric` below its best
    (`mode` "max": above it) by more than `min_delta`. `split` of None is the first of
    data.validation. The best checkpoint is saved at its evaluation, and kept."""

    metric: str = "loss"
    mode: Literal["min", "max"] = "min"
    patience: int = 3
    min_delta: float = 0.0
    split: str | None = None

    def __post_init__(self) -> None:
        at_least(self, 1, "patience")
        at_least(self, 0, "min_delta")


@dataclass(frozen=True)
class Fold:
    """Cross-validation: of `of` parts of the training examples, equal to one example and without
    any in common, number `index` (from 0) is held out. Of a classification each part has the same
    number of examples of every label, but for one. `seed` draws another division: the run's own
    seed does not. Of a source, `held_out` is the part, and without it the rest.
    """

    index: int
    of: int
    seed: int = 0
    held_out: bool = False

    def __post_init__(self) -> None:
        at_least(self, 2, "of")
        check(
            0 <= self.index < self.of,
            f"index must be one of the folds 0 to {self.of - 1}, not {self.index}",
        )
        check(0 <= self.seed < 2**32, f"seed must be in [0, 2^32), not {self.seed}")
