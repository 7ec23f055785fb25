"""`lm plot`: the loss curves of runs in one picture."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from lm.errors import ConfigError

SUMMARY = "draw the loss curves of runs into one picture"
EXAMPLES = """
lm plot --output=curves.png runs/bert runs/electra
lm plot --output=curves.svg --columns=2 runs/*
"""


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("output", None, "file: .png, .svg or .pdf", flag_values=values)
    flags.DEFINE_integer("columns", 3, "panels a line", lower_bound=1, flag_values=values)
    flags.mark_flags_as_required(["output"], flag_values=values)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    if not rest:
        raise ConfigError("lm plot takes the folders of runs: lm plot --output=curves.png RUN...")
    from lm.train.plot import plot_runs

    plot_runs([Path(name) for name in rest], Path(values.output), values.columns)
    print(values.output)
    return 0
