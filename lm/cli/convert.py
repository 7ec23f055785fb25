"""`lm convert`: another library's checkpoint to a workdir; a workdir to a Hugging Face folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from lm.cli.common import define_step, no_positional
from lm.errors import ConfigError

if TYPE_CHECKING:
    from lm.convert.outgoing import Export

SUMMARY = "weights in and out: Hugging Face folders; GGUF and llama2.c files in"
EXAMPLES = """
lm convert --from=DIR --workdir=runs/gpt2
lm convert --from=model.gguf --workdir=runs/llama
lm convert --from=stories260K.bin --tokenizer=tok512.bin --workdir=runs/stories
lm convert --workdir=runs/quickstart --to=DIR --dtype=bfloat16
lm convert --workdir=runs/lora --to=DIR --format=peft
lm convert --from=ADAPTERS --base=runs/gpt2 --workdir=runs/adapted

DIR is a Hugging Face folder: config.json, model.safetensors (or its shards and their index), and
the tokenizer's files. What comes in is a workdir for lm generate, score, inspect and embed, and to
train from: lm train --config=experiments/continue.py --config.train.warm_start=W --workdir=NEW.
A run with adapters (train.lora) goes out merged, or with --format=peft as its adapters alone, which
peft.PeftModel reads; PEFT's adapters come in merged into the model of --base.
Standard output is one JSON object about what was converted.
"""


def define(values: flags.FlagValues) -> None:
    options: dict[str, Any] = {"flag_values": values}
    text = flags.DEFINE_string
    text("workdir", None, "folder of the run: a new one with --from, read with --to", **options)
    text("from", None, "what to convert: a Hugging Face folder, a .gguf, llama2.c's .bin",
         **options)  # fmt: skip
    text("to", None, "new folder for the model as Hugging Face's", **options)
    text("tokenizer", None, "--from: the tokenizer's file or folder, where the checkpoint has none "
         "(llama2.c: tokenizer.bin beside it if not given)", **options)  # fmt: skip
    text("family", None, "--to: the family to write it as (else where it came from, or the first "
         "that can express the model)", **options)  # fmt: skip
    text(
        "base", None, "--from: the workdir of the model that adapters of PEFT's are for", **options
    )
    flags.DEFINE_enum("format", "huggingface", ["huggingface", "peft"],
                      "--to: the whole model, or a run's adapters alone", **options)  # fmt: skip
    flags.DEFINE_enum("dtype", "float32", ["float32", "float16", "bfloat16"],
                      "--to: of the tensors; a workdir's are float32", **options)  # fmt: skip
    define_step(values, before="--to: ")
    text("shard_size", "5GB", "--to: the most bytes of tensors in one file", **options)
    flags.mark_flags_as_required(["workdir"], flag_values=values)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    no_positional(rest)
    source, target = values["from"].value, values.to
    if (source is None) == (target is None):
        raise ConfigError("give either --from=WHAT to convert into --workdir, or --to=DIR")
    outward = [n for n in ("family", "format", "dtype", "step", "shard_size") if values[n].present]
    if source is not None and outward:
        raise ConfigError(f"--{outward[0]} goes with --to, not with --from")
    if target is not None and values.tokenizer is not None:
        raise ConfigError("--tokenizer goes with --from: the workdir has its own")
    if target is not None and values.base is not None:
        raise ConfigError("--base goes with --from")
    if values.format == "peft" and values["shard_size"].present:
        raise ConfigError("--shard_size does not go with --format=peft, which is one file")
    if "" in (source, target):
        raise ConfigError("--from= or --to= is empty: name a file or folder")
    if source is not None:
        summary = _come_in(Path(source), Path(values.workdir), values.tokenizer, values.base)
    else:
        summary = _go_out(values)
    print(json.dumps(summary, indent=2))
    return 0


def _come_in(
    source: Path, workdir: Path, tokenizer: str | None, base: str | None
) -> dict[str, Any]:
    from lm.convert.incoming import check_new, convert, read_reference
    from lm.convert.peft_incoming import is_adapter_folder

    if is_adapter_folder(source) or base is not None:
        return _merge(source, base, workdir)
    # Before minutes of reading.
    check_new(workdir)
    reference = read_reference(source, None if tokenizer is None else Path(tokenizer))
    done = convert(reference, workdir)
    if done.ignored:
        print(
            f"{len(done.ignored)} tensors hold nothing that was learned and were left out: "
            f"{', '.join(done.ignored[:4])}{' ...' if len(done.ignored) > 4 else ''}",
            file=sys.stderr,
        )
    return {
        "workdir": str(workdir),
        "format": reference.format,
        "family": done.family,
        "architecture": done.model.architecture,
        "parameters": done.parameters,
        "tensors": done.tensors,
        "ignored": len(done.ignored),
    }


def _merge(source: Path, base: str | None, workdir: Path) -> dict[str, Any]:
    from lm.convert.peft_incoming import is_adapter_folder, merge_adapter

    if not is_adapter_folder(source):
        raise ConfigError(f"--base is for adapters, and --from={source} has no adapter_config.json")
    if not base:
        raise ConfigError(f"--from={source} holds adapters: name the model's workdir with --base=W")
    done = merge_adapter(source, Path(base), workdir)
    return {
        "workdir": str(workdir),
        "format": "peft",
        "family": done.family,
        "parameters": done.parameters,
        "modules": done.modules,
    }


def _go_out(values: flags.FlagValues) -> dict[str, Any]:
    from lm.convert.outgoing import export
    from lm.convert.peft import export_adapter

    how = {"family": values.family, "dtype": values.dtype, "step": values.step}
    workdir, folder = Path(values.workdir), Path(values.to)
    if values.format == "peft":
        done = export_adapter(workdir, folder, **how)
    else:
        done = export(workdir, folder, **how, shard_size=values.shard_size)
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    return {"to": values.to, **summary_of(done)}


def summary_of(done: Export) -> dict[str, Any]:
    """What is said of a Hugging Face folder that was written."""
    return {
        "family": done.family,
        "step": done.step,
        "parameters": done.parameters,
        "tensors": done.tensors,
        "bytes": done.num_bytes,
        "files": list(done.files),
    }
