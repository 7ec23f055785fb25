"""The model of a workdir becomes a Hugging Face folder."""

from __future__ import annotations

import functools
import math
import operator
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np

from lm.config import Config, Learned, XLNetRelative
from lm.convert import safetensors
from lm.convert.accounting import check_covers, parameter_shapes
from lm.convert.families import Family, family_of_model
from lm.convert.folder import CONFIG as REFERENCE_CONFIG
from lm.convert.folder import INDEX, WEIGHTS
from lm.convert.layout import Rule
from lm.convert.tensors import ByteProgress
from lm.convert.tokenizer import tokenizer_to_folder
from lm.data.cache import new_beside, sync
from lm.data.tokenizer import Tokenizer, load_tokenizer
from lm.data.tokenizers.huggingface import HuggingFace
from lm.errors import ConfigError, UserError
from lm.train.checkpoint import Checkpoints
from lm.train.restoring import named_shapes
from lm.train.workdir import CHECKPOINTS, CONVERTED, TOKENIZER, read_config, read_json, write_json

Dtype = Literal["float32", "float16", "bfloat16"]
DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
SHARD_SIZE = "5GB"
# For these transformers 5 uses a tokenizer class of their own, whatever tokenizer_config.json says.
_OWN_TOKENIZER = ("qwen2",)
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


class Export(NamedTuple):
    """What was written, for a summary."""

    family: str
    step: int
    parameters: int
    tensors: int
    num_bytes: int
    files: tuple[str, ...]
    notes: tuple[str, ...]


class _Params:
    """The parameters of a checkpoint, read one at a time: the moving average where one is kept."""

    def __init__(self, workdir: Path, step: int | None, model: Sequence[str]) -> None:
        self._checkpoints = Checkpoints(workdir / CHECKPOINTS, report=_ignore)
        found = self._checkpoints.find(step)
        self.step = found.step
        field = "params" if found.state.get("ema") is None else "ema"
        # Where the objective trains several models, one of them is what is used.
        self._path = (field, *model)
        self.shapes = named_shapes(functools.reduce(operator.getitem, self._path, found.state))

    def read(self, path: str) -> np.ndarray:
        return self._checkpoints.read_leaf(self.step, (*self._path, *path.split("/")))


def export(
    workdir: Path,
    folder: Path,
    *,
    family: str | None = None,
    dtype: Dtype = "float32",
    step: int | None = None,
    shard_size: str = SHARD_SIZE,
) -> Export:
    """Writes the model of `workdir` as a Hugging Face folder, whole or not at all.

    Args:
      family: the one to write it as; None is the one it came from, else the first that can
        express it.
      step: the checkpoint's; None is the newest.
      shard_size: the most bytes of tensors in one file, such as "5GB".

    Raises:
      ConfigError: no family can express the model, or the named one cannot; a bad size.
      UserError: there is something in `folder`; no checkpoint; a number beyond `dtype`'s range.
    """
    limit = parse_size(shard_size)
    config = read_config(workdir)
    before = _origin(workdir)
    chosen = _family(config, family, before)
    check_empty(folder)
    tokenizer = load_tokenizer(workdir / TOKENIZER)
    params = _Params(workdir, step, () if config.objective is None else config.objective.MODEL)
    plan = chosen.plan(config.model, None)
    _check_same(params, config, workdir)
    check_covers(plan.rules, params.shapes)
    try:
        partial_dir = new_beside(folder)
    except OSError as error:
        raise UserError(f"cannot make --to={folder}: {error.strerror}") from error
    try:
        values = reference_config(config, chosen, before, tokenizer, dtype)
        write_json(partial_dir / REFERENCE_CONFIG, values)
        write_json(partial_dir / "generation_config.json", _generation(values))
        num_bytes = _write_weights(partial_dir, plan.rules, params, DTYPES[dtype], limit)
        tokenizer_to_folder(tokenizer, partial_dir, config.model, config.data)
        sync(partial_dir)
        files = tuple(sorted(path.name for path in partial_dir.iterdir()))
        os.rename(partial_dir, folder)
    except OSError as error:
        raise UserError(f"could not write --to={folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial_dir, ignore_errors=True)
    count = sum(map(math.prod, params.shapes.values()))
    notes: tuple[str, ...] = ()
    if values["model_type"] in _OWN_TOKENIZER and not isinstance(tokenizer, HuggingFace):
        notes = (
            f"transformers reads the tokenizer of a {values['model_type']} folder by that family's "
            "own rules, which are not this tokenizer's: load it with "
            "PreTrainedTokenizerFast.from_pretrained, not with AutoTokenizer",
        )
    return Export(chosen.name, params.step, count, len(plan.rules), num_bytes, files, notes)


def _check_same(params: _Params, config: Config, workdir: Path) -> None:
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


def check_empty(folder: Path) -> None:
    """Raises UserError where there is something in `folder` already."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--to={folder} is a file, not a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--to={folder} is not empty: name a new folder")


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


# ------------------------------------------------------------------------------------ config.json


def _origin(workdir: Path) -> dict[str, Any]:
    """convert.json of a model that was converted; {} of one that was trained here."""
    path = workdir / CONVERTED
    return read_json(path) if path.exists() else {}


def _family(config: Config, name: str | None, origin: Mapping[str, Any]) -> Family:
    if name is None and "family" in origin:
        try:
            return family_of_model(config.model, origin["family"])
        except ConfigError:
            pass  # Its config was changed since; another family may still express it.
    return family_of_model(config.model, name)


def reference_config(
    config: Config,
    family: Family,
    origin: Mapping[str, Any],
    tokenizer: Tokenizer,
    dtype: Dtype,
) -> dict[str, Any]:
    """config.json: what the family says of the model, and of what the model does not say (token
    ids, the longest sequence) what the config.json that it came from said, or else this run."""
    written = family.write_config(config.model)
    values: dict[str, Any] = {}
    # XLNet knows no longest sequence: its config refuses to be told one.
    if not isinstance(config.model.position, (Learned, XLNetRelative)):
        values["max_position_embeddings"] = config.data.sequence_length
    for name in _TOKENS:
        token = getattr(tokenizer, name.replace("_token", ""))
        if token is not None:
            values[name] = token
    if origin.get("family") == family.name:
        own = origin["config"]
        # As another kind of the family (llama for qwen2), its other keys would mean something else.
        same = own.get("model_type") == written["model_type"]
        values.update(own if same else {k: own[k] for k in (*values, *_TOKENS) if k in own})
    labels: dict[str, Any] = {k: values[k] for k in ("id2label", "label2id") if k in values}
    values.update(written)
    if len(labels.get("id2label") or ()) == len(written.get("id2label", ())):
        # The names of a classifier's labels: the model only knows how many there are.
        values.update(labels)
    # Both spellings: transformers 5 says dtype, everything before it torch_dtype.
    values.update(dtype=dtype, torch_dtype=dtype)
    return values


def _generation(values: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json: where generation starts and stops."""
    names = (*_TOKENS, "decoder_start_token_id")
    known = {name: values[name] for name in names if values.get(name) is not None}
    return {"_from_model_config": True, **known}


# ---------------------------------------------------------------------------------------- tensors


def _write_weights(
    folder: Path, rules: Sequence[Rule], params: _Params, dtype: np.dtype, limit: int
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
    rules: Sequence[Rule], params: _Params, dtype: np.dtype, progress: ByteProgress
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
