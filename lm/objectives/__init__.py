"""What is learned: objectives turn tokens into batches, and batches into terms of a loss."""

from __future__ import annotations

from lm.config import (
    CausalLM,
    MaskedLM,
    ModelConfig,
    ObjectiveConfig,
    PermutationLM,
    ReplacedTokens,
)
from lm.objectives.base import Objective, Term
from lm.objectives.clm import CausalLMObjective
from lm.objectives.mlm import MaskedLMObjective
from lm.objectives.plm import PermutationLMObjective
from lm.objectives.rtd import ReplacedTokensObjective
from lm.objectives.seq2seq import SequenceObjective

__all__ = ["Objective", "Term", "build_objective"]


def build_objective(objective: ObjectiveConfig, model: ModelConfig) -> Objective:
    """The objective for a config, with the modules it trains.

    Raises:
      ConfigError: the objective cannot train this model.
    """
    objective.check_model(model)
    if isinstance(objective, CausalLM):
        return CausalLMObjective(objective, model)
    if isinstance(objective, MaskedLM):
        return MaskedLMObjective(objective, model)
    if isinstance(objective, ReplacedTokens):
        return ReplacedTokensObjective(objective, model)
    if isinstance(objective, PermutationLM):
        return PermutationLMObjective(objective, model)
    return SequenceObjective(objective, model)
