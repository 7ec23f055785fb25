"""The predictor of a run, by its objective; and of a workdir: `lm.load`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm.errors import ConfigError, UserError
from lm.generate.beam_config import BeamConfig
from lm.objectives.base import TaskObjective
from lm.predict.base import Predictor
from lm.predict.tasks import TaskPredictor
from lm.predict.texts import TextPredictor
from lm.train.early_stopping import Step
from lm.train.workdir import CONFIG, Run, load_run

__all__ = ["Predictor", "load", "predictor"]

# What other libraries keep weights in.
_FOREIGN = (".gguf", ".safetensors", ".bin", ".pt", ".pth")


def predictor(
    run: Run,
    *,
    beam: BeamConfig | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 32,
    num_return_sequences: int = 1,
) -> Predictor:
    """What answers examples with the model of `run`: `lm.predict.tasks.TaskPredictor`, or for texts
    to be written `lm.predict.texts.TextPredictor`, whose arguments the others are.

    Args:
      batch_size: rows, or texts, at a time. It changes nothing but the speed.

    Raises:
      ConfigError: a model that answers nothing, or an argument that does not go with it.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
    objective = run.config.objective
    if objective is None or not isinstance(run.objective, TaskObjective):
        return TextPredictor(
            run, beam=beam, max_new_tokens=max_new_tokens, batch_size=batch_size,
            num_return_sequences=num_return_sequences,
        )  # fmt: skip
    for name, given in (
        ("a search (num_beams)", beam is not None),
        ("max_new_tokens", max_new_tokens is not None),
        ("num_return_sequences", num_return_sequences != 1),
    ):
        if given:
            raise ConfigError(
                f"{name} is for models that write texts; objective {objective.name!r} does not"
            )
    return TaskPredictor(run, run.objective, batch_size=batch_size)


def load(workdir: Path | str, step: Step = None, **options: Any) -> Predictor:
    """The predictor of the run in `workdir`; see `lm.load`."""
    path = Path(workdir).expanduser()
    check_run(path)
    return predictor(load_run(path, step), **options)


def check_run(path: Path) -> None:
    """Raises UserError for what `lm convert` should see first."""
    hint = f": lm convert --from={path} --workdir=NEW makes a workdir of a model in another format"
    if path.is_file():
        raise UserError(f"{path} is a file, not the folder of a run{hint}")
    if not path.is_dir() or (path / CONFIG).is_file():
        return
    foreign = sorted(file.name for file in path.iterdir() if file.suffix in _FOREIGN)
    if foreign:
        raise UserError(f"{path} is no run: it has {foreign[0]}, and no {CONFIG}{hint}")
