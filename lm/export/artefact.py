"""The folder of a model that runs without this package: programs, weights, tokenizer, a script."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np

import lm
from lm import config as configs
from lm.config import Config, TaskBase
from lm.convert import safetensors
from lm.convert.outgoing import DTYPES, Dtype, SavedParams, check_same, narrowed, whole_folder
from lm.convert.tensors import ByteProgress
from lm.convert.tokenizer_export import library_of
from lm.data.tokenizer import Tokenizer, load_tokenizer
from lm.data.tokenizers.base import TokenizerBase
from lm.errors import ConfigError
from lm.export.programs import Program, Use, embedding, exported, generation, reading
from lm.export.readme import readme, requirements
from lm.generate.prompts import start_token
from lm.generate.text import around_source
from lm.model import build_model
from lm.model.cache import position_limit
from lm.objectives import build_objective
from lm.objectives.base import Objective
from lm.objectives.tasks.classification import ClassificationObjective, RegressionObjective
from lm.objectives.tasks.rows import layout_of
from lm.objectives.tasks.tokens import TokenClassificationObjective
from lm.train.early_stopping import Step
from lm.train.restoring import nested
from lm.train.workdir import TOKENIZER, read_config, write_json

FORMAT = 1
PLATFORMS = ("cpu", "cuda", "tpu")
WEIGHTS, RUN, MANIFEST = "weights.safetensors", "run.py", "manifest.json"
# Those whose code asks for the lengths themselves: XLNet's distances, and the decoder that reads
# its source again to classify it.
_FIXED = ("two_stream", "encoder_decoder")


class Artefact(NamedTuple):
    """What was written, for a summary."""

    kind: str
    step: int
    parameters: int
    num_bytes: int
    platforms: tuple[str, ...]
    files: tuple[str, ...]


def export_jax(
    workdir: Path,
    folder: Path,
    *,
    step: Step = None,
    dtype: Dtype = "float32",
    platforms: tuple[str, ...] = PLATFORMS,
) -> Artefact:
    """Writes the model of `workdir` as a folder that needs jax, flatbuffers, numpy and tokenizers
    to run, whole or not at all.

    Args:
      step: the checkpoint's; "best" by its evaluation, None is the newest.
      dtype: of the weights in the file; the program computes as the model's config says.
      platforms: where it is to run.

    Raises:
      ConfigError: flatbuffers is not installed, or a model of a kind that is not handed over so.
      UserError: there is something in `folder`; no checkpoint; a number beyond `dtype`'s range.
    """
    config = read_config(workdir)
    objective = None
    if config.objective is not None:
        objective = build_objective(config.objective, config.model)
    tokenizer = load_tokenizer(workdir / TOKENIZER)
    use = use_of(config, objective, tokenizer)
    with whole_folder(folder, "--output") as new:
        params = SavedParams(workdir, step, () if objective is None else config.objective.MODEL)  # type: ignore[union-attr]
        check_same(params, config, workdir)
        shapes = {
            name: jax.ShapeDtypeStruct(shape, DTYPES[dtype])
            for name, shape in params.shapes.items()
        }
        name = f"{use.kind}.jax_export"
        (new / name).write_bytes(exported(use.program, nested(shapes), platforms))
        _write_weights(new / WEIGHTS, params, DTYPES[dtype])
        text = library_of(tokenizer).to_str(pretty=True)
        (new / "tokenizer.json").write_text(text, encoding="utf-8")
        (new / RUN).write_bytes(Path(__file__).with_name(RUN).read_bytes())
        (new / "requirements.txt").write_text(requirements(), encoding="utf-8")
        title = workdir.absolute().name
        (new / "README.md").write_text(readme(title, use, platforms), encoding="utf-8")
        files = sorted(path.name for path in new.iterdir())
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "name": title,
            "kind": use.kind,
            "step": params.step,
            "config": configs.fingerprint(config),
            "versions": {"lm": lm.__version__, "jax": jax.__version__},
            "platforms": list(platforms),
            "program": {"file": name, **_described(use.program)},
            "weights": {"file": WEIGHTS, "dtype": dtype},
            "tokenizer": {"skipped": sorted(cast(TokenizerBase, tokenizer).skipped)},
            "how": use.how,
            "files": {file: _entry(new / file) for file in files},
        }
        write_json(new / MANIFEST, manifest)
    return Artefact(
        use.kind,
        params.step,
        sum(map(math.prod, params.shapes.values())),
        sum(entry["bytes"] for entry in manifest["files"].values()),
        platforms,
        (*files, MANIFEST),
    )


def _write_weights(path: Path, params: SavedParams, dtype: np.dtype) -> None:
    """The parameters by path, one at a time."""
    specs = {name: (dtype, shape) for name, shape in params.shapes.items()}
    total = sum(math.prod(shape) * dtype.itemsize for shape in params.shapes.values())
    progress = ByteProgress("exporting", total)

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        for name in specs:
            array = narrowed(params.read(name), dtype, name)
            yield name, array
            progress.update(array.nbytes)

    try:
        safetensors.write_tensors(path, specs, arrays())
    finally:
        progress.close()


def _described(program: Program) -> dict[str, Any]:
    """Its inputs and what they have to keep to, for people and the script."""
    inputs = {
        name: {"shape": list(shape), "dtype": np.dtype(dtype).name}
        for name, (shape, dtype) in program.inputs.items()
    }
    return {"inputs": inputs, "limits": list(program.limits)}


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


# ------------------------------------------------------------------------------------ the uses


def use_of(config: Config, objective: Objective | None, tokenizer: Tokenizer) -> Use:
    """What the model of a run is for.

    Raises:
      ConfigError: a task whose rows `run.py` cannot make, or a model without anything to say.
    """
    model = build_model(config.model) if objective is None else objective.model
    fixed = config.data.sequence_length if config.model.architecture in _FIXED else None
    if isinstance(objective, ClassificationObjective | RegressionObjective):
        return _task(config, objective, tokenizer, fixed)
    if isinstance(objective, TokenClassificationObjective):
        return _task(config, objective, tokenizer, fixed)
    if isinstance(config.objective, TaskBase) and config.objective.HEAD is not None:
        raise ConfigError(
            f"--format=jax hands over what generates, embeds, classifies, tags, or gives a number; "
            f"this run's objective is {config.objective.name!r}: use --format=huggingface"
        )
    if config.model.architecture in ("decoder", "encoder_decoder"):
        if config.model.lm_head != "none":
            return _generation(config, model, tokenizer)
        if config.model.architecture == "encoder_decoder":
            raise ConfigError("this encoder_decoder has no language-model head to write with")
    before, after = around_source(tokenizer, config.data)
    how = {"before": before, "after": after, "longest": fixed or position_limit(config.model)}
    return Use("embed", embedding(model, fixed), {**how, "fixed": fixed})


def _generation(config: Config, model: Any, tokenizer: Tokenizer) -> Use:
    data, joined = config.data, config.model.architecture == "encoder_decoder"
    vocab_size = min(tokenizer.vocab_size, config.model.vocab_size)
    start = start_token(data, tokenizer)
    first = [] if start is None else [start]
    # As `lm.generate.text.encode_prompt` and `encode_source` have it.
    before, after = around_source(tokenizer, data) if joined else (first * data.add_bos, [])
    how = {
        "reads_source": joined,
        "before": before,
        "after": after,
        "if_empty": [] if joined else first,
        "target_begins": [config.model.decoder_start_id] if joined else [],
        "eos": tokenizer.eos_id,
        "positions": position_limit(config.model),
        "vocab_size": vocab_size,
    }
    return Use("generate", generation(model, vocab_size, tokenizer.eos_id), how)


def _task(
    config: Config,
    objective: ClassificationObjective | RegressionObjective | TokenClassificationObjective,
    tokenizer: Tokenizer,
    fixed: int | None,
) -> Use:
    separators = getattr(objective.config, "separators", 1)
    model = objective.model.config
    layout = layout_of(tokenizer, model, config.data, separators)

    def predict(params: Any, arrays: Any) -> dict[str, jax.Array]:
        return objective.predict(params, arrays)

    how: dict[str, Any] = {
        "before": list(layout.before),
        "between": None if layout.between is None else list(layout.between),
        "after": list(layout.after),
        "pad": layout.pad_id,
        "typed": layout.typed,
        "reads_last": layout.reads_last,
        "longest": layout.length,
        "fixed": fixed,
    }
    kind = "regress"
    if isinstance(objective, TokenClassificationObjective):
        kind, how["labels"] = "tag", list(objective.config.labels)
    elif isinstance(objective, ClassificationObjective):
        kind, how["labels"] = "classify", list(objective.config.labels)
        how["multi_label"] = objective.config.multi_label
    return Use(kind, reading(objective.model, fixed, predict, typed=layout.typed), how)
