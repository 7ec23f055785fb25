"""A run's folder (config, manifest, tokenizer, checkpoints), and a run loaded from it."""

from __future__ import annotations

import fcntl
import functools
import json
import operator
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import lm
from lm import config as configs
from lm.config import Config
from lm.data.roots import data_root
from lm.data.tokenizer import Tokenizer, load_tokenizer
from lm.errors import ConfigError, UserError
from lm.host import cores
from lm.model import build_model
from lm.model.lora import merged
from lm.objectives import build_objective
from lm.objectives.base import Objective
from lm.train.checkpoint import Checkpoints
from lm.train.early_stopping import Step, chosen_step
from lm.train.restoring import Restored
from lm.types import Params

CONFIG, MANIFEST, METRICS = "config.json", "manifest.json", "metrics.jsonl"
TOKENIZER, CHECKPOINTS = "tokenizer", "checkpoints"
# What `lm evaluate` found at a step: <step>.json.
EVALUATIONS = "eval"
# Where a converted model is from: a workdir that has it holds no training run.
CONVERTED = "convert.json"

# Of a source tree, what `lm reproduce` writes there: for git, not among what was changed.
_WRITTEN = (":(exclude)experiments/*/report/*", ":(exclude)REPRODUCTIONS.md")
# Environment variables that say how JAX computes.
FLAGS = ("JAX_", "XLA_", "LIBTPU_", "NVIDIA_TF32")

# What a resumed run may change: how long and where it runs, and what is done between its steps.
# (A schedule that decays to the end follows a new duration; dropout under pmap, the devices.)
CHANGEABLE = (
    "train.duration",
    "train.log_every",
    "evaluation",
    "checkpoint",
    "parallel",
    "data.read_threads",
    "data.prefetch",
)


@dataclass(frozen=True)
class Run:
    """A trained or converted model, ready for use: what `generate`, `score` and `evaluate` work on.
    `objective` is None for a converted model that has no default one."""

    workdir: Path
    config: Config
    objective: Objective | None
    model: Any
    params: Params
    """The model's."""
    tokenizer: Tokenizer
    step: int
    data: dict[str, Any]
    """Where the training data stood, and the fingerprints of what was read."""
    trained: Params = field(default_factory=dict)
    """All that the objective trains: the model's parameters, or those of several models."""


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(
            json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"could not write {path}: {error.strerror}") from error


def read_config(workdir: Path) -> Config:
    """The resolved config of the run in `workdir`.

    Raises:
      UserError: there is no run in `workdir`, or its config.json is not readable.
    """
    path = workdir / CONFIG
    if not path.is_file():
        what = "the folder has no config.json" if workdir.is_dir() else "there is no such folder"
        raise UserError(f"no run in {workdir}: {what}; train one with lm train --workdir=")
    values = read_json(path)
    if "config" not in values:
        hint = ""
        if "model_type" in values:
            hint = f"; it is a Hugging Face folder: lm convert --from={workdir} --workdir=NEW first"
        raise UserError(f"{path} has no key 'config': it is not the config of a run{hint}")
    return configs.from_dict(Config, values["config"], path=f"{path}: config")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the workdir. Raises UserError where it is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object")
    return values


def begun(workdir: Path) -> bool:
    """Whether a run has taken steps here. One that failed before may be started differently."""
    return (workdir / METRICS).exists()


def check_not_converted(workdir: Path) -> None:
    """Raises ConfigError where the folder holds what `lm convert` made, not a run."""
    if (workdir / CONVERTED).exists():
        raise ConfigError(
            f"{workdir} holds a converted model, not a run: to train from it, name it as the start "
            "of a run in another folder, with --config=experiments/continue.py "
            f"--config.train.warm_start={workdir} --workdir=NEW"
        )


def check_config(workdir: Path, config: Config, report: Callable[[str], None]) -> None:
    """Compares a config with the one of the run that is being resumed; reports allowed changes.

    Raises:
      ConfigError: a key differs that would make it another run; all keys that differ are listed.
    """
    old = configs.to_dict(read_config(workdir))
    changed = configs.differences(old, configs.to_dict(config))
    if all(_changeable(key) for key, _, _ in changed):
        for key, was, now in changed:
            report(f"config changed on resume (allowed): {key}: {was!r} -> {now!r}")
        return
    lines = [
        f"  {key}: {was!r} -> {now!r}{'  (allowed)' if _changeable(key) else ''}"
        for key, was, now in changed
    ]
    raise ConfigError(
        f"the run in {workdir} was started with another config:\n" + "\n".join(lines) + "\n"
        f"a resumed run may change only {', '.join(CHANGEABLE)}; for anything else use a new "
        "--workdir (train.warm_start takes this one's parameters along)"
    )


