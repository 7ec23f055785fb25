"""What is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from lm.config.checks import at_least, share


@dataclass(frozen=True)
class CausalLM:
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


ObjectiveConfig = CausalLM
