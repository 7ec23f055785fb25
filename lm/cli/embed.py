"""`lm embed`: hidden states of texts under the model of a run."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from absl import flags

from lm.cli.common import define_step, no_positional, use_compilation_cache
from lm.cli.files import check_output, read_objects, string_field, write_output
from lm.errors import ConfigError, UserError

if TYPE_CHECKING:
    import numpy as np

SUMMARY = "hidden states of texts, pooled or token by token"
EXAMPLES = """
lm embed --workdir=runs/minilm --input=texts.jsonl --pooling=mean --normalize --output=texts.npz
lm embed --workdir=runs/bert --input=texts.jsonl --pooling=none --layer=-2 --output=states.npz

Each line of the input is {"text": ...}; other keys are ignored. The output is a NumPy archive:
with pooling one array `embeddings`, float32 [lines, width], in the order of the lines; without
(--pooling=none) an array [tokens, width] a line, named 0, 1, 2 ...

cls is the token an encoder puts first (XLNet: last). An encoder-decoder embeds with its encoder.
"""


def define(values: flags.FlagValues) -> None:
    """The flags of `lm embed`."""
    options: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("workdir", None, "folder of the run whose model to use", **options)
    flags.DEFINE_string("input", None, "JSON lines to embed; - reads standard input", **options)
    flags.DEFINE_string("output", None, "the archive to write (.npz)", **options)
    flags.DEFINE_enum("pooling", "mean", ["mean", "cls", "last", "none"],
                      "one vector a text: the mean over its tokens, the cls token's or the last "
                      "token's; or none, a vector a token", **options)  # fmt: skip
    flags.DEFINE_bool("normalize", False, "divide every vector by its length", **options)
    flags.DEFINE_integer("layer", -1, "whose output: 0 is the first layer's input, -1 the last "
                         "layer's output", **options)  # fmt: skip
    flags.DEFINE_integer("max_tokens", None, "cut longer texts to so many tokens, special ones "
                         "included; without it a text longer than the model's positions is an "
                         "error", lower_bound=2, **options)  # fmt: skip
    define_step(values)
    flags.mark_flags_as_required(["workdir", "input", "output"], flag_values=values)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    """Reads the input, loads the run, writes the states."""

    no_positional(rest)
    check_output(values.output)
    if not values.output.endswith(".npz"):
        raise ConfigError(f"--output={values.output} must end in .npz")
    texts = [(where, text_of(value, where)) for where, value in read_objects(values.input)]
    use_compilation_cache()
    import numpy as np

    from lm.generate.embedding import embed, encode_texts
    from lm.train.workdir import load_run

    loaded = load_run(Path(values.workdir), values.step)
    config = loaded.config
    sequences = encode_texts(
        loaded.tokenizer, texts, config.model, config.data, max_tokens=values.max_tokens
    )
    started = time.perf_counter()
    states: list[Any] = [None] * len(sequences)
    found = embed(
        loaded.model, loaded.params, sequences, pooling=values.pooling, layer=values.layer
    )
    for index, array in found:
        states[index] = _unit(array) if values.normalize else array
    elapsed = time.perf_counter() - started

    def write(file: BinaryIO) -> None:
        if values.pooling == "none":
            np.savez(file, **{str(i): array for i, array in enumerate(states)})
        else:
            np.savez(file, embeddings=np.stack(states))

    write_output(values.output, write)
    summary = {
        "output": values.output,
        "texts": len(states),
        "tokens": sum(map(len, sequences)),
        "width": int(states[0].shape[-1]),
        "pooling": values.pooling,
    }
    print(json.dumps(summary))
    print(f"{len(states)} texts in {elapsed:.2f} s, compilation included", file=sys.stderr)
    return 0


def text_of(value: Any, where: str) -> str:
    """The text of a line. Raises UserError where there is none."""
    if "text" not in value:
        keys = ", ".join(map(repr, value)) or "none"
        raise UserError(f'{where}: needs "text"; its keys: {keys}')
    return string_field(value, "text", where)


def _unit(states: np.ndarray) -> np.ndarray:
    """Vectors of length 1; one of length 0 stays."""
    import numpy as np

    length = np.linalg.norm(states, axis=-1, keepdims=True)
    return states / np.where(length > 0, length, 1.0)
