"""The flags of `lm generate` about speed and memory: int8 weights, and a draft."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from lm.errors import ConfigError

if TYPE_CHECKING:
    from lm.generate.speculative import Draft
    from lm.train.workdir import Run


def define_speed(values: flags.FlagValues) -> None:
    """The flags; those left out change nothing."""
    options: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_enum("weights", "float", ["float", "int8"], "int8: a quarter of the memory, and "
                      "nearly the same text", **options)  # fmt: skip
    flags.DEFINE_string("draft", None, "folder of the run of a smaller model with the same "
                        "tokenizer: it proposes tokens that the model then says or not, which "
                        "changes the speed and not what is likely", **options)  # fmt: skip
    flags.DEFINE_integer("draft_tokens", None, "of a draft: tokens it proposes at a time "
                         "(default: 4)", lower_bound=1, **options)  # fmt: skip


def lightened(run: Run, weights: str) -> Run:
    """`run` with the weights that --weights asks for, and no others kept."""
    if weights == "float":
        return run
    from lm.generate.quantize import quantize

    return dataclasses.replace(run, params=quantize(run.params), trained={})


def draft_from(values: flags.FlagValues, run: Run) -> Draft | None:
    """The draft that the flags ask for, which says on stderr how much of it was kept.

    Raises:
      ConfigError: --draft_tokens without a draft, one with a search, or with another tokenizer.
      UserError: no run there.
    """
    if values.draft is None:
        if values.draft_tokens is not None:
            raise ConfigError("--draft_tokens is of a draft: give --draft with it")
        return None
    for name in ("num_beams", "penalty_alpha"):
        if values[name].value is not None:
            raise ConfigError(f"--draft does not go with a search (--{name})")
    from lm.generate.speculative import DRAFT_TOKENS, Draft
    from lm.train.workdir import load_run

    other = load_run(Path(values.draft))
    if other.tokenizer.fingerprint != run.tokenizer.fingerprint:
        raise ConfigError(
            f"--draft={values.draft} has another tokenizer than --workdir={values.workdir}: a "
            "draft must have been trained with the same"
        )

    def report(share: float) -> None:
        print(f"{share:.1%} of the draft's tokens were kept", file=sys.stderr)

    return Draft(other.model, other.params, values.draft_tokens or DRAFT_TOKENS, report)
