"""`lm convert`: another library's checkpoint to a workdir; a workdir to a Hugging Face folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from absl import flags

from lm.cli.common import no_positional
from lm.errors import ConfigError

SUMMARY = "weights in and out: Hugging Face folders; GGUF and llama2.c files in"
EXAMPLES = """
lm convert --from=DIR --workdir=runs/gpt2
lm convert --from=model.gguf --workdir=runs/llama
lm convert --from=stories260K.bin --tokenizer=tok512.bin --workdir=runs/stories
lm convert --workdir=runs/quickstart --to=DIR --dtype=bfloat16

DIR is a Hugging Face folder: config.json, model.safetensors (or its shards and their index), and
the tokenizer's files. What comes in is a workdir for lm generate, score, inspect and embed, and to
train from: lm train --config=experiments/continue.py --config.train.warm_start=W --workdir=NEW.
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
    flags.DEFINE_enum("dtype", "float32", ["float32", "float16", "bfloat16"],
                      "--to: of the tensors; a workdir's are float32", **options)  # fmt: skip
    flags.DEFINE_integer("step", None, "--to: checkpoint step (else the newest)", **options)
    text("shard_size", "5GB", "--to: the most bytes of tensors in one file", **options)
    flags.mark_flags_as_required(["workdir"], flag_values=values)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    no_positional(rest)
    source, target = values["from"].value, values.to
    if (source is None) == (target is None):
        raise ConfigError("give either --from=WHAT to convert into --workdir, or --to=DIR")
    outward = [n for n in ("family", "dtype", "step", "shard_size") if values[n].present]
    if source is not None and outward:
        raise ConfigError(f"--{outward[0]} goes with --to, not with --from")
    if target is not None and values.tokenizer is not None:
        raise ConfigError("--tokenizer goes with --from: the workdir has its own")
    if "" in (source, target):
        raise ConfigError("--from= or --to= is empty: name a file or folder")
    if source is not None:
        summary = _come_in(Path(source), Path(values.workdir), values.tokenizer)
    else:
        summary = _go_out(values)
    print(json.dumps(summary, indent=2))
    return 0


def _come_in(source: Path, workdir: Path, tokenizer: str | None) -> dict[str, Any]:
    from lm.convert.incoming import check_new, convert, read_reference

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


def _go_out(values: flags.FlagValues) -> dict[str, Any]:
    from lm.convert.outgoing import export

    done = export(
        Path(values.workdir),
        Path(values.to),
        family=values.family,
        dtype=values.dtype,
        step=values.step,
        shard_size=values.shard_size,
    )
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    return {
        "to": values.to,
        "family": done.family,
        "step": done.step,
        "parameters": done.parameters,
        "tensors": done.tensors,
        "bytes": done.num_bytes,
        "files": list(done.files),
    }
