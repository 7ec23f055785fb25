"""`lm evaluate --suite=lm-eval`: the tasks of the Language Model Evaluation Harness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from absl import flags

from lm.errors import ConfigError, UserError

# Flags of this suite alone.
OWN = ("tasks", "include_path", "limit", "num_fewshot", "samples")


def define_harness(values: flags.FlagValues) -> None:
    """The flags of the suite."""
    options: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_enum("suite", None, ["lm-eval"], "instead of the validation data, the tasks of "
                      "lm-eval (pip install 'lm[lm-eval]')", **options)  # fmt: skip
    flags.DEFINE_list("tasks", [], "lm-eval: the tasks' names, with commas between", **options)
    flags.DEFINE_string("include_path", None, "lm-eval: folder of YAML files, whose tasks are then "
                        "the only ones known", **options)  # fmt: skip
    flags.DEFINE_integer("limit", None, "lm-eval: the first so many examples of each task",
                         lower_bound=1, **options)  # fmt: skip
    flags.DEFINE_integer("num_fewshot", None, "lm-eval: demonstrations before each example (else "
                         "as the task says)", lower_bound=0, **options)  # fmt: skip
    flags.DEFINE_string("samples", None, "lm-eval: file for what was asked and answered, a JSON "
                        "line an example", **options)  # fmt: skip


def check_harness(values: flags.FlagValues) -> None:
    """Raises ConfigError for flags that do not go together."""
    if values.suite is None:
        given = [name for name in OWN if values[name].present]
        if given:
            raise ConfigError(f"--{given[0]} is of a suite: give --suite=lm-eval with it")
        return
    shared = {"workdir", "step", "batch_size", "suite", *OWN}
    other = [name for name in values if values[name].present and name not in shared]
    if other:
        raise ConfigError(f"--{other[0]} does not go with --suite=lm-eval")
    if not values.tasks:
        raise ConfigError("--suite=lm-eval needs --tasks=NAME,NAME")
    if values.include_path is not None and not Path(values.include_path).is_dir():
        raise UserError(f"--include_path={values.include_path} is no folder")


def run_harness(values: flags.FlagValues) -> int:
    """Prints the results as JSON."""
    from lm.cli.files import check_output, write_output
    from lm.evaluate.harness import evaluate_tasks
    from lm.train.workdir import load_run

    check_output(values.samples, "--samples")
    loaded = load_run(Path(values.workdir), values.step)
    found = evaluate_tasks(
        loaded,
        values.tasks,
        include_path=None if values.include_path is None else Path(values.include_path),
        limit=values.limit,
        num_fewshot=values.num_fewshot,
        batch_size=values.batch_size or 32,
    )
    if values.samples is not None:
        lines = [
            json.dumps({"task": task, **sample}, default=str) + "\n"
            for task, samples in found["samples"].items()
            for sample in samples
        ]
        write_output(values.samples, lambda file: file.write("".join(lines).encode()), "--samples")
    kept = ("results", "groups", "versions", "n-shot", "n-samples", "higher_is_better")
    shown = {name: found[name] for name in kept if name in found}
    print(json.dumps({"step": loaded.step, **shown}, indent=2, default=str))
    return 0
