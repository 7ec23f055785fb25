"""`lm <command> [flags]`: finds the subcommand, parses its flags, turns errors into messages.

A subcommand is a module of this package with
    SUMMARY            one line for the list of commands
    EXAMPLES           a few command lines, shown by --help
    define(flags)      defines absl flags on the given `absl.flags.FlagValues`
    run(flags, rest)   does the work; `rest` are positional arguments; returns the exit status
A subcommand with a flag `config` takes overrides, `--config.a.b=v`: run(flags, rest, overrides).
Modules import JAX inside `run` at the earliest, so that --help and a mistyped flag answer at once.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from types import ModuleType

from absl import flags

from lm.cli.common import alone
from lm.errors import EXIT_FAILED, EXIT_USAGE, ConfigError, UserError, did_you_mean
from lm.host import restart_with_malloc

# In the order a newcomer needs them.
COMMANDS = (
    "train",
    "repeat",
    "sweep",
    "evaluate",
    "predict",
    "generate",
    "score",
    "embed",
    "plot",
    "report",
    "reproduce",
    "inspect",
    "average",
    "convert",
    "export",
    "serve",
    "tokenizer",
    "bench",
)
# Those that spend their time in XLA; `bench` starts processes, with an environment for each.
COMPUTING = ("train", "predict", "generate", "serve", "evaluate", "score", "embed")


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"lm.cli.{command}")


def _overview() -> str:
    lines = ["lm: train, sample and measure language models in JAX", "", "commands:"]
    lines += [f"  lm {name:<10} {_module(name).SUMMARY}" for name in COMMANDS]
    lines += ["", "lm <command> --help shows its flags and examples"]
    return "\n".join(lines)


def _help(command: str, module: ModuleType, values: flags.FlagValues) -> str:
    lines = [f"lm {command}: {module.SUMMARY}", "", "examples:"]
    lines += [f"  {line}" if line else "" for line in module.EXAMPLES.strip().splitlines()]
    lines += ["", "flags:"]
    for name in sorted(values):
        flag = values[name]
        if name == flag.name:
            default = "" if flag.default is None else f" (default: {flag.default})"
            lines.append(f"  --{name}: {flag.help}{default}")
    return "\n".join(lines)


def _dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("--help", "-h", "help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        import lm

        print(lm.__version__)
        return 0
    command, *arguments = argv
    if command not in COMMANDS:
        print(f"lm: no command {command!r}{did_you_mean(command, COMMANDS)}", file=sys.stderr)
        return EXIT_USAGE
    module = _module(command)
    values = flags.FlagValues()
    module.define(values)
    if any(a in ("--help", "-h", "--helpfull") for a in arguments):
        print(_help(command, module, values))
        return 0
    extra: tuple[list[tuple[str, str]], ...] = ()
    if "config" in values:
        # Here: all of configs, which a process that begins again would import twice.
        from lm.cli.configs import extract_overrides

        arguments, overrides = extract_overrides(arguments)
        extra = (overrides,)
    try:
        rest = values([f"lm {command}", *arguments])[1:]
    except flags.Error as error:
        print(f"lm {command}: {_flag_message(error)}", file=sys.stderr)
        print(f"lm {command} --help lists the flags", file=sys.stderr)
        return EXIT_USAGE
    if "workdir" in values and values["workdir"].value == "":
        raise ConfigError("--workdir is empty: name the folder of the run")
    return int(module.run(values, rest, *extra) or 0)


def _flag_message(error: flags.Error) -> str:
    """absl's message, in the words of a command line."""
    missing = re.search(r"Flag (--\w+) must have a value other than None", str(error))
    if missing:
        return f"{missing.group(1)} is required"
    if isinstance(error, flags.UnrecognizedFlagError):
        return f"{error}; after a lone --, what begins with - is a text and no flag"
    return str(error)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; its exit status: 0 done, 1 failed, 2 usage, 75 pre-empted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except UserError as error:
        name = f"lm {arguments[0]}" if arguments else "lm"
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`lm score ... | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def entry() -> None:
    """The console script: `main`, and out."""
    if sys.argv[1:2] and sys.argv[1] in COMPUTING:
        restart_with_malloc()
    # Text in any language goes out whatever the locale says.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    alone()
    status = main()
    if status == EXIT_FAILED:
        # Writers that failed (a full disk) may still be calling back from threads of their own,
        # which a Python that is shutting down does not survive.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    entry()
