"""Every shipped experiment: importable without JAX, strict, described, of the right size."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lm.config import Config, from_dict

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "experiments").rglob("*.py")
    if path.name not in ("__init__.py", "common.py", "claims.py")
)


def load(name: str) -> ModuleType:
    """The experiment file `name` as `lm train` reads it: by path."""
    specification = importlib.util.spec_from_file_location(name.replace("/", "_")[:-3], ROOT / name)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


VARIANTS = [(name, variant) for name in FILES for variant in [*load(name).VARIANTS, "smoke", ""]]


def resolve(name: str, variant: str) -> Config:
    return from_dict(Config, load(name).get_config(variant).to_dict())


def test_the_glob_finds_the_experiments() -> None:
    assert "experiments/quickstart.py" in FILES and len(FILES) >= 6


def test_experiments_import_without_jax_or_lm() -> None:
    """In a process of its own, where JAX, numpy's users and `lm` cannot be imported at all."""
    program = """
import runpy, sys
for blocked in ("jax", "jaxlib", "flax", "optax", "lm"):
    sys.modules[blocked] = None
for path in sys.argv[1:]:
    module = runpy.run_path(path)
    for variant in [*module["VARIANTS"], "smoke"]:
        module["get_config"](variant)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *FILES], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_variant_is_a_valid_config(name: str, variant: str) -> None:
    config = resolve(name, variant)
    rows = config.train.batch_size
    assert rows % 8 == 0 or rows == 12, f"{rows} rows do not divide over the usual device counts"
    if hasattr(config.model.position, "max_length"):
        assert config.data.sequence_length <= config.model.position.max_length


@pytest.mark.parametrize("name", FILES)
def test_an_unknown_variant_lists_the_known_ones(name: str) -> None:
    module = load(name)
    with pytest.raises(ValueError, match="no variant 'nonsense'; there are: ") as caught:
        module.get_config("nonsense")
    for variant in [*module.VARIANTS, "smoke"]:
        assert variant in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_the_header_says_what_to_run_what_it_costs_and_what_was_measured(name: str) -> None:
    header = load(name).__doc__ or ""
    command = re.search(r"lm train --config=(\S+?)(?::(\S+))? --workdir=\S+", header)
    assert command, "no command line"
    assert command[1] == name
    assert (command[2] or "") in {*load(name).VARIANTS, ""}
    assert re.search(r"^   cost: .+   measured: \S.*$", header, re.MULTILINE)


@pytest.mark.parametrize("name", FILES)
def test_smoke_keeps_the_switches_and_shrinks_the_sizes(name: str) -> None:
    module = load(name)
    full = from_dict(Config, module.get_config().to_dict())
    small = from_dict(Config, module.get_config("smoke").to_dict())
    for switch in ("activation", "layer_pattern", "tie_embeddings", "scan_layers", "remat"):
        assert getattr(small.model, switch) == getattr(full.model, switch), switch
    assert type(small.model.position) is type(full.model.position)
    assert type(small.optimizer) is type(full.optimizer)
    assert type(small.optimizer.schedule) is type(full.optimizer.schedule)
    assert small.model.d_model <= 64 and small.model.vocab_size == 259


@pytest.mark.parametrize("name", FILES)
def test_smoke_trains(name: str, workdir: Path) -> None:
    from lm.cli.main import main

    assert main(["train", f"--config={name}:smoke", f"--workdir={workdir}"]) == 0
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    steps = [record["step"] for record in map(json.loads, lines) if "step" in record]
    assert max(steps) >= 2


def parameters(name: str, variant: str) -> tuple[int, int]:
    """How many parameters the variant's model has: all of them, and without the embeddings."""
    import jax
    import jax.numpy as jnp
    from flax import linen as nn

    from lm.model import build_model

    model = build_model(resolve(name, variant).model)
    abstract = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    leaves = jax.tree_util.tree_leaves_with_path(nn.meta.unbox(abstract["params"]))
    counts = {jax.tree_util.keystr(path): math.prod(leaf.shape) for path, leaf in leaves}
    body = {path: n for path, n in counts.items() if "embedding" not in path}
    return sum(counts.values()), sum(body.values())


@pytest.mark.parametrize(
    ("name", "variant", "published"),
    [
        ("experiments/gpt2/openwebtext.py", "124m", 124_439_808),
        ("experiments/gpt2/openwebtext.py", "355m", 354_823_168),
        ("experiments/gpt2/openwebtext.py", "774m", 774_030_080),
        ("experiments/gpt2/openwebtext.py", "1558m", 1_557_611_200),
        ("experiments/llama/pretrain.py", "1b", 1_235_814_400),
        ("experiments/llama/pretrain.py", "7b", 6_738_415_616),
        ("experiments/llama/pretrain.py", "8b", 8_030_261_248),
    ],
)
def test_released_models_have_their_number_of_parameters(
    name: str, variant: str, published: int
) -> None:
    assert parameters(name, variant)[0] == published


@pytest.mark.parametrize(
    ("variant", "rounded"),
    [
        ("125m", 125e6),
        ("350m", 350e6),
        ("760m", 760e6),
        ("1.3b", 1.3e9),
        ("2.7b", 2.7e9),
        ("6.7b", 6.7e9),
        ("13b", 13e9),
        ("175b", 175e9),
    ],
)
def test_gpt3_has_the_papers_rounded_number_of_parameters(variant: str, rounded: float) -> None:
    total, _ = parameters("experiments/gpt3/pretrain.py", variant)
    assert abs(total / rounded - 1) < 0.03


@pytest.mark.parametrize(("variant", "billions"), [("2b", 2), ("8b", 8), ("137b", 137)])
def test_lamda_has_the_papers_billions_without_embeddings(variant: str, billions: int) -> None:
    _, body = parameters("experiments/lamda/pretrain.py", variant)
    assert body // 10**9 == billions
