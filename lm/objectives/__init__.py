"""What is learned: objectives turn tokens into batches, and batches into terms of a loss."""

from __future__ import annotations

from lm.config import (
    CausalLM,
    Classification,
    InContextRegression,
    MaskedLM,
    ModelConfig,
    MultipleChoice,
    ObjectiveConfig,
    PermutationLM,
    QuestionAnswering,
    Regression,
    ReplacedTokens,
    TaskBase,
    TaskConfig,
    TokenClassification,
)
from lm.objectives.base import Objective, Term
from lm.objectives.clm import CausalLMObjective
from lm.objectives.in_context import InContextRegressionObjective
from lm.objectives.mlm import MaskedLMObjective
from lm.objectives.plm import PermutationLMObjective
from lm.objectives.rtd import ReplacedTokensObjective
from lm.objectives.seq2seq import SequenceObjective
from lm.objectives.tasks.answers import QuestionAnsweringObjective
from lm.objectives.tasks.choice import MultipleChoiceObjective
from lm.objectives.tasks.classification import ClassificationObjective, RegressionObjective
from lm.objectives.tasks.instruction import InstructionObjective
from lm.objectives.tasks.tokens import TokenClassificationObjective

__all__ = ["Objective", "Term", "build_objective"]


def build_objective(objective: ObjectiveConfig, model: ModelConfig) -> Objective:
    """The objective for a config, with the modules it trains.

    Raises:
      ConfigError: the objective cannot train this model.
    """
    model = objective.model_for(model)
    objective.check_model(model)
    if isinstance(objective, CausalLM):
        return CausalLMObjective(objective, model)
    if isinstance(objective, MaskedLM):
        return MaskedLMObjective(objective, model)
    if isinstance(objective, ReplacedTokens):
        return ReplacedTokensObjective(objective, model)
    if isinstance(objective, PermutationLM):
        return PermutationLMObjective(objective, model)
    if isinstance(objective, InContextRegression):
        return InContextRegressionObjective(objective, model)
    if isinstance(objective, TaskBase):
        return _task(objective, model)
    return SequenceObjective(objective, model)


def _task(objective: TaskConfig, model: ModelConfig) -> Objective:
    if isinstance(objective, Classification):
        return ClassificationObjective(objective, model)
    if isinstance(objective, Regression):
        return RegressionObjective(objective, model)
    if isinstance(objective, TokenClassification):
        return TokenClassificationObjective(objective, model)
    if isinstance(objective, QuestionAnswering):
        return QuestionAnsweringObjective(objective, model)
    if isinstance(objective, MultipleChoice):
        return MultipleChoiceObjective(objective, model)
    return InstructionObjective(objective, model)
