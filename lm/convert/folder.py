"""Hugging Face folders: config.json, safetensors in one file or several, tokenizer files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm.convert import safetensors
from lm.convert.tensors import Reference, Tensor
from lm.convert.tokenizer import tokenizer_flags, tokenizer_from_folder
from lm.errors import UserError

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# What torch.save and its kin write.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_HOW_TO_GET_SAFETENSORS = (
    "a pickle can run any code when it is opened, so lm never opens one. Get safetensors instead: "
    "the model's page may offer them, or where you trust the file, with transformers and torch: "
    "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW) (or the class of the "
    "model's kind)"
)


def read_folder(folder: Path) -> Reference:
    """The checkpoint in `folder`, none of its tensors read yet.

    Raises:
      UserError: no config.json or no safetensors there, or a damaged file; the message says which.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} is not a Hugging Face folder: it has no {CONFIG}")
    config = read_object(path)
    if config.get("quantization_config") is not None:
        raise UserError(
            f"{path}: the tensors are quantised (quantization_config), which lm reads in GGUF "
            "only: take the model's unquantised folder"
        )
    files = tuple(_weight_files(folder))
    tensors: dict[str, Tensor] = {}
    for file in files:
        if file.name != INDEX:
            for name, tensor in safetensors.read_tensors(file).items():
                if name in tensors:
                    raise UserError(f"{tensor.where} is also in {tensors[name].where}")
                tensors[name] = tensor
    if (folder / INDEX) in files:
        _check_index(folder / INDEX, tensors)
    return Reference(
        format="huggingface",
        path=folder,
        config=config,
        tensors=tensors,
        files=(path, *files),
        tokenizer=lambda: tokenizer_from_folder(folder),
        wraps=lambda: tokenizer_flags(folder),
    )


def refuse_pickle(path: Path) -> None:
    """Raises UserError for a file that is a pickle by its first bytes."""
    with path.open("rb") as file:
        start = file.read(4)
    # A zip archive (torch.save since 1.6), a pickle of protocol 2 to 5, a tar of torch before 0.4.
    if start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"):
        raise UserError(f"{path} is a pickle: {_HOW_TO_GET_SAFETENSORS}")


def _weight_files(folder: Path) -> Iterator[Path]:
    """The index, where there is one, and the files with tensors."""
    index = folder / INDEX
    if index.is_file():
        yield index
        for name in sorted(set(_weight_map(index).values())):
            # The index comes with the download: it must not name files elsewhere.
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise UserError(f"{index} names {name!r}, which is no safetensors file beside it")
            if not (folder / name).is_file():
                raise UserError(f"{folder / name} is missing, and {index.name} names it")
            yield folder / name
        return
    if (folder / WEIGHTS).is_file():
        yield folder / WEIGHTS
        return
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        raise UserError(
            f"{folder} has {', '.join(others[:3])}, but neither {WEIGHTS} nor {INDEX}: one file is "
            f"to be called {WEIGHTS}, several need their index"
        )
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise UserError(f"{folder} has only {', '.join(pickles[:3])}: {_HOW_TO_GET_SAFETENSORS}")
    raise UserError(f"no weights in {folder}: it has neither {WEIGHTS} nor {INDEX}")


def _weight_map(index: Path) -> dict[str, str]:
    found = read_object(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise UserError(f"{index} is damaged: it has no weight_map from tensors to files")
    return found


def _check_index(index: Path, tensors: dict[str, Tensor]) -> None:
    listed = _weight_map(index)
    for name in sorted({*listed, *tensors}):
        if name not in tensors:
            raise UserError(f"{index} names tensor {name!r}, which {listed[name]} does not have")
        if name not in listed:
            raise UserError(f"{tensors[name].where} is not in {index.name}")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError where it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"could not read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object")
    return value
