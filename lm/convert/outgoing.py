"""The model of a workdir becomes a Hugging Face folder."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from lm.config import Config, TaskBase
from lm.convert import safetensors
from lm.convert.accounting import check_covers, parameter_shapes
from lm.convert.families import Family, family_of_model
from lm.convert.folder import CONFIG as REFERENCE_CONFIG
from lm.convert.folder import INDEX, WEIGHTS
from lm.convert.layout import Rule
from lm.convert.outgoing_config import Dtype, generation_config, reference_config
from lm.convert.tensors import ByteProgress
from lm.convert.tokenizer import tokenizer_to_folder
from lm.data.cache import new_beside, sync
from lm.data.tokenizer import load_tokenizer
from lm.data.tokenizers.huggingface import HuggingFace
from lm.errors import ConfigError, UserError
from lm.train.checkpoint import Checkpoints
from lm.train.early_stopping import Step, chosen_step
from lm.train.parameters import Parameters
from lm.train.workdir import CHECKPOINTS, CONVERTED, TOKENIZER, read_config, read_json, write_json

DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
SHARD_SIZE = "5GB"
# For these transformers 5 uses a tokenizer class of their own, whatever tokenizer_config.json says.
_OWN_TOKENIZER = ("qwen2",)


class Export(NamedTuple):
    """What was written, for a summary."""

    family: str
    step: int
    parameters: int
    tensors: int
    num_bytes: int
    files: tuple[str, ...]
    notes: tuple[str, ...]


class SavedParams(Parameters):
    """The parameters of a checkpoint, read one at a time: the moving average where one is kept, and
    merged with the adapters there are."""

    def __init__(self, workdir: Path, step: Step, model: Sequence[str]) -> None:
        config = read_config(workdir)
        checkpoints = Checkpoints(workdir / CHECKPOINTS, report=_ignore)
        found = checkpoints.find(chosen_step(checkpoints, config, step))
        self.step = found.step
        field = "params" if found.state.get("ema") is None else "ema"
        # Where the objective trains several models, one of them is what is used.
        super().__init__(checkpoints, found.step, (field, *model), config.train.lora)


def export(
    workdir: Path,
    folder: Path,
    *,
    family: str | None = None,
    dtype: Dtype = "float32",
    step: Step = None,
    shard_size: str = SHARD_SIZE,
    flag: str = "--to",
) -> Export:
    """Writes the model of `workdir` as a Hugging Face folder, whole or not at all.

    Args:
      family: the one to write it as; None is the one it came from, else the first that can
        express it.
      step: the checkpoint's; "best" by its evaluation, None is the newest.
      shard_size: the most bytes of tensors in one file, such as "5GB".
      flag: what names `folder` on the command line, for messages.

    Raises:
      ConfigError: no family can express the model, or the named one cannot; a bad size.
      UserError: there is something in `folder`; no checkpoint; a number beyond `dtype`'s range.
    """
    limit = parse_size(shard_size)
    config = read_config(workdir)
    before = origin_of(workdir)
    chosen = family_for(config, family, before)
    check_empty(folder, flag)
    tokenizer = load_tokenizer(workdir / TOKENIZER)
    params = SavedParams(workdir, step, () if config.objective is None else config.objective.MODEL)
    plan = chosen.plan(config.model, None)
    check_same(params, config, workdir)
    check_covers(plan.rules, params.shapes)
    values = reference_config(config, chosen, before, tokenizer, dtype)
    with whole_folder(folder, flag) as new:
        write_json(new / REFERENCE_CONFIG, values)
        write_json(new / "generation_config.json", generation_config(values))
        num_bytes = _write_weights(new, plan.rules, params, DTYPES[dtype], limit)
        separators = _separators(config)
        tokenizer_to_folder(tokenizer, new, config.model, config.data, separators)
        files = tuple(sorted(path.name for path in new.iterdir()))
    count = sum(map(math.prod, params.shapes.values()))
    notes: tuple[str, ...] = ()
    if values["model_type"] in _OWN_TOKENIZER and not isinstance(tokenizer, HuggingFace):
        notes = (
            f"transformers reads the tokenizer of a {values['model_type']} folder by that family's "
            "own rules, which are not this tokenizer's: load it with "
            "PreTrainedTokenizerFast.from_pretrained, not with AutoTokenizer",
        )
    return Export(chosen.name, params.step, count, len(plan.rules), num_bytes, files, notes)


def _separators(config: Config) -> int | None:
    """Of an encoder's task, which reads its texts as `lm.objectives.tasks.rows.layout_of` says: how
    many tokens stand between two."""
    task = isinstance(config.objective, TaskBase) and config.model.architecture == "encoder"
    return getattr(config.objective, "separators", 1) if task else None


def check_same(params: SavedParams, config: Config, workdir: Path) -> None:
    """Raises UserError where the checkpoint is of another model than config.json describes."""
    wanted = parameter_shapes(config.model)
    names = sorted({*wanted, *params.shapes})
    wrong = [name for name in names if wanted.get(name) != params.shapes.get(name)]
    if wrong:
        lines = [
            f"  {name}: checkpoint {params.shapes.get(name, 'absent')}, config "
            f"{wanted.get(name, 'absent')}"
            for name in wrong[:5]
        ]
        raise UserError(
            f"the checkpoint in {workdir} is of another model than its config.json; the first of "
            f"{len(wrong)} parameters that differ:\n" + "\n".join(lines)
        )


def check_empty(folder: Path, flag: str = "--to") -> None:
    """Raises UserError where there is something in `folder` already."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{flag}={folder} is a file, not a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{flag}={folder} is not empty: name a new folder")


