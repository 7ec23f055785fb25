"""Hugging Face folders: which files count, and what is wrong with others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lm.convert.folder import read_folder
from lm.errors import UserError
from tests.convert.files import (
    LLAMA,
    llama_shapes,
    random_tensors,
    write_folder,
    write_index,
    write_safetensors,
    write_shards,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """config.json and a tokenizer, no weights."""
    return write_folder(tmp_path / "model", LLAMA)


TENSORS = random_tensors(llama_shapes(LLAMA))


def test_one_file(folder: Path) -> None:
    write_safetensors(folder / "model.safetensors", TENSORS)
    reference = read_folder(folder)
    assert dict(reference.config) == LLAMA
    assert [path.name for path in reference.files] == ["config.json", "model.safetensors"]
    assert reference.tensors.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(reference.tensors[name].read(), array)
    assert reference.tokenizer().decode([1, 2]) != ""


def test_shards_are_one_checkpoint(folder: Path) -> None:
    write_shards(folder, TENSORS, 3)
    reference = read_folder(folder)
    assert len(reference.files) == 5
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(reference.tensors[name].read(), array)


def test_the_index_says_which_files_count(folder: Path) -> None:
    """A file left from another download is no part of the model."""
    write_shards(folder, TENSORS, 2)
    write_safetensors(folder / "model-00009-of-00009.safetensors", {"other": np.zeros(3)})
    assert read_folder(folder).tensors.keys() == TENSORS.keys()


def test_a_missing_shard_is_named(folder: Path) -> None:
    write_shards(folder, TENSORS, 3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00003\.safetensors is missing, and model"):
        read_folder(folder)


def test_a_tensor_that_its_shard_lacks_is_named(folder: Path) -> None:
    weight_map = write_shards(folder, TENSORS, 2)
    write_index(folder, {**weight_map, "model.extra": weight_map["lm_head.weight"]})
    with pytest.raises(
        UserError, match=r"names tensor 'model\.extra', which model-0000\d-of-00002"
    ):
        read_folder(folder)


def test_a_tensor_that_the_index_lacks_is_named(folder: Path) -> None:
    weight_map = write_shards(folder, TENSORS, 2)
    del weight_map["lm_head.weight"]
    write_index(folder, weight_map)
    with pytest.raises(UserError, match=r"tensor 'lm_head\.weight' is not in model\.safetensors\."):
        read_folder(folder)


def test_a_tensor_in_two_shards_is_named(folder: Path) -> None:
    weight_map = write_shards(folder, TENSORS, 2)
    for file in set(weight_map.values()):
        write_safetensors(folder / file, TENSORS)
    with pytest.raises(UserError, match="is also in "):
        read_folder(folder)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "model.bin"])
def test_an_index_names_files_beside_it_only(folder: Path, name: str) -> None:
    write_index(folder, {"model.norm.weight": name})
    with pytest.raises(UserError, match="which is no safetensors file beside it"):
        read_folder(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_named(folder: Path, content: str) -> None:
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json"):
        read_folder(folder)


def test_pickles_are_refused_with_the_reason_and_the_way_out(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02cos\nsystem\n")
    with pytest.raises(UserError) as caught:
        read_folder(folder)
    message = str(caught.value)
    assert "has only pytorch_model.bin: a pickle can run any code when it is opened" in message
    assert "from_pretrained(DIR).save_pretrained(NEW)" in message


def test_pickles_beside_safetensors_do_no_harm(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02cos\nsystem\n")
    write_safetensors(folder / "model.safetensors", TENSORS)
    assert read_folder(folder).tensors.keys() == TENSORS.keys()


def test_a_folder_without_weights_says_so(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no weights in .*: it has neither model\.safetensors nor"):
        read_folder(folder)


def test_a_file_of_another_name_is_not_guessed_at(folder: Path) -> None:
    write_safetensors(folder / "adapter_model.safetensors", TENSORS)
    with pytest.raises(UserError, match=r"has adapter_model\.safetensors, but neither model\."):
        read_folder(folder)


def test_a_folder_without_config_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a Hugging Face folder: it has no config.json"):
        read_folder(tmp_path)


@pytest.mark.parametrize(("content", "message"), [("{", "not valid JSON"), ("3", "not a JSON obj")])
def test_a_damaged_config_is_named(folder: Path, content: str, message: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=rf"config\.json is {message}"):
        read_folder(folder)


def test_quantised_folders_are_refused(folder: Path) -> None:
    (folder / "config.json").write_text(
        json.dumps({**LLAMA, "quantization_config": {"quant_method": "gptq"}})
    )
    with pytest.raises(UserError, match="the tensors are quantised"):
        read_folder(folder)
