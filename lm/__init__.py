"""lm: a JAX/Flax research codebase for language models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from lm.predict.base import Predictor

__version__ = "0.1.0"


def load(
    workdir: Path | str, step: int | Literal["best"] | None = None, **options: Any
) -> Predictor:
    """The model of a run, to be asked:

        lm.load("runs/sst2").predict("A fine film.")["label"]
        lm.load("runs/xquad").predict({"question": "Who?", "context": "It was Ada."})["answer"]
        lm.load("runs/multi30k", batch_size=64).predict(["a dog runs .", "two men ."])

    What an example has says `lm.predict.roles`; what an answer has, `lm.objectives.tasks` and
    `lm.predict.texts`.

    Args:
      workdir: folder of the run, trained or converted.
      step: of the checkpoint to use, or "best", that of the best evaluation; None is the newest.
      options: as for `lm.predict.predictor.predictor`: beam, max_new_tokens, batch_size,
        num_return_sequences.

    Raises:
      lm.errors.UserError: no run there, or one that answers nothing.
    """
    # Not before: whoever only imports `lm` does not wait for JAX.
    from lm.predict.predictor import load

    return load(workdir, step, **options)
