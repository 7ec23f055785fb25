"""PEFT reads our adapters and computes what we do, and we read PEFT's. Where it is installed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import Classification, LoRA
from lm.convert.incoming import convert, read_reference
from lm.convert.peft import export_adapter
from lm.convert.peft_incoming import merge_adapter
from lm.objectives import build_objective
from lm.train.workdir import load_run, read_config, write_config
from tests.convert.adapters import adapt
from tests.convert.files import GPT2, LLAMA, gpt2_shapes, llama_shapes, random_tensors, write_folder

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOKENS = np.arange(14).reshape(2, 7) * 5 + 3
SHAPES: dict[str, Any] = {"gpt2": (GPT2, gpt2_shapes), "llama": (LLAMA, llama_shapes)}
EVERY = LoRA(rank=2, alpha=3.0, targets=r".*/(attention|mlp)/\w+", rank_stabilised=True)
LABELS = ("a", "b", "c")


def base_of(name: str, tmp_path: Path) -> tuple[Path, Path]:
    config, shapes = SHAPES[name]
    folder = write_folder(tmp_path / "folder", config, random_tensors(shapes(config)))
    convert(read_reference(folder), tmp_path / "W")
    return folder, tmp_path / "W"


def ours(workdir: Path) -> np.ndarray:
    run = load_run(workdir)
    return np.asarray(run.model.apply({"params": run.params}, jnp.asarray(TOKENS, jnp.int32))[0])


def theirs(model: Any) -> np.ndarray:
    model.eval()
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("lora", [LoRA(rank=2), EVERY])
def test_peft_computes_what_we_do(name: str, lora: LoRA, tmp_path: Path) -> None:
    folder, base = base_of(name, tmp_path)
    run = adapt(base, tmp_path / "run", lora)
    export_adapter(run, tmp_path / "adapter")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    before = theirs(model)
    adapted = peft.PeftModel.from_pretrained(model, tmp_path / "adapter")
    found = theirs(adapted)
    assert np.abs(found - before).max() > 1e-2
    close(found, ours(run))
    close(theirs(adapted.merge_and_unload()), found)


@pytest.mark.parametrize(
    ("name", "modules"), [("gpt2", ["c_attn", "c_fc"]), ("llama", "all-linear")]
)
def test_we_compute_what_peft_does(name: str, modules: Any, tmp_path: Path) -> None:
    folder, base = base_of(name, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    settings = peft.LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules=modules,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
        alpha_pattern={"c_fc": 9, "layers.0.mlp.up_proj": 9},
    )
    model = peft.get_peft_model(model, settings)
    model.save_pretrained(tmp_path / "adapter")
    merge_adapter(tmp_path / "adapter", base, tmp_path / "new")
    close(ours(tmp_path / "new"), theirs(model))


def test_the_head_of_a_classifier_goes_along(tmp_path: Path) -> None:
    config = {**LLAMA, "architectures": ["LlamaForSequenceClassification"], "pad_token_id": 299}
    config["id2label"] = {str(i): name for i, name in enumerate(LABELS)}
    shapes = {k: v for k, v in llama_shapes(config).items() if k != "lm_head.weight"}
    tensors = random_tensors({**shapes, "score.weight": (3, config["hidden_size"])})
    folder = write_folder(tmp_path / "folder", config, tensors)
    convert(read_reference(folder), tmp_path / "W")
    run = adapt(tmp_path / "W", tmp_path / "run", LoRA(rank=2))
    task = Classification(labels=LABELS)
    write_config(run, dataclasses.replace(read_config(run), objective=task))
    export_adapter(run, tmp_path / "adapter")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    # The head is the adapter's, not the base's.
    torch.nn.init.zeros_(model.score.weight)
    found = theirs(peft.PeftModel.from_pretrained(model, tmp_path / "adapter"))
    loaded = load_run(run)
    positions = jnp.broadcast_to(jnp.arange(7, dtype=jnp.int32), TOKENS.shape)
    batch = {"tokens": jnp.asarray(TOKENS, jnp.int32), "positions": positions}
    objective: Any = build_objective(task, loaded.config.model)
    close(found, np.asarray(objective.logits(loaded.params, batch)))
