"""A checkpoint of another library becomes a workdir."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lm
from lm.config import CausalLM, Config, DataConfig, Duration, Learned, ModelConfig, TrainConfig
from lm.convert.accounting import account, parameter_shapes
from lm.convert.families import Family, family_of_folder
from lm.convert.folder import PICKLES, read_folder, refuse_pickle
from lm.convert.gguf import MAGIC
from lm.convert.gguf_models import read_gguf
from lm.convert.layout import Plan, Rule
from lm.convert.llama2c import read_llama2c
from lm.convert.store import LazyArray, write_checkpoint
from lm.convert.tensors import ByteProgress, Reference, Tensor, sha256
from lm.convert.tokenizer import (
    flags_of,
    tokenizer_config,
    tokenizer_flags,
    tokenizer_from_folder,
)
from lm.data.cache import new_beside, sync
from lm.data.tokenizer import METADATA, Tokenizer, load_any
from lm.errors import UserError
from lm.train.restoring import nested
from lm.train.workdir import CHECKPOINTS, CONFIG, CONVERTED, TOKENIZER, write_config, write_json

# Where a reference's config says nothing of lengths, because any will do (T5's relative positions).
DEFAULT_LENGTH = 512
# Files of a tokenizer's folder that say what stands around a text.
_SAY_HOW = ("tokenizer.json", "tokenizer_config.json", "config.json")
# Otherwise: bos (or [CLS]) before and eos (or [SEP]) after a text, by the reference's model_type.
_WRAPS = {
    **dict.fromkeys(
        ("bert", "electra", "roberta", "xlm-roberta", "camembert", "bart"), (True, True)
    ),
    **dict.fromkeys(("t5", "mt5", "m2m_100", "marian"), (False, True)),
    **dict.fromkeys(("llama", "mistral"), (True, False)),
}
_LENGTHS = ("max_position_embeddings", "n_positions")


class Conversion(NamedTuple):
    """What was converted, for a summary."""

    family: str
    model: ModelConfig
    parameters: int
    tensors: int
    ignored: tuple[str, ...]


def read_reference(source: Path, tokenizer: Path | None = None) -> Reference:
    """The checkpoint in a Hugging Face folder, a GGUF file or a llama2.c file; `tokenizer` is where
    its tokenizer is, if not there.

    Raises:
      UserError: none of these, a pickle, or damaged.
    """
    if source.is_dir():
        reference = read_folder(source)
    elif not source.is_file():
        raise UserError(f"--from={source}: there is no such folder or file")
    elif source.suffix == ".safetensors" or source.name.endswith(".index.json"):
        raise UserError(
            f"--from={source}: the tensors alone do not say what model they are of; name the "
            "folder that also has config.json"
        )
    else:
        with source.open("rb") as file:
            start = file.read(4)
        if source.suffix == ".gguf" or start == MAGIC:
            reference = read_gguf(source)
        elif source.suffix == ".bin":
            return read_llama2c(source, tokenizer)
        else:
            if source.suffix in PICKLES:
                refuse_pickle(source)
            raise UserError(
                f"--from={source}: expected a Hugging Face folder, a .gguf file or llama2.c's .bin"
            )
    if tokenizer is not None:
        return _with_tokenizer(reference, tokenizer)
    return reference


def _with_tokenizer(reference: Reference, path: Path) -> Reference:
    """The same with another tokenizer: a Hugging Face folder's, or anything `load_any` reads.
    Where its files do not say what stands around a text, that is what the model's family has."""

    def load() -> Tokenizer:
        other = path.is_dir() and not (path / METADATA).exists()
        return tokenizer_from_folder(path) if other else load_any(path)

    def wraps() -> dict[str, bool]:
        if path.is_dir() and any((path / name).exists() for name in _SAY_HOW):
            return tokenizer_flags(path)
        tokenizer = load()
        if any(tokenizer.wrapping):
            return flags_of(tokenizer)
        bos, eos = _WRAPS.get(str(reference.config.get("model_type")), (False, False))
        return {"add_bos": bos, "add_eos": eos}

    return dataclasses.replace(reference, tokenizer=load, wraps=wraps)


