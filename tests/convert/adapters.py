"""A run with adapters on a model that came from a small Hugging Face folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lm.config import LoRA
from lm.model.lora import with_adapters
from lm.train.checkpoint import Checkpoints
from lm.train.workdir import load_run, read_config, write_config, write_json


def adapt(base: Path, workdir: Path, lora: LoRA, model: Mapping[str, Any] | None = None) -> Path:
    """A run in `workdir` that began from the model in `base` (changed in these switches), whose
    adapters are random numbers."""
    config = read_config(base)
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, lora=lora),
        model=dataclasses.replace(config.model, **(model or {})),
    )
    workdir.mkdir()
    write_config(workdir, config)
    run = load_run(base)
    run.tokenizer.save(workdir / "tokenizer")
    params = with_adapters(run.params, lora, jax.random.key(0))
    rng = np.random.default_rng(0)

    def random(path: Any, leaf: Any) -> np.ndarray:
        new = "lora" in jax.tree_util.keystr(path)
        return rng.normal(0, 0.2, leaf.shape).astype(np.float32) if new else np.asarray(leaf)

    state = {"step": np.asarray(3), "params": jax.tree_util.tree_map_with_path(random, params)}
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint)
    checkpoints.save(3, state, {}, {"evaluation": {}})
    checkpoints.close()
    session = {"warm_start": {"workdir": str(base)}, "data_root": str(base)}
    write_json(workdir / "manifest.json", {"sessions": [session]})
    return workdir
