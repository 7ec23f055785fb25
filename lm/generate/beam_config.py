"""How beam search is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lm.errors import ConfigError
from lm.generate.sampling import MOST_PENALTY


@dataclass(frozen=True)
class BeamConfig:
    """How to search. Static and hashable.

    num_beams: hypotheses that run side by side; 1 is greedy.
    length_penalty: exponent of the length that a sum of log-probabilities is divided by: 0 ranks by
      probability, 1 by the mean; larger prefers longer ones.
    normalization: "power": length ** length_penalty (fairseq, transformers); "gnmt":
      ((5 + length) / 6) ** length_penalty (Wu et al. 2016, section 7).
    early_stopping: when a prompt is done, once num_beams hypotheses are finished. True: at once.
      False: when the best that runs, were it finished now, would not be among them: exact for
      length_penalty <= 0, else a guess. "never": when nothing that runs can come to be among them,
      however long it gets.
    num_groups: groups that search one after the other at every step, each avoiding what those
      before it say (diverse beam search, Vijayakumar et al. 2018); num_beams is a multiple of it.
    diversity_penalty: what a group pays for each running hypothesis of the earlier groups that says
      the same token at the same step. It stays in the sums, as in fairseq and transformers.
    min_new_tokens: tokens before an end-of-sequence token is possible.
    no_repeat_ngram_size: no n-gram of this many tokens is said twice, those of a decoder's prompt
      counted (Paulus et al. 2018); 0 allows all.
    repetition_penalty: log-probabilities of tokens of prompt and completion so far are multiplied
      by it, as transformers does it under beams; 0.001 to 1000.

    Raises:
      ConfigError: a value outside its range.
    """

    num_beams: int = 5
    length_penalty: float = 1.0
    normalization: Literal["power", "gnmt"] = "power"
    early_stopping: bool | Literal["never"] = False
    num_groups: int = 1
    diversity_penalty: float = 0.0
    min_new_tokens: int = 0
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name in ("num_beams", "num_groups"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("min_new_tokens", "no_repeat_ngram_size"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}")
        # Written so that NaN fails too.
        if not -100.0 <= self.length_penalty <= 100.0:
            raise ConfigError(
                f"length_penalty must be between -100 and 100, not {self.length_penalty}"
            )
        if self.normalization not in ("power", "gnmt"):
            raise ConfigError(
                f'normalization must be "power" or "gnmt", not {self.normalization!r}'
            )
        if self.early_stopping not in (True, False, "never"):
            raise ConfigError(
                f'early_stopping must be True, False or "never", not {self.early_stopping!r}'
            )
        if self.num_beams % self.num_groups:
            raise ConfigError(
                f"num_beams={self.num_beams} is not a multiple of num_groups={self.num_groups}"
            )
        if not 0.0 <= self.diversity_penalty < float("inf"):
            raise ConfigError(
                f"diversity_penalty must be 0 or positive, not {self.diversity_penalty}"
            )
        if (self.num_groups > 1) != (self.diversity_penalty > 0):
            raise ConfigError(
                "num_groups above 1 and a positive diversity_penalty go together: without the "
                "penalty all groups find the same, without groups there is nothing to differ from"
            )
        if not 1 / MOST_PENALTY <= self.repetition_penalty <= MOST_PENALTY:
            raise ConfigError(
                f"repetition_penalty must be between {1 / MOST_PENALTY:g} and {MOST_PENALTY:g} (1 "
                f"is none), not {self.repetition_penalty}"
            )
