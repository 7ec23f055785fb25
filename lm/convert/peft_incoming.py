"""Adapters of PEFT's, merged into a workdir's model."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lm
from lm.convert import safetensors
from lm.convert.folder import read_object
from lm.convert.incoming import check_new
from lm.convert.layout import Rule
from lm.convert.outgoing import SavedParams, family_for, origin_of, whole_folder
from lm.convert.peft import CONFIG, PREFIX, WEIGHTS, conv1d
from lm.convert.store import LazyArray, write_checkpoint
from lm.convert.tensors import Tensor
from lm.errors import UserError
from lm.train.restoring import nested
from lm.train.workdir import (
    CHECKPOINTS,
    CONVERTED,
    MANIFEST,
    TOKENIZER,
    read_config,
    write_config,
    write_json,
)

# Switches that change what is computed, and the value that is the one known here.
_KNOWN = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "lora_bias": False,
    "layer_replication": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_qalora": False,
    "use_bdlora": None,
    "alora_invocation_tokens": None,
}
_LISTED = 4


class Merged(NamedTuple):
    """What was merged, for a summary."""

    family: str
    modules: int
    parameters: int


def is_adapter_folder(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def merge_adapter(folder: Path, base: Path, workdir: Path) -> Merged:
    """Writes the model of the workdir `base` with the adapters in `folder` merged into it as the
    workdir `workdir`, whole or not at all.

    Raises:
      UserError: no LoRA adapters in `folder`, or of a kind that is not supported; a tensor that is
        of no module of the model, or of another shape; there is something in `workdir`.
    """
    check_new(workdir)
    settings = _settings(folder)
    tensors = _tensors(folder)
    config = read_config(base)
    origin = origin_of(base)
    family = family_for(config, None, origin)
    params = SavedParams(base, None, () if config.objective is None else config.objective.MODEL)
    plan = family.plan(config.model, None)
    used: set[str] = set()
    changes: dict[str, tuple[Rule, tuple[Any, bool]]] = {}
    for rule in plan.rules:
        found = _change(rule, tensors, settings, params, folder, used)
        changes |= dict.fromkeys(rule.parameters, (rule, found)) if found is not None else {}
    left = [name for name in tensors if name not in used]
    if left:
        raise UserError(
            f"{folder / WEIGHTS}: {len(left)} tensors are of no module of the model in {base}: "
            f"{', '.join(left[:_LISTED])}{' ...' if len(left) > _LISTED else ''}"
        )

    def read(path: str) -> np.ndarray:
        own = params.read(path)
        if path not in changes:
            return own
        rule, (new, added) = changes[path]
        part = rule.layout.to_lm(new())[rule.parameters.index(path)]
        return np.ascontiguousarray(own + part if added else part, dtype=np.float32)

    leaves = {
        path: LazyArray(shape, np.dtype(np.float32), partial(read, path))
        for path, shape in params.shapes.items()
    }
    train = dataclasses.replace(config.train, lora=None)
    # Where the objective trains several models, only the one that is used is there afterwards.
    alone = config.objective is None or not config.objective.MODEL
    objective = config.objective if alone else None
    data = params.data()
    with whole_folder(workdir, "--workdir") as new:
        shutil.copytree(base / TOKENIZER, new / TOKENIZER)
        if (base / MANIFEST).exists():
            # Where the data is.
            shutil.copy(base / MANIFEST, new)
        write_config(new, dataclasses.replace(config, train=train, objective=objective))
        write_checkpoint(new / CHECKPOINTS, nested(leaves), data=data, meta={"evaluation": {}})
        write_json(new / CONVERTED, {
            **origin,
            "from": str(folder.absolute()),
            "format": "peft",
            "base": str(base.absolute()),
            "family": family.name,
            "converted": datetime.now(UTC).isoformat(timespec="seconds"),
            "lm_version": lm.__version__,
        })  # fmt: skip
    total = sum(map(math.prod, params.shapes.values()))
    return Merged(family.name, len({rule.reference for rule, _ in changes.values()}), total)


def _settings(folder: Path) -> dict[str, Any]:
    settings = read_object(folder / CONFIG)
    for name, known in _KNOWN.items():
        value = settings.get(name, known)
        # What is empty counts as left out.
        if value != known and (value or known):
            raise UserError(
                f"{folder / CONFIG}: {name}={value!r} is not supported; supported: {known!r}"
            )
    return settings


def _tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{folder} has no {WEIGHTS}; pickled adapters (.bin) are not read")
    return {name.removeprefix(PREFIX): t for name, t in safetensors.read_tensors(path).items()}


def _change(
    rule: Rule,
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    params: SavedParams,
    folder: Path,
    used: set[str],
) -> tuple[Any, bool] | None:
    """What the adapters say of a tensor of the reference: (what makes it, whether it is added),
    or None for nothing. Notes in `used` what it is made of."""
    shape = rule.layout.reference_shape([params.shapes[path] for path in rule.parameters])
    whole = _find(rule.reference, tensors)
    if whole is not None:
        used.add(whole)
        _check(whole, tensors[whole], shape, folder)
        return tensors[whole].read, False
    module = rule.reference.removesuffix(".weight")
    names = [_find(f"{module}.lora_{factor}.weight", tensors) for factor in "AB"]
    if module == rule.reference or None in names:
        return None
    first, second = (str(name) for name in names)
    used.update((first, second))
    a, b = tensors[first], tensors[second]
    outputs, inputs = shape[::-1] if conv1d(rule.layout) else shape
    rank = a.shape[0]
    _check(first, a, (rank, inputs), folder)
    _check(second, b, (outputs, rank), folder)
    alpha = _of_pattern(module, settings.get("alpha_pattern") or {}, settings["lora_alpha"])
    scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)

    def delta() -> np.ndarray:
        product = np.float32(scale) * (b.read().astype(np.float32) @ a.read().astype(np.float32))
        return product.T if conv1d(rule.layout) else product

    return delta, True


def _find(reference: str, tensors: Mapping[str, Tensor]) -> str | None:
    """The tensor of that name, which the base model's prefix may be left out of."""
    if reference in tensors:
        return reference
    return next((name for name in tensors if reference.endswith(f".{name}")), None)


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], folder: Path) -> None:
    if tensor.shape != shape:
        raise UserError(
            f"{folder / WEIGHTS}: {name} is {list(tensor.shape)}, the model says {list(shape)}"
        )


def _of_pattern(module: str, patterns: Mapping[str, float], default: float) -> float:
    """PEFT's way to say something of single modules: the first pattern that its name ends in."""
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return default
