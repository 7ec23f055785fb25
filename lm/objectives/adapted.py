"""What an objective learns, learned by low-rank adapters."""

from __future__ import annotations

import jax

from lm.config import LoRA
from lm.errors import ConfigError
from lm.model.lora import active, alike, with_adapters
from lm.objectives.base import Objective, Term
from lm.types import Batch, Key, Params

# Tells the adapters' initial numbers from those of the model, which are what they are without.
_ADAPTERS = 0x10FA


class Adapted:
    """An `Objective`: another one, of whose parameters some projections have adapters. Only what a
    step needs: rows and answers are the other's, of parameters that are `lm.model.lora.merged`."""

    def __init__(self, objective: Objective, lora: LoRA) -> None:
        self._objective, self._lora = objective, lora
        self.model = objective.model

    def init(self, rng: Key, batch: Batch) -> Params:
        """The other's initial parameters, and the adapters.

        Raises:
          ConfigError: there is nothing to adapt, or not the same in all of the layers scanned.
        """
        params = self._objective.init(rng, batch)
        adapted = with_adapters(params, self._lora, jax.random.fold_in(rng, _ADAPTERS))
        if self.model.config.scan_layers and not alike(adapted):
            raise ConfigError(
                f"train.lora.targets={self._lora.targets!r} matches other projections in one layer "
                "than in another, and model.scan_layers needs all of them alike: unset it"
            )
        return adapted

    def loss(
        self, params: Params, batch: Batch, rng: Key | None, *, train: bool
    ) -> dict[str, Term]:
        return self._objective.loss(active(params, self._lora), batch, rng, train=train)
