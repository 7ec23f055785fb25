"""Adapters as PEFT has them: out of a run with `train.lora`, and into a workdir.

PEFT adapts modules of the reference, with A [rank, inputs] and B [outputs, rank]. Where a module
holds several of lm's projections (GPT-2's `c_attn`: query, key and value), their adapters become
one: their A below each other, their B on the diagonal, of the sum of their ranks and with a
`lora_alpha` that leaves the scale as it is. What they add is the same, but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm.config import (
    Classification,
    Config,
    LoRA,
    QuestionAnswering,
    Regression,
    TokenClassification,
)
from lm.convert import safetensors
from lm.convert.layout import (
    Fused,
    HeadsIn,
    HeadsOut,
    Layout,
    Plan,
    Rule,
    Same,
    Transposed,
    inverse,
    reordered,
)
from lm.convert.outgoing import (
    DTYPES,
    Dtype,
    Export,
    SavedParams,
    check_same,
    family_for,
    narrowed,
    origin_of,
    whole_folder,
)
from lm.errors import ConfigError
from lm.model.layers import LORA_A, LORA_B
from lm.model.lora import freezes
from lm.train.early_stopping import Step
from lm.train.workdir import CONVERTED, read_config, read_json, sessions, write_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Module:
    """A module of the reference with an adapter. `parts`: of how many projections its adapters are
    put together; `conv1d`: whether its weight is [inputs, outputs]."""

    name: str
    a: np.ndarray
    b: np.ndarray
    parts: int
    conv1d: bool


def export_adapter(
    workdir: Path,
    folder: Path,
    *,
    family: str | None = None,
    dtype: Dtype = "float32",
    step: Step = None,
) -> Export:
    """Writes the adapters of `workdir` as a folder that `peft.PeftModel.from_pretrained` reads,
    whole or not at all; arguments as for `lm.convert.outgoing.export`.

    Raises:
      ConfigError: the run has no adapters; no family can express the model; a projection is no
        module that PEFT can adapt (XLNet's are bare tensors).
      UserError: there is something in `folder`; no checkpoint; a number beyond `dtype`'s range.
    """
    config = read_config(workdir)
    lora = config.train.lora
    if lora is None:
        raise ConfigError(
            f"the run in {workdir} has no adapters (train.lora): leave --format=peft out"
        )
    base = _base(workdir)
    chosen = family_for(config, family, origin_of(base or workdir))
    path = () if config.objective is None else config.objective.MODEL
    params = SavedParams(workdir, step, path)
    check_same(params, config, workdir)
    plan = chosen.plan(config.model, None)
    modules = [found for rule in plan.rules if (found := _module(rule, params)) is not None]
    saved = _saved(plan, lora, path, params)
    tensors: Tensors = {}
    for module in modules:
        tensors[f"{PREFIX}{module.name}.lora_A.weight"] = module.a
        tensors[f"{PREFIX}{module.name}.lora_B.weight"] = module.b
    tensors |= {f"{PREFIX}{name}": array for name, array in saved.items()}
    arrays = {name: narrowed(array, DTYPES[dtype], name) for name, array in tensors.items()}
    names = [rule.reference.removesuffix(".weight") for rule in plan.rules]
    with whole_folder(folder) as new:
        write_json(new / CONFIG, _config(config, lora, modules, saved, names, _named(base)))
        specs = {name: (array.dtype, array.shape) for name, array in arrays.items()}
        safetensors.write_tensors(new / WEIGHTS, specs, arrays.items())
        files = tuple(sorted(path.name for path in new.iterdir()))
    return Export(
        family=chosen.name,
        step=params.step,
        parameters=sum(map(math.prod, params.adapters.values())),
        tensors=len(arrays),
        num_bytes=sum(array.nbytes for array in arrays.values()),
        files=files,
        notes=() if base is None else (f"the adapters are of the model in {base}",),
    )


def _base(workdir: Path) -> Path | None:
    """The workdir that the run began from, where it is still there."""
    for session in sessions(workdir):
        if "warm_start" in session:
            found = Path(session["warm_start"]["workdir"])
            return found if found.is_dir() else None
    return None


def _named(base: Path | None) -> str | None:
    """The folder of the reference that the base came from, or the base."""
    if base is None:
        return None
    if (base / CONVERTED).exists():
        return str(read_json(base / CONVERTED).get("from", base))
    return str(base)


def _module(rule: Rule, params: SavedParams) -> _Module | None:
    """The adapter of the module whose weight this is; None where it has none."""
    layout = rule.layout
    own = layout.parts if isinstance(layout, Fused) else (layout,)
    places = [path.removesuffix("/kernel") for path in rule.parameters]
    adapted = [f"{place}/{LORA_A}/kernel" in params.adapters for place in places]
    if not any(adapted):
        return None
    if not rule.reference.endswith(".weight") or not all(map(_expressed, own)):
        raise ConfigError(
            f"PEFT adapts modules with a weight, and {rule.reference} is none: convert the merged "
            "model instead, without --format=peft"
        )
    outputs = _outputs(rule, params)
    factors = []
    for place, part, first, has in zip(places, own, np.cumsum([0, *outputs]), adapted):
        if has:
            a, b = (params.read_raw(f"{place}/{name}/kernel") for name in (LORA_A, LORA_B))
            factors.append((_rows(a), _columns(b, part), int(first)))
    b = np.zeros((sum(outputs), sum(len(a) for a, _, _ in factors)), np.float32)
    rank = 0
    for a, columns, first in factors:
        b[first : first + len(columns), rank : rank + len(a)] = columns
        rank += len(a)
    return _Module(
        name=rule.reference.removesuffix(".weight"),
        a=np.concatenate([a for a, _, _ in factors]),
        b=b,
        parts=len(factors),
        conv1d=conv1d(layout),
    )


def _expressed(layout: Layout) -> bool:
    return isinstance(layout, (Same, HeadsOut, HeadsIn)) or layout == Transposed()


def _outputs(rule: Rule, params: SavedParams) -> tuple[int, ...]:
    """How many of the module's outputs are those of each projection."""
    if isinstance(rule.layout, Fused):
        return rule.layout.sizes
    shape = rule.layout.reference_shape([params.shapes[path] for path in rule.parameters])
    return (shape[1] if conv1d(rule.layout) else shape[0],)


def conv1d(layout: Layout) -> bool:
    """Whether the reference's weight is [inputs, outputs], not [outputs, inputs] as a Linear's."""
    if isinstance(layout, Fused):
        return layout.axis == 1
    return isinstance(layout, Same) or getattr(layout, "conv1d", False)


def _rows(a: np.ndarray) -> np.ndarray:
    """lm's A [inputs ..., rank] as PEFT's [rank, inputs]."""
    return np.ascontiguousarray(a.reshape(-1, a.shape[-1]).T)


def _columns(b: np.ndarray, layout: Layout) -> np.ndarray:
    """lm's B [rank, outputs ...] as PEFT's [outputs, rank], with heads in the reference's order."""
    if isinstance(layout, HeadsOut):
        b = reordered(b, inverse(layout.order))
    return b.reshape(b.shape[0], -1).T


def _saved(plan: Plan, lora: LoRA, path: Sequence[str], params: SavedParams) -> Tensors:
    """What was trained beside the adapters, by the reference's names."""
    return {
        rule.reference: rule.layout.to_reference([params.read(name) for name in rule.parameters])
        for rule in plan.rules
        if not all(freezes(lora, "/".join((*path, name))) for name in rule.parameters)
    }


def _config(
    config: Config,
    lora: LoRA,
    modules: Sequence[_Module],
    saved: Mapping[str, Any],
    names: Sequence[str],
    base: str | None,
) -> dict[str, Any]:
    """adapter_config.json; `names` are those of all the reference's modules."""
    adapted = {module.name: module for module in modules}
    several = {name: module for name, module in adapted.items() if module.parts > 1}

    def alpha(parts: int) -> float:
        value = lora.alpha * (math.sqrt(parts) if lora.rank_stabilised else parts)
        return int(value) if value == int(value) else value

    return {
        "peft_type": "LORA",
        "task_type": _task_type(config),
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": alpha(1),
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rank_stabilised,
        "bias": "none",
        "init_lora_weights": True,
        "fan_in_fan_out": any(module.conv1d for module in modules),
        "target_modules": _short(list(adapted), names),
        "rank_pattern": {name: len(module.a) for name, module in several.items()},
        "alpha_pattern": {name: alpha(module.parts) for name, module in several.items()},
        "modules_to_save": sorted({name.rpartition(".")[0] for name in saved}) or None,
    }


def _short(chosen: Sequence[str], names: Sequence[str]) -> list[str]:
    """The last parts of the modules' names, where these say no more and no less."""
    lasts = {name.rpartition(".")[2] for name in chosen}
    meant = {name for name in names if name.rpartition(".")[2] in lasts}
    return sorted(lasts if meant == set(chosen) else chosen)


def _task_type(config: Config) -> str | None:
    objective = config.objective
    if isinstance(objective, (Classification, Regression)):
        return "SEQ_CLS"
    if isinstance(objective, TokenClassification):
        return "TOKEN_CLS"
    if isinstance(objective, QuestionAnswering):
        return "QUESTION_ANS"
    if config.model.lm_head == "none":
        return None
    return {"decoder": "CAUSAL_LM", "encoder_decoder": "SEQ_2_SEQ_LM"}.get(
        config.model.architecture
    )
