"""Adapters out and in again: what PEFT would add to a tensor is what the merged model has there."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lm.cli.main import main
from lm.config import LoRA, Rotary
from lm.convert import safetensors
from lm.convert.folder import read_folder
from lm.convert.incoming import convert, read_reference
from lm.convert.outgoing import export
from lm.convert.peft import CONFIG, PREFIX, WEIGHTS, export_adapter
from lm.convert.peft_incoming import merge_adapter
from lm.errors import ConfigError, UserError
from lm.train.workdir import load_run
from tests.convert.adapters import adapt
from tests.convert.files import GPT2, LLAMA, gpt2_shapes, llama_shapes, random_tensors, write_folder

EVERY = r".*/(attention|mlp)/\w+"
INTERLEAVED = {"position": Rotary(interleaved=True)}
# Adapters that add nothing.
NOTHING = LoRA(rank=1, targets="layer_0/mlp/up", alpha=1e-30)
# The folder, the adapters, changes of the model, the modules, and the ranks of fused ones.
CASES: dict[str, tuple[dict[str, Any], LoRA, Mapping[str, Any], list[str], list[int]]] = {
    "llama": (LLAMA, LoRA(rank=2), {}, ["q_proj", "v_proj"], []),
    "other pairs": (
        LLAMA,
        LoRA(rank=2, targets=EVERY),
        INTERLEAVED,
        ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
        [],
    ),
    "two of a fused three": (GPT2, LoRA(rank=2, alpha=6.0), {}, ["c_attn"], [4, 4]),
    "rank-stabilised": (
        GPT2,
        LoRA(rank=2, alpha=6.0, rank_stabilised=True, targets=EVERY),
        {},
        ["c_attn", "c_fc", "c_proj"],
        [6, 6],
    ),
}


def base_of(tmp_path: Path, config: dict[str, Any]) -> Path:
    shapes = llama_shapes if config is LLAMA else gpt2_shapes
    folder = write_folder(tmp_path / "folder", config, random_tensors(shapes(config)))
    convert(read_reference(folder), tmp_path / "W")
    return tmp_path / "W"


def settings_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / CONFIG).read_text())


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in read_folder(folder).tensors.items()}


@pytest.mark.parametrize("name", CASES)
def test_what_peft_adds_is_what_was_merged(name: str, tmp_path: Path) -> None:
    config, lora, changes, modules, ranks = CASES[name]
    base = base_of(tmp_path, config)
    run = adapt(base, tmp_path / "run", lora, changes)
    done = export_adapter(run, tmp_path / "adapter")
    found = safetensors.read_tensors(tmp_path / "adapter" / WEIGHTS)
    tensors = {name: tensor.read() for name, tensor in found.items()}
    settings = settings_of(tmp_path / "adapter")
    assert settings["target_modules"] == modules and done.tensors == len(tensors)
    assert sorted(settings["rank_pattern"].values()) == ranks
    assert settings["base_model_name_or_path"] == str(tmp_path / "folder")
    assert settings["task_type"] == "CAUSAL_LM" and settings["modules_to_save"] is None
    assert settings["fan_in_fan_out"] == (config is GPT2)

    export(run, tmp_path / "merged")
    export(adapt(base, tmp_path / "zero", NOTHING, changes), tmp_path / "base")
    added = tensors_of(tmp_path / "base")
    for module in {n.removesuffix(".lora_A.weight") for n in tensors if ".lora_A." in n}:
        a, b = (tensors[f"{module}.lora_{x}.weight"] for x in "AB")
        short = module.removeprefix(PREFIX)
        alpha = settings["alpha_pattern"].get(short, settings["lora_alpha"])
        assert settings["rank_pattern"].get(short, settings["r"]) == len(a)
        scale = alpha / (math.sqrt(len(a)) if settings["use_rslora"] else len(a))
        delta = scale * (b @ a)
        added[f"{short}.weight"] = added[f"{short}.weight"] + (
            delta.T if settings["fan_in_fan_out"] else delta
        )
    for tensor, array in tensors_of(tmp_path / "merged").items():
        np.testing.assert_allclose(added[tensor], array, rtol=1e-5, atol=1e-6, err_msg=tensor)


@pytest.mark.parametrize("name", ["llama", "rank-stabilised"])
def test_out_and_in_again_is_the_merged_model(name: str, tmp_path: Path) -> None:
    config, lora, _, _, _ = CASES[name]
    base = base_of(tmp_path, config)
    run = adapt(base, tmp_path / "run", lora)
    command = ["convert", f"--workdir={run}", f"--to={tmp_path / 'adapter'}", "--format=peft"]
    assert main(command) == 0
    command = ["convert", f"--from={tmp_path / 'adapter'}", f"--base={base}"]
    assert main([*command, f"--workdir={tmp_path / 'again'}"]) == 0
    one, other = load_run(run), load_run(tmp_path / "again")
    assert other.config.train.lora is None
    for a, b in zip(*(jax.tree.leaves(r.params) for r in (one, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    # What came in goes out as what it is.
    assert export(tmp_path / "again", tmp_path / "out").family == config["model_type"]


def test_what_cannot_go_out_or_come_in(tmp_path: Path) -> None:
    base = base_of(tmp_path, LLAMA)
    with pytest.raises(ConfigError, match="has no adapters"):
        export_adapter(base, tmp_path / "adapter")
    run = adapt(base, tmp_path / "run", LoRA(rank=2))
    export_adapter(run, tmp_path / "adapter")

    def broken(name: str, tensors: dict[str, np.ndarray] | None = None, **changes: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(tmp_path / "adapter", folder)
        (folder / CONFIG).write_text(json.dumps({**settings_of(folder), **changes}))
        if tensors is not None:
            specs = {n: (x.dtype, x.shape) for n, x in tensors.items()}
            safetensors.write_tensors(folder / WEIGHTS, specs, tensors.items())
        return folder

    with pytest.raises(UserError, match="use_dora=True is not supported"):
        merge_adapter(broken("dora", use_dora=True), base, tmp_path / "new")
    wrong = np.ones((2, 5), np.float32)
    query = f"{PREFIX}model.layers.0.self_attn.q_proj"
    other = broken("other", {f"{query}.lora_{x}.weight": wrong for x in "AB"})
    with pytest.raises(UserError, match=r"lora_A.weight is \[2, 5\], the model says \[2, 16\]"):
        merge_adapter(other, base, tmp_path / "new")
    unknown = broken("unknown", {"x.lora_A.weight": wrong})
    with pytest.raises(UserError, match=r"1 tensors are of no module of the model in .*: x.lora_A"):
        merge_adapter(unknown, base, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert main(["convert", f"--from={unknown}", f"--workdir={tmp_path / 'new'}"]) == 2
