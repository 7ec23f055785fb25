"""`lm report`: runs side by side on one page."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from lm.errors import ConfigError, UserError

SUMMARY = "a page about runs, side by side: curves, throughput, samples, what differs"
EXAMPLES = """
lm report --output=report.html runs/quickstart
lm report --output=compare.html runs/base runs/wide runs/deep

One file that opens from disk and prints: the last metrics, loss, gradient norm, learning rate and
throughput as curves, what the runs said over time, the config's keys that differ, and the command
of each run. A run takes samples where its config asks for them: lm train
--config.evaluation.samples="{'prompts': ['Once upon'], 'max_new_tokens': 40}".
"""


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("output", "report.html", "file to write", flag_values=values)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    if not rest:
        raise ConfigError("lm report takes the folders of runs: lm report --output=F.html RUN...")
    from lm.reproduce.runs_page import runs_page

    path = Path(values.output)
    written = runs_page([Path(name) for name in rest])
    try:
        path.write_text(written, encoding="utf-8")
    except OSError as error:
        raise UserError(f"could not write {path}: {error.strerror}") from None
    print(path)
    return 0
