"""Whether what is taken as done is: a run at its end, on data that is still what it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lm import config as configs
from lm.config import Config
from lm.data.tokenizer import Tokenizer
from lm.errors import EXIT_PREEMPTED, UserError


class Prints(NamedTuple):
    """Fingerprints of a run's data; None of what nobody wrote down."""

    training: str | None
    validation: Mapping[str, str] | None = None

    @staticmethod
    def of_session(session: Mapping[str, Any]) -> Prints:
        """Those in a session of manifest.json."""
        data = session.get("data", {})
        return Prints(data.get("fingerprint"), data.get("validation_fingerprints"))


class DataNow:
    """Data as it is on disk now, prepared as training would; once for all configs that share it.

    `report` is told where nobody can say, because there is no such data here.
    """

    def __init__(self, cache_dir: Path, report: Callable[[str], None]) -> None:
        self._cache_dir, self._report = cache_dir, report
        self._known: dict[str, Prints | None] = {}

    def changed(
        self, before: Prints, config: Config, data_root: Path, tokenizer: Tokenizer | None = None
    ) -> str:
        """What is not as it was, in words; "" where all is, or nobody can say.

        Args:
          config: of the run.
          tokenizer: the run's; None builds it again.
        """
        if before.training is None:
            return ""
        now = self._prints(config, data_root, tokenizer)
        if now is None or now.validation is None:
            return ""
        pairs = [("the training data", before.training, now.training)]
        for name, was in (before.validation or {}).items():
            pairs.append((f"the validation data {name!r}", was, now.validation.get(name)))
        for what, was, found in pairs:
            if was != found:
                return f"{what} changed (fingerprint {was}, now {found})"
        return ""

    def _prints(
        self, config: Config, data_root: Path, tokenizer: Tokenizer | None
    ) -> Prints | None:
        key = configs.fingerprint(
            [
                configs.to_dict(config)["data"],
                configs.to_dict(config)["objective"],
                str(data_root),
                None if tokenizer is None else tokenizer.fingerprint,
            ]
        )
        if key not in self._known:
            self._known[key] = self._read(config, data_root, tokenizer)
        return self._known[key]

    def _read(self, config: Config, data_root: Path, tokenizer: Tokenizer | None) -> Prints | None:
        from lm.objectives import build_objective
        from lm.train.setup import open_dataset

        assert config.objective is not None
        objective = build_objective(config.objective, config.model)
        try:
            dataset = open_dataset(config, objective, data_root, self._cache_dir, tokenizer)
        except UserError as error:
            if error.exit_code == EXIT_PREEMPTED:
                raise
            self._report(f"not checked whether the data is still the same: {error}")
            return None
        return Prints(dataset.fingerprint, dict(dataset.validation_fingerprints))


def finished(workdir: Path, report: Callable[[str], None]) -> Prints:
    """Makes sure that the run in `workdir` went to its end; the fingerprints of its data.

    Raises:
      UserError: it has no sound checkpoint, or goes on: it is at a step before the last of its
        duration and was not stopped early, or wrote metrics of steps after the checkpoint.
    """
    from lm.train.checkpoint import Checkpoints
    from lm.train.early_stopping import Stopper
    from lm.train.metrics import read_jsonl
    from lm.train.workdir import CHECKPOINTS, METRICS, read_config

    config = read_config(workdir)
    restored = Checkpoints(workdir / CHECKPOINTS, report=report).restore_parts(())
    stopper = Stopper(config)
    stopper.restore(restored.meta.get("early_stopping"))
    steps = planned_steps(workdir, config)
    if restored.step < steps and not stopper.stopped:
        raise UserError(
            f"the run is at step {restored.step} of {steps}: the command that began it goes on"
        )
    written = max((row["step"] for row in read_jsonl(workdir / METRICS)), default=0)
    if written != restored.step:
        raise UserError(
            f"{METRICS} is at step {written} and the newest checkpoint at step {restored.step}: "
            "the command that began the run goes on from there"
        )
    return Prints(restored.data["fingerprint"], restored.data.get("validation"))


def planned_steps(workdir: Path, config: Config) -> int:
    """The steps that the run in `workdir` was to take.

    Raises:
      UserError: they are epochs, and its manifest does not say of how many rows.
    """
    from lm.train.plan import durations
    from lm.train.workdir import MANIFEST, sessions

    last = (sessions(workdir) or [{}])[-1]
    rows = last.get("data", {}).get("rows_per_epoch")
    if rows is None and config.train.duration.epochs is not None:
        raise UserError(
            f"{workdir / MANIFEST} does not say how many rows an epoch has, and so nobody can say "
            "whether the run is finished"
        )
    return durations(config, rows or 1)(config.train.duration)