def write_config(workdir: Path, config: Config) -> None:
    """config.json: the resolved config, every default written out, and its fingerprint."""
    values = configs.to_dict(config)
    write_json(workdir / CONFIG, {"fingerprint": configs.fingerprint(values), "config": values})


def _changeable(key: str) -> bool:
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in CHANGEABLE)


def sessions(workdir: Path) -> list[dict[str, Any]]:
    """The sessions that manifest.json lists, oldest first."""
    path = workdir / MANIFEST
    if not path.exists():
        return []
    found = read_json(path).get("sessions")
    if not isinstance(found, list) or not all("data_root" in session for session in found):
        raise UserError(f"{path} is not the manifest of a run: remove it to go on without")
    return found


def run_data_root(workdir: Path, flag: str | None) -> Path:
    """The data root of a command on a run: --data_root, else where the run's last session read its
    data (if that is on this machine), else as everywhere."""
    known = sessions(workdir)
    if flag is None and known and Path(known[-1]["data_root"]).is_dir():
        return Path(known[-1]["data_root"])
    return data_root(flag)


def write_manifest(
    workdir: Path, *, data: Mapping[str, Any], data_root: Path, **session: Any
) -> None:
    """Appends a session to manifest.json: versions, git commit, data, devices, flags, and what
    else the caller says of it."""
    path = workdir / MANIFEST
    before = sessions(workdir)
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    written = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **session,
        "data_root": str(data_root),
        "versions": {
            "lm": lm.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
        "git_commit": git_commit(),
        "data": dict(data),
        "devices": [f"{d.platform}:{d.device_kind}" for d in jax.devices()],
        # XLA splits sums among them: on as many, the same run is the same bit for bit.
        "cores": cores(),
        "processes": jax.process_count(),
        "flags": {k: v for k, v in sorted(os.environ.items()) if k.startswith(FLAGS)},
    }
    write_json(path, {"sessions": [*before, written]})


def git_commit() -> str | None:
    """The commit of the source this run uses, with `+changes` where the tree differs from it in
    more than what `lm reproduce` writes there."""
    root = Path(lm.__file__).parent.parent
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10
        )
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", *_WRITTEN],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if commit.returncode:
        return None
    return commit.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


@contextmanager
def locked(workdir: Path) -> Any:
    """Holds the workdir for one training process.

    Raises:
      UserError: another process trains there, or the folder cannot be made.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot use --workdir={workdir}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another process is training in {workdir}; wait for it or stop it"
            ) from None
        yield


def load_params(
    workdir: Path, step: Step = None, *, report: Callable[[str], None] = print
) -> Restored:
    """The newest sound checkpoint (or that of `step`) with `state` the parameters alone: the
    moving average where the run keeps one, and adapters merged into what they adapt.

    Raises:
      UserError: no checkpoint, no such step, or all damaged.
    """
    config = read_config(workdir)
    checkpoints = Checkpoints(workdir / CHECKPOINTS, report=report)
    step = chosen_step(checkpoints, config, step)
    restored = checkpoints.restore_parts(("params", "ema"), step)
    params, ema = restored.state["params"], restored.state["ema"]
    params = params if ema is None else ema
    lora = config.train.lora
    return restored._replace(state=params if lora is None else merged(params, lora))


def model_params(config: Config, trained: Params) -> Params:
    """The model's part of what the objective trains."""
    path = () if config.objective is None else config.objective.MODEL
    return functools.reduce(operator.getitem, path, trained)


def load_run(workdir: Path, step: Step = None) -> Run:
    """Everything needed to use the model in `workdir`, trained or converted, from that folder.

    Raises:
      UserError: no run or no sound checkpoint there.
    """
    workdir = Path(workdir)
    config = read_config(workdir)
    objective = None
    if config.objective is not None:
        objective = build_objective(config.objective, config.model)
    restored = load_params(workdir, step, report=lambda line: print(line, file=sys.stderr))
    return Run(
        workdir=workdir,
        config=config,
        objective=objective,
        model=build_model(config.model) if objective is None else objective.model,
        params=model_params(config, restored.state),
        trained=restored.state,
        tokenizer=load_tokenizer(workdir / TOKENIZER),
        step=restored.step,
        data=restored.data,
    )
