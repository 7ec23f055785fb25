"""`lm sweep`: the cells of an experiment's sweep, each a run of `lm train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from absl import flags

from lm.cli.common import define_data_root, no_positional
from lm.errors import EXIT_FAILED, EXIT_PREEMPTED, ConfigError

SUMMARY = "run many variations of an experiment; the same command resumes them"
EXAMPLES = """
lm sweep --config=experiments/quickstart.py --workdir=runs/seeds --seeds=0,1,2
lm sweep --config=FILE.py --workdir=runs/rates --dry_run
lm sweep --config=FILE.py:small --workdir=runs/rates --jobs=4 --retries=2
lm sweep --config=FILE.py --workdir=runs/rates --engine=ray --resources=CPU=1,GPU=0.5
lm sweep --config=FILE.py --workdir=runs/rates --engine=ray --scheduler=asha --grace=500
lm sweep --config=FILE.py --workdir=/shared/rates --engine=ray --address=auto
"""


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "config",
        None,
        "experiment file with a sweep(add), FILE.py or FILE.py:VARIANT; --config.a.b=VALUE is for "
        "every cell",
        flag_values=values,
    )
    flags.DEFINE_string(
        "workdir", None, "folder of the sweep; each cell has one in it", flag_values=values
    )
    define_data_root(values)
    flags.DEFINE_list("seeds", None, "runs every cell with each of them", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "list the cells with their hashes", flag_values=values)
    flags.DEFINE_integer(
        "retries", 1, "how often a cell that failed is begun again", lower_bound=0,
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "jobs",
        None,
        "cells at a time (default: 1; with ray, as many as there is room for)",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "metric",
        None,
        "which metric of the first of data.validation the table shows, and a scheduler looks at",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "engine", "local", ["local", "ray"], "what runs the cells: processes here, or Ray",
        flag_values=values,
    )  # fmt: skip
    _define_ray(values)
    flags.mark_flags_as_required(["config", "workdir"], flag_values=values)


def _define_ray(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "address", None, "ray: of a running cluster, or auto; else one is started here",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_list(
        "resources",
        None,
        "ray: what a cell takes, NAME=AMOUNT (default: CPU=1, and GPU=1 or TPU=1 where there are "
        "any)",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "scheduler", None, ["asha"], "ray: stops cells that fall behind", flag_values=values
    )
    flags.DEFINE_integer(
        "grace", None, "asha: steps that every cell may train", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "reduction", None, "asha: one of how many goes on (default: 4)", lower_bound=2,
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum(
        "mode", None, ["min", "max"], "asha: which value of the metric is better (default: min)",
        flag_values=values,
    )  # fmt: skip


def run(values: flags.FlagValues, rest: list[str], overrides: list[tuple[str, str]]) -> int:
    no_positional(rest)
    settings = _settings(values)
    from lm.reproduce.sweep_file import cells_of_file

    cells = cells_of_file(values.config, overrides, _seeds(values.seeds))
    if values.dry_run:
        for cell in cells:
            print(f"{cell.digest}  {cell.title}  {cell.label}  seed={cell.seed}")
        return 0

    from lm.reproduce.engines import build_engine
    from lm.reproduce.sweep import run_sweep
    from lm.reproduce.sweep_table import final_table, how_to_continue

    workdir = Path(values.workdir)
    results = run_sweep(
        cells,
        workdir,
        build_engine(values.engine, **settings),
        data_root=None if values.data_root is None else Path(values.data_root),
        retries=values.retries,
    )
    print(final_table(results, values.metric or "loss"))
    print(f"all of it: {workdir / 'sweep.json'}", file=sys.stderr)
    if any(result.interrupted for result in results):
        print(how_to_continue(results), file=sys.stderr)
        return EXIT_PREEMPTED
    return EXIT_FAILED if any(result.status == "failed" for result in results) else 0


def _seeds(texts: list[str] | None) -> list[int] | None:
    if texts is None:
        return None
    try:
        seeds = [int(text) for text in texts]
    except ValueError:
        raise ConfigError(
            f"--seeds={','.join(texts)}: whole numbers, as in --seeds=0,1,2"
        ) from None
    if not seeds:
        raise ConfigError("--seeds is empty")
    return seeds


def _settings(values: flags.FlagValues) -> dict[str, Any]:
    """Of the engine, from its flags."""
    if values.engine == "local":
        for name in ("address", "resources", "scheduler"):
            if getattr(values, name) is not None:
                raise ConfigError(f"--{name} is for --engine=ray")
    asha = {name: getattr(values, name) for name in ("grace", "reduction", "mode")}
    given = {name: value for name, value in asha.items() if value is not None}
    if values.scheduler is None and given:
        raise ConfigError(f"--{next(iter(given))} is for --scheduler=asha")
    if values.engine == "local":
        return {} if values.jobs is None else {"jobs": values.jobs}
    settings: dict[str, Any] = {"address": values.address, "jobs": values.jobs}
    if values.resources is not None:
        settings["resources"] = dict(_amount(text) for text in values.resources)
    if values.scheduler is not None:
        if "grace" not in given:
            raise ConfigError("--scheduler=asha needs --grace, the steps that every cell may train")
        from lm.reproduce.engines.ray import Asha

        settings["scheduler"] = Asha(metric=values.metric, **given)
    return settings


def _amount(text: str) -> tuple[str, float]:
    name, _, amount = text.partition("=")
    try:
        return name, float(amount)
    except ValueError:
        raise ConfigError(f"--resources: {text!r} is not NAME=AMOUNT, as in GPU=0.5") from None
