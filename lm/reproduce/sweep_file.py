"""`sweep(add)` of an experiment file: which cells there are.

    def sweep(add):
        for rate in (3e-4, 1e-3, 3e-3):
            add(f"lr{rate:g}", {"optimizer.learning_rate": rate})

A cell without a name has its digest for one. `variant` names another variant of the file than the
command line does, `seed` another seed than the config.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lm.config import apply_override
from lm.errors import ConfigError
from lm.reproduce.cell import Cell, check_cells
from lm.train.experiment import experiment_module, experiment_values


def cells_of_file(
    argument: str,
    changes: Sequence[tuple[str, str]] = (),
    seeds: Sequence[int] | None = None,
) -> list[Cell]:
    """The cells of `FILE.py[:VARIANT]`, checked.

    Args:
      changes: (dotted key, text) of `--config.KEY=TEXT`, for every cell.
      seeds: makes of every cell one with each of them; of a file without `sweep`, its config.

    Raises:
      ConfigError: the file has no sweep (and there are no seeds), or an empty one; a cell that
        cannot be meant, sets what the command line or `seeds` set, or is there twice.
    """
    module = experiment_module(argument)
    adder = _Adder(argument, changes, seeds)
    if hasattr(module, "sweep"):
        try:
            module.sweep(adder)
        except ValueError as error:
            raise ConfigError(f"--config={argument}: sweep: {error}") from error
        if not adder.cells:
            raise ConfigError(f"--config={argument}: its sweep(add) adds no cell")
    elif seeds is not None:
        adder("")
    else:
        raise ConfigError(
            f"--config={argument}: {argument.partition(':')[0]} defines no sweep(add); with "
            "--seeds=0,1,2 its config is run once a seed"
        )
    check_cells(adder.cells)
    return adder.cells


class _Adder:
    """What a file's `sweep` gets."""

    def __init__(
        self, argument: str, changes: Sequence[tuple[str, str]], seeds: Sequence[int] | None
    ) -> None:
        self.cells: list[Cell] = []
        self._argument, self._seeds = argument, seeds
        self._shared: dict[str, Any] = {}
        for key, text in changes:
            place: dict[str, Any] = {}
            apply_override(place, "value", text)
            self._shared[key] = place["value"]

    def __call__(
        self,
        name: str = "",
        overrides: Mapping[str, Any] | None = None,
        *,
        variant: str | None = None,
        seed: int | None = None,
        **more: Any,
    ) -> None:
        """Adds a cell: `overrides` and `more` are dotted keys of the config to plain values."""
        if not isinstance(name, str):
            raise ConfigError(
                f"add({name!r}): a cell's name comes first: add(name, {{key: value}})"
            )
        own = {**(overrides or {}), **more}
        if "seed" in own:
            seed = own.pop("seed")
        which = f"cell {name or own}"
        self._check(which, own, seed)
        config = self._argument
        if variant is not None:
            config = f"{self._argument.partition(':')[0]}:{variant}"
        everything = {**self._shared, **own}
        if seed is None and "seed" in everything:
            seed = everything["seed"]
        everything.pop("seed", None)
        if self._seeds is None:
            if seed is None:
                seed = experiment_values(config).get("seed", 0)
            self._add(Cell(name, config, everything, seed))
        for number in self._seeds or ():
            numbered = f"{name}-seed{number}" if name else ""
            self._add(Cell(numbered, config, everything, number))

    def _add(self, cell: Cell) -> None:
        self.cells.append(cell if cell.name else dataclasses.replace(cell, name=cell.digest))

    def _check(self, which: str, own: Mapping[str, Any], seed: int | None) -> None:
        """Raises ConfigError where the cell's values are not plain, or set elsewhere as well."""
        for key, value in own.items():
            try:
                plain = ast.literal_eval(repr(value)) == value
            except (ValueError, SyntaxError):
                plain = False
            if not plain:
                raise ConfigError(f"{which}: {key}={value!r} is no plain value")
            for other in self._shared:
                if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                    raise ConfigError(
                        f"{which} sets {key}, and the command line --config.{other}: leave that out"
                    )
        for other, given in (("--seeds", self._seeds), ("--config.seed", self._shared.get("seed"))):
            if seed is not None and given is not None:
                raise ConfigError(f"{which} has the seed {seed}, so {other} cannot set it")
        if self._seeds is not None and "seed" in self._shared:
            raise ConfigError("--seeds and --config.seed: leave one out")
