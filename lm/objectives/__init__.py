"""What is learned: objectives turn examples into batches and batches into terms of a loss."""

from __future__ import annotations

from lm.config import ModelConfig, ObjectiveConfig
from lm.objectives.base import Objective, Term
from lm.objectives.clm import CausalLMObjective

__all__ = ["Objective", "Term", "build_objective"]


def build_objective(objective: ObjectiveConfig, model: ModelConfig) -> Objective:
    """The objective for a config, with the modules it trains."""
    return CausalLMObjective(objective, model)
