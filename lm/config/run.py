"""How it is learned, for how long and where; and `Config`, a whole run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, Union

from lm.config.checks import at_least, check, positive, share
from lm.config.data import DataConfig
from lm.config.methods import EarlyStopping, LoRA, check_pattern
from lm.config.model import ModelConfig
from lm.config.objective import CausalLM
from lm.config.tasks import ObjectiveConfig
from lm.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Duration:
    """A length of training: exactly one of steps, epochs (of the training data) or tokens."""

    steps: int | None = None
    epochs: float | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        given = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) is not None]
        if len(given) != 1:
            what = "none" if not given else " and ".join(given) + "; set the others to None"
            raise ConfigError(
                f"a duration takes exactly one of steps, epochs, tokens; given: {what}"
            )
        if getattr(self, given[0]) < 0:
            raise ConfigError(
                f"a duration cannot be negative: {given[0]}={getattr(self, given[0])}"
            )

    def in_steps(self, *, tokens_per_step: int, steps_per_epoch: float) -> int:
        """Whole optimiser steps; a part of a step counts as one."""
        if self.steps is not None:
            return self.steps
        if self.tokens is not None:
            return -(-self.tokens // tokens_per_step)
        assert self.epochs is not None
        exact = self.epochs * steps_per_epoch
        return int(exact) + (exact > int(exact))


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over time, as a factor of the peak; linear warm-up from 0 first."""

    warmup: Duration = Duration(steps=0)

    def __post_init__(self) -> None:
        final = getattr(self, "final", 0.0)
        check(0 <= final <= 1, f"final must be in [0, 1], a part of the peak, not {final}")


@dataclass(frozen=True)
class Constant(ScheduleConfig):
    """The peak from the end of the warm-up on."""

    kind: Literal["constant"] = "constant"


@dataclass(frozen=True)
class Linear(ScheduleConfig):
    """Linear decay to `final` times the peak at the end of training."""

    final: float = 0.0
    kind: Literal["linear"] = "linear"


@dataclass(frozen=True)
class Cosine(ScheduleConfig):
    """Half a cosine (Loshchilov & Hutter 2017) to `final` times the peak at the end of training."""

    final: float = 0.1
    kind: Literal["cosine"] = "cosine"


@dataclass(frozen=True)
class InverseSqrt(ScheduleConfig):
    """sqrt(warmup / step) after the warm-up (Vaswani et al. 2017, equation 3)."""

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"


@dataclass(frozen=True)
class WarmupStableDecay(ScheduleConfig):
    """The peak until `decay` before the end, then linear to `final` times it (MiniCPM 2024)."""

    decay: Duration = Duration(steps=0)
    final: float = 0.0
    kind: Literal["warmup_stable_decay"] = "warmup_stable_decay"


Schedule = Union[Constant, Linear, Cosine, InverseSqrt, WarmupStableDecay]


@dataclass(frozen=True)
class ParameterRule:
    """What happens to the parameters whose path (`layer_0/attention/query/kernel`) `pattern`
    matches (re.fullmatch): whether weight decay applies, whether they are frozen, and a factor
    on their learning rate."""

    pattern: str
    decay: bool = True
    frozen: bool = False
    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        at_least(self, 0, "learning_rate")
        check_pattern("pattern", self.pattern)


DEFAULT_RULES = (
    ParameterRule(r".*/(kernel|embedding)", decay=True),
    ParameterRule(r".*/(bias|scale)", decay=False),
)


@dataclass(frozen=True)
class OptimizerBase:
    """What every optimiser has. The first matching rule wins; every parameter must match one, and
    every rule must match a parameter. `clip_norm` is a bound on the global gradient norm.
    `layer_decay` is a factor on the learning rate for each layer down from the heads (Clark et al.
    2020): see `lm.train.layer_decay`."""

    learning_rate: float = 1e-3
    schedule: Schedule = Constant()
    weight_decay: float = 0.0
    clip_norm: float | None = None
    rules: tuple[ParameterRule, ...] = DEFAULT_RULES
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        at_least(self, 0, "learning_rate", "weight_decay")
        positive(self, "clip_norm", "layer_decay")
        check(self.layer_decay <= 1, f"layer_decay must be in (0, 1], not {self.layer_decay}")
        for name in ("beta1", "beta2", "momentum"):
            if hasattr(self, name):
                share(self, name)
        for name in ("epsilon", "decay_rate", "clipping_threshold", "adam_learning_rate"):
            if hasattr(self, name):
                positive(self, name)


@dataclass(frozen=True)
class AdamW(OptimizerBase):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    kind: Literal["adamw"] = "adamw"


@dataclass(frozen=True)
class Adam(OptimizerBase):
    """Adam (Kingma & Ba 2015); weight decay, if any, is added to the gradient (L2)."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    kind: Literal["adam"] = "adam"


@dataclass(frozen=True)
class Adafactor(OptimizerBase):
    """Adafactor (Shazeer & Stern 2018) with an external learning rate."""

    decay_rate: float = 0.8
    clipping_threshold: float = 1.0
    multiply_by_parameter_scale: bool = False
    kind: Literal["adafactor"] = "adafactor"


@dataclass(frozen=True)
class Lion(OptimizerBase):
    """Lion (Chen et al. 2023)."""

    beta1: float = 0.9
    beta2: float = 0.99
    kind: Literal["lion"] = "lion"


@dataclass(frozen=True)
class SGD(OptimizerBase):
    """Stochastic gradient descent; weight decay is added to the gradient (L2)."""

    momentum: float = 0.0
    nesterov: bool = False
    kind: Literal["sgd"] = "sgd"


@dataclass(frozen=True)
class Muon(OptimizerBase):
    """Muon (Jordan 2024) for the layers' matrices, AdamW for everything else."""

    momentum: float = 0.95
    adam_learning_rate: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    kind: Literal["muon"] = "muon"