@contextlib.contextmanager
def whole_folder(folder: Path, flag: str = "--to") -> Iterator[Path]:
    """A new folder to write into, which becomes `folder` once all is written.

    Raises:
      UserError: there is something in `folder`, or it cannot be written.
    """
    check_empty(folder, flag)
    try:
        new = new_beside(folder)
    except OSError as error:
        raise UserError(f"cannot make {flag}={folder}: {error.strerror}") from error
    try:
        yield new
        sync(new)
        os.rename(new, folder)
    except OSError as error:
        raise UserError(f"could not write {flag}={folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def parse_size(text: str) -> int:
    """Bytes from a number with a unit, "5GB" or "500MB". Raises ConfigError for anything else."""
    digits = text.rstrip("BKMGTbkmgt").strip()
    unit = text[len(text.rstrip("BKMGTbkmgt")) :].upper() or "B"
    try:
        size = int(float(digits) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size < 1:
        raise ConfigError(f"--shard_size={text}: write a size such as 5GB or 500MB")
    return size


def origin_of(workdir: Path) -> dict[str, Any]:
    """convert.json of a model that was converted; {} of one that was trained here."""
    path = workdir / CONVERTED
    return read_json(path) if path.exists() else {}


def family_for(config: Config, name: str | None, origin: Mapping[str, Any]) -> Family:
    if name is None and "family" in origin:
        try:
            return family_of_model(config.model, origin["family"])
        except ConfigError:
            pass  # Its config was changed since; another family may still express it.
    return family_of_model(config.model, name)


# ---------------------------------------------------------------------------------------- tensors


def _write_weights(
    folder: Path, rules: Sequence[Rule], params: SavedParams, dtype: np.dtype, limit: int
) -> int:
    """The tensors in files of at most `limit` bytes (a larger tensor has a file of its own), with
    an index where there are several; the number of bytes."""
    shapes = {
        rule.reference: rule.layout.reference_shape([params.shapes[p] for p in rule.parameters])
        for rule in rules
    }
    sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()}
    shards: list[list[Rule]] = []
    room = 0
    for rule in rules:
        size = sizes[rule.reference]
        if not shards or size > room:
            shards.append([])
            room = limit
        shards[-1].append(rule)
        room -= size
    total = sum(sizes.values())
    progress = ByteProgress("exporting", total)
    weight_map: dict[str, str] = {}
    try:
        for index, shard in enumerate(shards):
            name = WEIGHTS
            if len(shards) > 1:
                name = f"model-{index + 1:05}-of-{len(shards):05}.safetensors"
            specs = {rule.reference: (dtype, shapes[rule.reference]) for rule in shard}
            safetensors.write_tensors(folder / name, specs, _arrays(shard, params, dtype, progress))
            weight_map.update(dict.fromkeys(specs, name))
    finally:
        progress.close()
    if len(shards) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return total


def _arrays(
    rules: Sequence[Rule], params: SavedParams, dtype: np.dtype, progress: ByteProgress
) -> Iterator[tuple[str, np.ndarray]]:
    for rule in rules:
        stored = rule.layout.to_reference([params.read(path) for path in rule.parameters])
        array = narrowed(stored, dtype, rule.reference)
        yield rule.reference, array
        progress.update(array.nbytes)


def narrowed(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """The array in `dtype`, rounded. Raises UserError where a number is beyond its range."""
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(array, dtype=dtype)
    if dtype != array.dtype:
        lost = np.isfinite(array) & ~np.isfinite(result)
        if lost.any():
            worst = float(np.abs(array[lost]).max())
            raise UserError(
                f"{name} has {int(lost.sum())} numbers beyond {dtype}'s range (up to {worst:.4g}): "
                "use --dtype=bfloat16 or float32"
            )
    return result


def _ignore(line: str) -> None:
    del line