def convert(reference: Reference, workdir: Path) -> Conversion:
    """Writes `reference` as a workdir, whole or not at all.

    Raises:
      UserError: there is something in `workdir`; a tensor is missing, left over or of another
        shape; the disk is full.
    """
    check_new(workdir)
    family = family_of_folder(reference.config)
    model = family.read_config(reference.config, reference.tensors.keys())
    plan = family.plan(model, reference.tensors.keys())
    ignored = account(reference, plan, model)
    tokenizer = _tokenizer(reference, model)
    config = _config(reference, model, tokenizer)
    try:
        partial_dir = new_beside(workdir)
    except OSError as error:
        raise UserError(f"cannot make --workdir={workdir}: {error.strerror}") from error
    try:
        tokenizer.save(partial_dir / TOKENIZER)
        write_config(partial_dir, config)
        params = _write(reference, plan, model, partial_dir / CHECKPOINTS)
        provenance = _provenance(reference, family, ignored)
        write_json(partial_dir / CONVERTED, provenance)
        sync(partial_dir)
        try:
            os.rename(partial_dir, workdir)
        except OSError as error:
            raise UserError(f"cannot make --workdir={workdir}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial_dir, ignore_errors=True)
    return Conversion(family.name, model, params, len(reference.tensors), ignored)


def check_new(workdir: Path, flag: str = "--workdir") -> None:
    """Raises UserError where there is something in `workdir`, which `flag` named, already."""
    if not workdir.exists():
        return
    if not workdir.is_dir():
        raise UserError(f"{flag}={workdir} is a file, not a folder")
    if (workdir / CONFIG).exists() or (workdir / CHECKPOINTS).exists():
        what = "a converted model" if (workdir / CONVERTED).exists() else "a run"
        raise UserError(f"{flag}={workdir} holds {what} already: name a new folder")
    if any(workdir.iterdir()):
        raise UserError(f"{flag}={workdir} is not empty: name a new folder")


# ---------------------------------------------------------------------------------------- writing


def _write(reference: Reference, plan: Plan, model: ModelConfig, directory: Path) -> int:
    """Writes the checkpoint; the number of parameters."""
    shapes = parameter_shapes(model)
    total = sum(4 * int(np.prod(shape)) for shape in shapes.values())
    progress = ByteProgress("converting", total)

    def read(rule: Rule, index: int) -> np.ndarray:
        tensor = reference.tensors[rule.reference]
        part = rule.layout.to_lm(tensor.read())[index]
        array = _as_float32(part, tensor)
        progress.update(array.nbytes)
        return array

    leaves = {
        path: LazyArray(shapes[path], np.dtype(np.float32), partial(read, rule, index))
        for rule in plan.rules
        for index, path in enumerate(rule.parameters)
    }
    try:
        write_checkpoint(directory, nested(leaves), data={}, meta={"evaluation": {}})
    finally:
        progress.close()
    return total // 4


def _as_float32(part: np.ndarray, tensor: Tensor) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(part, dtype=np.float32)
    if part.dtype == np.float64 and not np.array_equal(np.isfinite(array), np.isfinite(part)):
        raise UserError(f"{tensor.where} has numbers beyond float32, in which lm keeps parameters")
    return array


def _tokenizer(reference: Reference, model: ModelConfig) -> Tokenizer:
    try:
        tokenizer = reference.tokenizer()
    except UserError as error:
        if "--tokenizer" in str(error):
            raise
        raise UserError(f"{error}; one elsewhere is named with --tokenizer=") from error
    if tokenizer.vocab_size > model.vocab_size:
        raise UserError(
            f"the tokenizer of {reference.path} has {tokenizer.vocab_size} tokens, the model "
            f"{model.vocab_size}: is it another model's? Name the right one with --tokenizer="
        )
    return tokenizer


def _config(reference: Reference, model: ModelConfig, tokenizer: Tokenizer) -> Config:
    """The config of a workdir whose model is to be used, or trained from."""
    decoder = model.architecture == "decoder" and model.lm_head != "none"
    wraps = reference.wraps()
    return Config(
        model=model,
        data=DataConfig(
            train={},
            tokenizer=tokenizer_config(tokenizer, None),
            sequence_length=_length(reference, model),
            add_bos=bool(wraps.get("add_bos")) and tokenizer.bos_id is not None,
            add_eos=bool(wraps.get("add_eos")) and tokenizer.eos_id is not None,
        ),
        train=TrainConfig(batch_size=8, duration=Duration(steps=0)),
        objective=CausalLM() if decoder else None,
    )


def _length(reference: Reference, model: ModelConfig) -> int:
    if isinstance(model.position, Learned):
        return model.position.max_length
    given = [reference.config.get(name) for name in _LENGTHS]
    return next((n for n in given if isinstance(n, int) and n > 0), DEFAULT_LENGTH)


def _provenance(reference: Reference, family: Family, ignored: Iterable[str]) -> dict[str, Any]:
    """What convert.json says of where the model is from."""
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in reference.files
    }
    return {
        "from": str(reference.path.absolute()),
        "format": reference.format,
        "family": family.name,
        "converted": datetime.now(UTC).isoformat(timespec="seconds"),
        "lm_version": lm.__version__,
        "files": files,
        "ignored": list(ignored),
        "metadata": dict(reference.metadata),
        "config": dict(reference.config),
    }
