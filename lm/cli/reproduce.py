"""`lm reproduce`: papers' claims, run, judged, and written down; the ledger of all of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from lm.cli.common import define_data_root, use_compilation_cache
from lm.errors import EXIT_FAILED, EXIT_PREEMPTED, ConfigError, UserError

if TYPE_CHECKING:
    from lm.reproduce.run import Settings

SUMMARY = "run what papers claim and say whether it holds: a report, a ledger"
EXAMPLES = """
lm reproduce experiments/nanogpt --data_root=DIR
lm reproduce experiments/nanogpt --check
lm reproduce --all --scale=cpu
lm reproduce experiments/transformer --use=hour-seed0=runs/multi30k-hour

A paper is a folder with a claims.py. What its claims need at --scale is run below --workdir, where
it goes on after a kill; what was measured is kept in PAPER/report (report.json, report.html) and
not run again as long as claims, configs and data are the same. --check judges what is kept, and
runs nothing. --all does every paper below experiments (or the folder named) and writes the ledger;
of a paper of which nothing was measured it writes no report. --use takes a run that is finished,
with the config and the data that the paper's has.
"""


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_boolean("all", False, "every paper, and the ledger", flag_values=values)
    flags.DEFINE_enum(
        "scale",
        "cpu",
        ["cpu", "gpu", "paper"],
        "run what takes as much or less: cpu, an hour on two cores; gpu, half an hour on one "
        "accelerator; paper, the paper's own",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "check", False, "judge what is on record and write the report; run nothing",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
        "output", None, "folder of the report (else PAPER/report)", flag_values=values
    )
    flags.DEFINE_string(
        "workdir", "runs/reproduce", "folder of the runs, a folder a paper", flag_values=values
    )
    flags.DEFINE_string("engine", "local", "what runs them, as in lm sweep", flag_values=values)
    flags.DEFINE_multi_string(
        "use", [], "RUN=WORKDIR: take this run as done there; may be repeated", flag_values=values
    )
    flags.DEFINE_string("ledger", "REPRODUCTIONS.md", "file that --all writes", flag_values=values)
    define_data_root(values)


def run(values: flags.FlagValues, rest: list[str]) -> int:
    _check_flags(values, rest)
    # What is measured between runs leaves the accelerator's memory to them.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    use_compilation_cache()
    from lm.data.roots import cache_root, data_root
    from lm.reproduce.run import Settings

    settings = Settings(
        scale=values.scale,
        workdir=Path(values.workdir),
        data_root=data_root(values.data_root),
        cache_dir=cache_root(),
        engine=values.engine,
        use=dict(map(_used, values.use)),
        report=lambda line: print(line, file=sys.stderr, flush=True),
        only_measured=values.all,
    )
    if values.all:
        root = Path(rest[0] if rest else "experiments")
        return _all(root, Path(values.ledger), settings, check=values.check)
    folder = Path(rest[0])
    output = Path(values.output) if values.output else folder / "report"
    return _one(folder, output, settings, check=values.check)


def _check_flags(values: flags.FlagValues, rest: list[str]) -> None:
    if values.all:
        if len(rest) > 1:
            raise ConfigError(f"--all takes one folder of papers, not also {rest[1]!r}")
        for name in ("output", "use"):
            if values[name].present:
                raise ConfigError(f"--{name} is for one paper, and --all is every one")
        return
    if len(rest) != 1:
        raise ConfigError(
            "lm reproduce takes one folder of a paper: lm reproduce experiments/nanogpt, or --all"
        )
    if values["ledger"].present:
        raise ConfigError("--ledger is written by --all")
    if values.check and values.use:
        raise ConfigError("--check judges what is on record: leave --use out")


def _used(item: str) -> tuple[str, Path]:
    name, equals, path = item.partition("=")
    if not (name and equals and path):
        raise ConfigError(f"--use={item}: write --use=RUN=WORKDIR")
    return name, Path(path)


def _one(folder: Path, output: Path, settings: Settings, *, check: bool) -> int:
    from lm.reproduce.run import Outcome, rejudge, reproduce, summary

    if check:
        claims = rejudge(folder, output, settings.scale, only_measured=settings.only_measured)
        outcome = Outcome(claims, stopped=False)
    else:
        outcome = reproduce(folder, output, settings)
    print(summary(outcome.claims))
    if (output / "report.html").exists():
        print(output / "report.html")
    if outcome.stopped:
        return EXIT_PREEMPTED
    return EXIT_FAILED if outcome.refused else 0


def _all(root: Path, path: Path, settings: Settings, *, check: bool) -> int:
    """Every paper; one that fails does not keep the others from being done, nor the ledger."""
    from lm.reproduce.claims import find_papers, load_paper
    from lm.reproduce.ledger import Entry, ledger

    folders = find_papers(root)
    # What is wrong with a claims.py is said before an hour has been spent on another.
    papers = {folder: load_paper(folder) for folder in folders}
    status = 0
    for folder in folders:
        print(f"== {folder}", flush=True)
        try:
            done = _one(folder, folder / "report", settings, check=check)
        except UserError as error:
            print(f"lm reproduce: {folder}: {error}", file=sys.stderr)
            status = EXIT_FAILED
            continue
        status = done or status
        if done == EXIT_PREEMPTED:
            break
    entries = [Entry(folder, folder / "report", papers[folder]) for folder in folders]
    written = ledger(entries, settings.scale, path.parent)
    try:
        path.write_text(written, encoding="utf-8")
    except OSError as error:
        raise UserError(f"could not write {path}: {error.strerror}") from None
    print(path)
    return status
