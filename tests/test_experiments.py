"""Every shipped experiment and family: importable without JAX, strict, described.

Their numbers of parameters are in test_model_sizes.py.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from ml_collections import ConfigDict

from lm.config import Config, DropoutConfig, ModelConfig, ReplacedTokens, Rotary, from_dict

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "experiments").rglob("*.py")
    if path.name not in ("__init__.py", "common.py", "claims.py", "model.py")
)
# A family's model.py has its sizes; the experiments beside it train them.
MODELS = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "experiments").rglob("model.py")
)


def load(name: str) -> ModuleType:
    """The experiment file `name` as `lm train` reads it: by path."""
    specification = importlib.util.spec_from_file_location(name.replace("/", "_")[:-3], ROOT / name)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


SIZES = [(name, size) for name in MODELS for size in load(name).SIZES]
VARIANTS = [(name, variant) for name in FILES for variant in [*load(name).VARIANTS, "smoke", ""]]


def resolve(name: str, variant: str) -> Config:
    """The variant's config; where model and tokenizer are those of a run to go on with
    (continue.py), as going on with the quickstart's."""
    values = load(name).get_config(variant).to_dict()
    if "model" not in values:
        run = load("experiments/quickstart.py").get_config().to_dict()
        values["model"] = run["model"]
        values["data"].setdefault("tokenizer", run["data"]["tokenizer"])
    return from_dict(Config, values)


def test_the_glob_finds_the_experiments() -> None:
    assert "experiments/quickstart.py" in FILES and len(FILES) >= 6
    assert "experiments/bert/model.py" in MODELS and len(MODELS) >= 15


