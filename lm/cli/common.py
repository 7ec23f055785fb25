"""What subcommands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from lm.errors import ConfigError
from lm.host import enough_threads

if TYPE_CHECKING:
    from lm.config import Config
    from lm.parallel.kept import Kept


def define_data_root(values: flags.FlagValues) -> None:
    """The flag of commands that read a run's data."""
    flags.DEFINE_string(
        "data_root",
        None,
        "folder that data paths are below; else where the run read its data before, else $LM_DATA, "
        "else ~/.cache/lm/data",
        flag_values=values,
    )


class _StepParser(flags.ArgumentParser):
    """A number, or "best"."""

    syntactic_help = "a step, or best"

    def parse(self, argument: Any) -> Any:
        if argument == "best" or isinstance(argument, int):
            return argument
        if not str(argument).isdecimal():
            raise ValueError("write a step, such as 200, or best")
        return int(argument)

    def flag_type(self) -> str:
        return "step"


def define_step(values: flags.FlagValues, name: str = "step", before: str = "") -> None:
    """The flag of commands that read a checkpoint: None (the newest), a step, or "best"."""
    flags.DEFINE(
        _StepParser(),
        name,
        None,
        f"{before}checkpoint of this step, or of the best evaluation (best); else the newest",
        flag_values=values,
        serializer=flags.ArgumentSerializer(),
    )


def no_positional(rest: list[str]) -> None:
    """Raises ConfigError where a command that takes only flags was given something else."""
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]!r}: flags are written --name=value")


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, below the cache folder, unless the environment says
    where. To be called before JAX is imported. Virtual CPU devices also get threads enough."""
    from lm.data.roots import cache_root

    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_root() / "compiled"))
    # Small programs too: by default what compiles within a second is compiled every time.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    enough_threads()


_alone = False


def alone() -> None:
    """Says that this process runs one command line and nothing else: no caller, such as a test,
    can have put other code in the place of what is on disk."""
    global _alone
    _alone = True


def kept_programs(config: Config, workdir: Path) -> Kept | None:
    """The compiled programs that earlier starts of this run have kept, which are read from now on,
    while the rest is imported; None where there are none to be had."""
    if not _alone:
        return None
    from lm.config import to_dict
    from lm.parallel.kept import Kept, folder_of_compiled

    folder = folder_of_compiled()
    if folder is None:
        return None
    from lm.train.workdir import CHECKPOINTS

    # A run that goes on reads its state from a checkpoint.
    begun = (workdir / CHECKPOINTS).is_dir()
    return Kept(folder, to_dict(config), ("train",) if begun else ("init", "train"))
