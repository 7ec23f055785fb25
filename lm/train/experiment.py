"""`FILE.py[:ARGUMENT]`, an experiment file, and changes of single values: from there to a `Config`.

It imports no JAX: a config is checked before anything heavy starts.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from lm.config import Config, apply_override, from_dict
from lm.errors import ConfigError, did_you_mean


def load_config(
    argument: str, overrides: Sequence[tuple[str, str]] = (), workdir: Path | None = None
) -> Config:
    """The config that `FILE.py[:ARGUMENT]` describes, with overrides applied.

    One without a model or tokenizer takes them from the workdir it starts from, or from the run
    in `workdir`, if that has begun; overrides change single values of them.

    Raises:
      ConfigError: no such file, no get_config in it, no such variant, or an invalid config.
      UserError: train.warm_start names no workdir.
    """
    values = experiment_values(argument)
    given = dict(overrides)
    lacking = [
        key
        for key, place in (("model", values), ("data.tokenizer", values.get("data", {})))
        if key.split(".")[-1] not in place and key not in given
    ]
    if lacking:
        source = given.get("train.warm_start", values.get("train", {}).get("warm_start"))
        if source is None:
            raise ConfigError(
                f"--config={argument} has no {' and no '.join(lacking)}: it goes on with a model "
                "that there is; name its workdir with --config.train.warm_start=W"
            )
        _take(values, lacking, Path(source).expanduser().absolute(), workdir)
    for key, text in overrides:
        apply_override(values, key, text)
    return from_dict(Config, values)


def _take(
    values: dict[str, Any], lacking: Sequence[str], source: Path, workdir: Path | None
) -> None:
    """Puts what `values` lacks there, from the run in `workdir` or from the start it names."""
    from lm.config import to_dict
    from lm.convert.tokenizer import tokenizer_config
    from lm.data.tokenizer import load_tokenizer
    from lm.train.workdir import TOKENIZER, begun, read_config

    resumed = workdir is not None and begun(workdir)
    found = read_config(workdir if resumed and workdir is not None else source)
    if "model" in lacking:
        values["model"] = to_dict(found.model)
    if "data.tokenizer" in lacking:
        data = values.setdefault("data", {})
        if resumed:
            taken = to_dict(found.data)
            for name in ("tokenizer", "add_bos", "add_eos"):
                data[name] = taken[name]
            return
        tokenizer = load_tokenizer(source / TOKENIZER)
        data["tokenizer"] = to_dict(tokenizer_config(tokenizer, str(source / TOKENIZER)))
        data.setdefault("add_bos", found.data.add_bos)
        if tokenizer.eos_id is None:
            data.setdefault("add_eos", False)


def experiment_values(argument: str) -> dict[str, Any]:
    """The plain nested values an experiment file returns for `FILE.py[:ARGUMENT]`."""
    module = experiment_module(argument)
    path, variant = Path(argument.partition(":")[0]), argument.partition(":")[2]
    if not hasattr(module, "get_config"):
        if hasattr(module, "model"):
            raise ConfigError(
                f"--config={argument}: {path} describes a family's models, not a run: an "
                "experiment uses it as config.model = model(size), see the others in "
                f"{path.parent}"
            )
        raise ConfigError(f"--config={argument}: {path} defines no get_config(arg)")
    try:
        config = module.get_config(variant)
    except ValueError as error:
        raise ConfigError(f"--config={argument}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"--config={argument}: get_config must return an ml_collections.ConfigDict, not "
            f"{type(config).__name__}"
        )
    return config.to_dict()


def experiment_module(argument: str) -> ModuleType:
    """The experiment file of `FILE.py[:ARGUMENT]`, imported.

    Raises:
      ConfigError: no such file, or one that cannot be read as Python.
    """
    path = Path(argument.partition(":")[0])
    if not path.is_file():
        hint = ""
        if path.parent.is_dir():
            hint = did_you_mean(path.name, (p.name for p in path.parent.glob("*.py")))
        raise ConfigError(f"--config={argument}: no file {path.absolute()}{hint}")
    spec = importlib.util.spec_from_file_location(f"lm_experiment_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config={argument}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise ConfigError(f"--config={argument}: {path} cannot be read: {error}") from error
    return module
