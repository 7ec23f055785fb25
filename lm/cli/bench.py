"""`lm bench`: how fast lm is on this machine, beside its peers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from absl import flags

from lm.cli.common import no_positional, use_compilation_cache
from lm.cli.files import check_output, write_output
from lm.errors import ConfigError

SUMMARY = "speed and memory beside torch, in interleaved rounds"
EXAMPLES = """
lm bench --suite=train --shape=i,ii,iii --json=train.json
lm bench --suite=train --shape=ii --rounds=3 --peers=none
lm bench --suite=decode --shape=6x384-b1,12x768-b8 --json=decode.json
lm bench --suite=data
lm bench --suite=train --shape=gpt2,llama --peers=compiled --json=gpu.json

Every contestant is a process of its own, and only one runs at a time: a round goes through all of
them before the next begins. Of several NVIDIA GPUs they use the first visible one. The table has
medians over the rounds, the quartiles, and ratios: a contestant's time over the first one's.
--json=FILE.json also draws the ratios to FILE.png.
The peers need torch and transformers: pip install 'lm[bench]'; without them lm alone is measured.
"""


def define(values: flags.FlagValues) -> None:
    """The flags of `lm bench`."""
    options: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("suite", None, "train, decode, data, checkpoint, startup or attention",
                        **options)  # fmt: skip
    flags.DEFINE_list("shape", [], "sizes to measure, one after the other; a wrong one lists those "
                      "of the suite, none is the suite's usual one", **options)  # fmt: skip
    flags.DEFINE_integer("rounds", 7, "rounds, of which medians are taken", **options)
    flags.DEFINE_list("peers", ["all"], "which of torch's ways to measure: eager, compiled, and "
                      "eager-mkl and compiled-mkl, at full MKL speed where the processor is "
                      "AMD's; all, or none", **options)  # fmt: skip
    flags.DEFINE_string("json", None, "file for the results, the machine's description among them",
                        **options)  # fmt: skip
    flags.DEFINE_string("scratch", None, "folder for the runs' checkpoints and other files, which "
                        "are removed again, instead of the system's temporary one",
                        **options)  # fmt: skip
    flags.mark_flags_as_required(["suite"], flag_values=values)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    """Measures, prints the tables, writes the files."""
    from lm.bench import report
    from lm.bench.run import measure, select
    from lm.bench.suite import PEERS
    from lm.data.roots import cache_root

    no_positional(rest)
    check_output(values.json, "--json")
    if values.json is not None and values.json.endswith(".png"):
        raise ConfigError(f"--json={values.json}: the picture gets this name; choose another")
    if values.rounds < 1:
        raise ConfigError(f"--rounds={values.rounds}: at least one")
    peers = {("all",): PEERS, ("none",): ()}.get(tuple(values.peers), tuple(values.peers))
    suite, shapes = select(values.suite, values.shape, peers)
    # As `lm train` does: what it sets, the contestants' processes inherit.
    use_compilation_cache()
    scratch = None if values.scratch is None else Path(values.scratch)
    results = []
    for table, result in measure(
        suite, shapes, rounds=values.rounds, peers=peers, scratch=scratch, cache=cache_root(),
        note=_note,
    ):  # fmt: skip
        print(f"{table}\n", flush=True)
        results.append(result)
        if values.json is not None:
            # After every shape: an interrupted benchmark keeps what it has.
            _write(values.json, (json.dumps(results, indent=1) + "\n").encode())
            _write(str(Path(values.json).with_suffix(".png")), report.picture(results))
    return 0


def _write(path: str, content: bytes) -> None:
    write_output(path, lambda file: file.write(content), "--json")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