def test_experiments_import_without_jax_or_lm() -> None:
    """In a process of its own, where JAX, numpy's users and `lm` cannot be imported at all."""
    program = """
import runpy, sys
for blocked in ("jax", "jaxlib", "flax", "optax", "lm"):
    sys.modules[blocked] = None
for path in sys.argv[1:]:
    module = runpy.run_path(path)
    if path.endswith("/model.py"):
        for size in module["SIZES"]:
            module["model"](size)
        continue
    for variant in [*module["VARIANTS"], "smoke"]:
        module["get_config"](variant)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *FILES, *MODELS], cwd=ROOT, capture_output=True, text=True
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
    full, small = resolve(name, ""), resolve(name, "smoke")
    for switch in ("activation", "layer_pattern", "tie_embeddings", "scan_layers", "remat"):
        assert getattr(small.model, switch) == getattr(full.model, switch), switch
    assert type(small.model.position) is type(full.model.position)
    assert type(small.optimizer) is type(full.optimizer)
    assert type(small.optimizer.schedule) is type(full.optimizer.schedule)
    # The byte tokenizer's 259, and some for masks and sentinels.
    assert small.model.d_model <= 64 and 259 <= small.model.vocab_size <= 320
    assert small.objective is not None and full.objective is not None
    assert type(small.objective) is type(full.objective)
    for switch in ("pairs", "wrap", "selection", "task", "share_embeddings", "mode_tokens"):
        assert getattr(small.objective, switch, None) == getattr(full.objective, switch, None)
    assert small.data.packing == full.data.packing


@pytest.mark.parametrize("name", FILES)
def test_smoke_trains(name: str, workdir: Path) -> None:
    from lm.cli.main import main

    assert main(["train", f"--config={name}:smoke", f"--workdir={workdir}"]) == 0
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    steps = [record["step"] for record in map(json.loads, lines) if "step" in record]
    assert max(steps) >= 2


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_every_size_is_a_valid_model(name: str, size: str) -> None:
    """Through a ConfigDict, as an experiment passes it on."""
    values = ConfigDict({"model": load(name).model(size)}).to_dict()
    config = from_dict(ModelConfig, values["model"])
    assert config.compute_dtype == "float32" and config.remat == "none", "the experiment's choice"


@pytest.mark.parametrize("name", MODELS)
def test_a_family_names_its_paper_and_an_unknown_size_lists_the_known_ones(name: str) -> None:
    module = load(name)
    assert re.search(r"et al\. \d{4}|Team \d{4}", module.__doc__ or ""), "no paper in the header"
    with pytest.raises(ValueError, match="no size 'nonsense'; there are: ") as caught:
        module.model("nonsense")
    for size in module.SIZES:
        assert size in str(caught.value)


@pytest.mark.parametrize("name", ["gpt3", "lamda"])
def test_a_family_without_a_reference_says_so_and_how_it_is_checked(name: str) -> None:
    header = " ".join((load(f"experiments/{name}/model.py").__doc__ or "").split())
    assert "There is no public reference implementation." in header
    assert "number of parameters" in header and "tests/parity" in header


# Where the experiment calls a size by another name than model.py does.
RENAMED = {
    "llama/1b": "3.2-1b",
    "llama/7b": "2-7b",
    "llama/8b": "3-8b",
    "electra/electra-small": "small-discriminator",
    "electra/base": "base-discriminator",
    "electra/large": "large-discriminator",
    "t5/t5-small": "small",
    "t5/t5-base": "base",
    "transformer/hour": "tiny",
}
# A toy for two cores and real text, and the published model whose switches it has.
TOYS = {
    "experiments/bert/pretrain.py": "base",
    "experiments/roberta/pretrain.py": "base",
    "experiments/electra/pretrain.py": "small-discriminator",
    "experiments/xlnet/pretrain.py": "base",
    "experiments/t5/pretrain.py": "base",
    "experiments/bart/pretrain.py": "base",
    "experiments/gpt1/pretrain.py": "117m",
}
# Toys all of it.
PROXY = "experiments/electra/against_mlm.py"
SIZES_OF_A_TOY = {
    "vocab_size",
    "num_layers",
    "d_model",
    "num_heads",
    "head_dim",
    "d_ff",
    "embedding_size",
    "decoder_start_id",
    "logit_scale",
    "position",
    "dropout",
    "init",
}


def published(name: str, size: str) -> ModelConfig:
    """A size of the family that the experiment `name` belongs to."""
    return from_dict(ModelConfig, load(str(Path(name).parent / "model.py")).model(size))


def plain(model: ModelConfig) -> ModelConfig:
    """Without how it is computed, dropout, and rotations stretched only after pretraining."""
    same = {"compute_dtype": "float32", "remat": "none", "scan_layers": False}
    position = model.position
    if isinstance(position, Rotary):
        position = dataclasses.replace(position, scaling=None)
    return dataclasses.replace(model, position=position, dropout=DropoutConfig(), **same)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        (name, variant)
        for name in FILES
        if str(Path(name).parent / "model.py") in MODELS and name != PROXY
        for variant in load(name).VARIANTS
        if variant != "small" or name not in TOYS
    ],
)
def test_what_is_pretrained_is_the_family_s_model(name: str, variant: str) -> None:
    size = RENAMED.get(f"{Path(name).parent.name}/{variant}", variant)
    assert plain(resolve(name, variant).model) == plain(published(name, size))


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_steps_come_in_whole_dispatches(name: str, variant: str) -> None:
    config = resolve(name, variant)
    for every in (config.evaluation.every, config.checkpoint.every):
        if every is not None and every.steps is not None:
            assert every.steps % config.train.steps_per_dispatch == 0


@pytest.mark.parametrize("variant", ["electra-small", "base", "large"])
def test_electra_s_generator_is_the_family_s(variant: str) -> None:
    name = "experiments/electra/pretrain.py"
    objective = resolve(name, variant).objective
    assert isinstance(objective, ReplacedTokens) and objective.generator is not None
    size = f"{variant.removeprefix('electra-')}-generator"
    assert plain(objective.generator) == plain(published(name, size))


@pytest.mark.parametrize(("name", "size"), TOYS.items())
def test_a_toy_differs_from_the_family_s_model_in_sizes_alone(name: str, size: str) -> None:
    toy, model = resolve(name, "small").model, published(name, size)
    assert toy.d_model < model.d_model
    assert type(toy.position) is type(model.position)
    for field in dataclasses.fields(ModelConfig):
        if field.name not in SIZES_OF_A_TOY:
            assert getattr(toy, field.name) == getattr(model, field.name), field.name


@pytest.mark.parametrize(
    "name", [*TOYS, "experiments/ul2/pretrain.py", "experiments/xlm/pretrain.py"]
)
def test_a_toy_reads_real_text_for_minutes_and_is_evaluated(name: str) -> None:
    config = resolve(name, "small")
    assert config.data.validation and config.evaluation.every is not None
    steps = config.train.duration.steps
    assert steps is not None
    # Twenty minutes at 45,000 tokens a second, which two cores do.
    assert steps * config.train.batch_size * config.data.sequence_length <= 20 * 60 * 45_000
    first = resolve(name, "")
    assert config.objective is not None and first.objective is not None
    assert config.objective.name == first.objective.name
    files = {path for source in config.data.train.values() for path in source.paths}
    assert files and not any(path.endswith(".jsonl*") for path in files)


def test_two_toys_at_least_read_chinese() -> None:
    chinese = ("zh_poetry/", "pydocs_en_zh/")
    sources = [resolve(name, "small").data.train.values() for name in TOYS]
    paths = [source.paths for group in sources for source in group]
    assert sum(any(path.startswith(chinese) for path in group) for group in paths) >= 2