OptimizerConfig = Union[AdamW, Adam, Adafactor, Lion, SGD, Muon]


@dataclass(frozen=True)
class TrainConfig:
    """How long and in what portions. `batch_size` is rows a step over all devices and hosts, cut
    into `microbatches` whose gradients are summed. `steps_per_dispatch` optimiser steps go to the
    device at once. `ema_decay` keeps an exponential moving average of the parameters.
    `warm_start` is a workdir whose latest parameters replace the initial ones. `lora` trains
    adapters in their place."""

    batch_size: int
    duration: Duration
    microbatches: int = 1
    steps_per_dispatch: int = 1
    ema_decay: float | None = None
    log_every: int = 10
    warm_start: str | None = None
    lora: LoRA | None = None

    def __post_init__(self) -> None:
        at_least(self, 1, "batch_size", "microbatches", "steps_per_dispatch", "log_every")
        share(self, "ema_decay")
        if self.batch_size % self.microbatches:
            raise ConfigError(
                f"batch_size={self.batch_size} is not divisible by microbatches={self.microbatches}"
            )


@dataclass(frozen=True)
class Samples:
    """What the model writes after each of `prompts` ("" is nothing), up to `max_new_tokens`, drawn
    at a `temperature` (0 takes the likeliest token) from the `top_k` likeliest tokens, or those
    that have the probability `top_p` together. An encoder-decoder reads the prompts. The draws are
    of the run's seed and the step, and nothing of the training depends on them."""

    prompts: tuple[str, ...]
    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        check(len(self.prompts) > 0, 'prompts names none; "" is to begin with nothing')
        check(len(set(self.prompts)) == len(self.prompts), "prompts has one twice")
        at_least(self, 1, "max_new_tokens", "top_k")
        at_least(self, 0, "temperature")
        check(self.top_p is None or 0 < self.top_p <= 1, f"top_p must be in (0, 1]: {self.top_p}")


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation on the validation sources every so often and at the end. `batches` of None is
    the whole split; `batch_size` of None is the training batch size. `early_stopping` may end the
    training before its duration does. `samples` are taken whenever it evaluates, and kept in the
    workdir's samples.jsonl, which `lm report` shows."""

    every: Duration | None = None
    batches: int | None = None
    batch_size: int | None = None
    early_stopping: EarlyStopping | None = None
    samples: Samples | None = None

    def __post_init__(self) -> None:
        at_least(self, 1, "batches", "batch_size")
        check(
            self.early_stopping is None or self.every is not None,
            "early_stopping looks at evaluations: set every",
        )


@dataclass(frozen=True)
class CheckpointConfig:
    """State, data position and metadata together, every so often and at the end. The last
    `keep_last` stay, and the `keep_best` with the lowest (`mode` "max": highest) value of `metric`
    on the first of data.validation; with early stopping, of its metric. `--step=best` of a command
    is the best one that is there."""

    every: Duration | None = None
    keep_last: int = 2
    keep_best: int = 0
    metric: str = "loss"
    mode: Literal["min", "max"] = "min"
    asynchronous: bool = True

    def __post_init__(self) -> None:
        at_least(self, 1, "keep_last")
        at_least(self, 0, "keep_best")


@dataclass(frozen=True)
class ParallelConfig:
    """Where it is computed. "sharded" is jit over a mesh with the axes data and fsdp (-1: all the
    devices the other axes leave); "data_parallel" is jax.pmap."""

    mapping: Literal["sharded", "data_parallel"] = "sharded"
    data: int = -1
    fsdp: int = 1


@dataclass(frozen=True)
class Config:
    """A run: a pure function of this value.

    `objective` of None is a model to use, not to train: what `lm convert` makes of an architecture
    without a default objective.
    """

    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    objective: ObjectiveConfig | None = CausalLM()  # noqa: RUF009 (frozen)
    optimizer: OptimizerConfig = AdamW()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    parallel: ParallelConfig = ParallelConfig()
    seed: int = 0

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**32, f"seed must be in [0, 2^32), not {self.seed}")
        if self.objective is not None:
            # A task's model has the task's head: what is resolved, written and converted is whole.
            object.__setattr__(self, "model", self.objective.model_for(self.model))
            self.objective.check_model(self.model)
            self.objective.check_data(self.data)
        check(
            self.evaluation.every is None or bool(self.data.validation),
            "evaluation.every is set, but data.validation names no source to evaluate on",
        )
        stopping = self.evaluation.early_stopping
        if stopping is not None and stopping.split is not None:
            check(
                stopping.split in self.data.validation,
                f"evaluation.early_stopping.split={stopping.split!r} is not in data.validation"
                f"{did_you_mean(stopping.split, self.data.validation)}",
            )
