"""`lm export`: a trained model as a folder that others run without this package."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from absl import flags

from lm.cli.common import define_step, no_positional
from lm.errors import ConfigError

SUMMARY = "hand a model over: a folder for JAX alone, or for transformers and vLLM"
EXAMPLES = """
lm export --workdir=runs/quickstart --output=DIR --format=jax
python DIR/run.py --text="Once upon a time"
lm export --workdir=runs/quickstart --output=DIR --format=huggingface --dtype=bfloat16
vllm serve DIR

jax: the program as StableHLO for CPU, GPU and TPU, weights, tokenizer, and a script that needs jax,
flatbuffers, numpy and tokenizers alone. It generates, embeds, classifies, tags or gives a number,
as the run does. huggingface: the same as lm convert --to. Standard output is one JSON object.
"""


def define(values: flags.FlagValues) -> None:
    options: dict[str, Any] = {"flag_values": values}
    text = flags.DEFINE_string
    text("workdir", None, "folder of the run", **options)
    text("output", None, "new folder to write", **options)
    flags.DEFINE_enum("format", "jax", ["jax", "huggingface"], "what can run it", **options)
    flags.DEFINE_enum("dtype", "float32", ["float32", "float16", "bfloat16"],
                      "of the weights in the file; a workdir's are float32", **options)  # fmt: skip
    define_step(values)
    flags.DEFINE_list("platforms", ["cpu", "cuda", "tpu"], "jax: where it is to run: cpu, cuda, "
                      "rocm, tpu", **options)  # fmt: skip
    text("family", None, "huggingface: as for lm convert", **options)
    text("shard_size", "5GB", "huggingface: as for lm convert", **options)
    flags.mark_flags_as_required(["workdir", "output"], flag_values=values)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    no_positional(rest)
    if not values.output:
        raise ConfigError("--output= is empty: name a new folder")
    others = {"jax": ("family", "shard_size"), "huggingface": ("platforms",)}[values.format]
    for name in others:
        if values[name].present:
            raise ConfigError(f"--{name} does not go with --format={values.format}")
    summary = _to_jax(values) if values.format == "jax" else _to_huggingface(values)
    print(json.dumps(summary, indent=2))
    return 0


def _to_jax(values: flags.FlagValues) -> dict[str, Any]:
    wrong = [name for name in values.platforms if name not in ("cpu", "cuda", "rocm", "tpu")]
    if wrong or not values.platforms:
        given = ",".join(values.platforms)
        raise ConfigError(f"--platforms={given}: name some of cpu, cuda, rocm, tpu")
    if importlib.util.find_spec("flatbuffers") is None:
        raise ConfigError("JAX needs flatbuffers to export: pip install 'lm[export]'")
    from lm.export.artefact import export_jax

    done = export_jax(
        Path(values.workdir),
        Path(values.output),
        step=values.step,
        dtype=values.dtype,
        platforms=tuple(values.platforms),
    )
    return {
        "output": values.output,
        "kind": done.kind,
        "step": done.step,
        "parameters": done.parameters,
        "bytes": done.num_bytes,
        "platforms": list(done.platforms),
        "files": list(done.files),
    }


def _to_huggingface(values: flags.FlagValues) -> dict[str, Any]:
    from lm.cli.convert import summary_of
    from lm.convert.outgoing import export

    done = export(
        Path(values.workdir),
        Path(values.output),
        family=values.family,
        dtype=values.dtype,
        step=values.step,
        shard_size=values.shard_size,
        flag="--output",
    )
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    return {"output": values.output, **summary_of(done)}
