"""Files that put a peer where we stand: our initial parameters, and our batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.bench.workload import BATCHES, PARAMETERS
from lm.config import Config, ModelConfig, from_dict
from lm.convert import safetensors
from lm.convert.families import family_of_model
from lm.convert.folder import CONFIG, WEIGHTS
from lm.model import build_model
from lm.objectives import build_objective
from lm.train import setup
from lm.train.state import boxed_params
from lm.train.workdir import write_json
from lm.types import Params


class Training:
    """Writes to `folder` a run's initial parameters by path, and the tokens and targets of its
    first `steps` batches [steps, B, T]; a Hugging Face folder too, where `convert` says so."""

    def __init__(
        self,
        config: dict[str, Any],
        data_root: str,
        cache_dir: str,
        folder: str,
        steps: int,
        convert: bool,
    ) -> None:
        self._config = from_dict(Config, config)
        self._places = Path(data_root), Path(cache_dir)
        self._folder, self._steps, self._convert = Path(folder), steps, convert

    def prepare(self) -> dict[str, Any]:
        config = self._config
        assert config.objective is not None
        objective = build_objective(config.objective, config.model)
        dataset = setup.open_dataset(config, objective, *self._places, None)
        rows = config.train.batch_size
        batches = [dataset.batch(step, rows) for step in range(self._steps)]
        tokens, targets = (np.stack([x[name] for x in batches]) for name in ("tokens", "targets"))
        np.savez(self._folder / BATCHES, tokens=tokens, targets=targets)
        # Compiled, as a run's own: rounding differs otherwise.
        init = jax.jit(lambda: boxed_params(objective, batches[0], config.seed))
        _write(self._folder, nn.meta.unbox(init()), config.model, self._convert)
        return {}


class Model:
    """Writes to `folder` the initial parameters of a model, and a Hugging Face folder of it."""

    def __init__(self, model: dict[str, Any], folder: str) -> None:
        self._model, self._folder = from_dict(ModelConfig, model), Path(folder)

    def prepare(self) -> dict[str, Any]:
        init = jax.jit(build_model(self._model).init)
        variables = nn.meta.unbox(init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))
        _write(self._folder, variables["params"], self._model, convert=True)
        return {}


def read_parameters(folder: Path) -> Params:
    """The parameters in `folder`, nested again."""
    tree: dict[str, Any] = {}
    with np.load(folder / PARAMETERS) as file:
        for path in file.files:
            *parents, last = path.split("/")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = file[path]
    return tree


def flat(params: Params) -> dict[str, np.ndarray]:
    """Parameters by path, `layer_0/attention/query/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in leaves
    }


def _write(folder: Path, params: Params, model: ModelConfig, convert: bool) -> None:
    arrays = flat(params)
    np.savez(folder / PARAMETERS, **arrays)  # type: ignore[arg-type]
    if not convert:
        return
    family = family_of_model(model)
    tensors = {
        rule.reference: np.ascontiguousarray(
            rule.layout.to_reference([arrays[path] for path in rule.parameters])
        )
        for rule in family.plan(model, None).rules
    }
    specs = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    safetensors.write_tensors(folder / WEIGHTS, specs, iter(tensors.items()))
    values = family.write_config(model)
    write_json(folder / CONFIG, {**values, "dtype": "float32", "torch_dtype": "float32"})
