"""What subcommands share."""

from __future__ import annotations

import os
import re

from absl import flags

from lm.errors import ConfigError


def define_data_root(values: flags.FlagValues) -> None:
    """The flag of commands that read a run's data."""
    flags.DEFINE_string(
        "data_root",
        None,
        "folder that data paths are below; else where the run read its data before, else $LM_DATA, "
        "else ~/.cache/lm/data",
        flag_values=values,
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
    devices = re.search(r"host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    if devices:
        # A device that waits for the others holds a thread for each collective: with as many
        # threads as devices, XLA's default, they can all be waiting for good.
        os.environ.setdefault("NPROC", str(4 * int(devices.group(1))))
