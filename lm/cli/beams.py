"""The flags of `lm generate` about searches, and what they mean together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from lm.errors import ConfigError

if TYPE_CHECKING:
    from lm.data.tokenizer import Tokenizer
    from lm.generate.beam_config import BeamConfig
    from lm.generate.constraints import Constraints
    from lm.generate.contrastive import ContrastiveConfig

# By the name of the flag, that of the config's field.
FIELDS = {
    "length_penalty": "length_penalty",
    "length_normalization": "normalization",
    "early_stopping": "early_stopping",
    "num_beam_groups": "num_groups",
    "diversity_penalty": "diversity_penalty",
    "min_new_tokens": "min_new_tokens",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
}
# Not fields of it, but of no use without.
CONSTRAINTS = ("suppress", "choice")
CHANCE = ("temperature", "top_p", "min_p", "typical_p", "seed", "stop")


def define_beam_search(values: flags.FlagValues) -> None:
    """The flags of beam search alone; those left out are as `lm.generate.beam_config` says."""
    options: dict[str, Any] = {"flag_values": values}
    whole, number = flags.DEFINE_integer, flags.DEFINE_float
    whole("num_beams", None, "search for the likeliest completion with this many hypotheses at a "
          "time; without it lm generate samples", lower_bound=1, **options)  # fmt: skip
    number("length_penalty", None, "of a search: log-probability / length ** this; 0 prefers "
           "short completions, 1 (the default) the best mean", **options)  # fmt: skip
    flags.DEFINE_enum("length_normalization", None, ["power", "gnmt"], "of a search: length, or "
                      "(5 + length) / 6 (Wu et al. 2016)", **options)  # fmt: skip
    flags.DEFINE_enum("early_stopping", None, ["true", "false", "never"], "of a search: true ends "
                      "it with num_beams completions, false (the default) where better ones are "
                      "unlikely, never where they are impossible", **options)  # fmt: skip
    whole("num_beam_groups", None, "of a search: groups that avoid each other's tokens", **options)
    number("diversity_penalty", None, "of groups: what saying the same costs", **options)
    whole("min_new_tokens", None, "of a search: tokens before the text may end", **options)
    whole("no_repeat_ngram_size", None, "of a search: say no n-gram of this length twice",
          **options)  # fmt: skip
    number(
        "repetition_penalty", 1.0, "above 1 makes tokens of the text so far less likely", **options
    )


def define_beams(values: flags.FlagValues) -> None:
    """The flags of searches: beam search, what it may say, and contrastive search."""
    define_beam_search(values)
    options: dict[str, Any] = {"flag_values": values}
    number = flags.DEFINE_float
    number("penalty_alpha", None, "contrastive search instead of sampling: of the top_k likeliest "
           "tokens (default: 4) the one with the best (1 - this) * probability - this * "
           "similarity to what was said (Su et al. 2022: 0.6)", **options)  # fmt: skip
    strings = flags.DEFINE_multi_string
    strings("suppress", [], "of a search: never say this, as it is tokenised alone and after a "
            "space; may be repeated", **options)  # fmt: skip
    strings("choice", [], "of a search: complete with one of these only, taken as they are; to be "
            "repeated", **options)  # fmt: skip


def beams_from(values: flags.FlagValues) -> BeamConfig | None:
    """What the flags say about beam search; None where they ask for none.

    Raises:
      ConfigError: a value outside its range, flags of a search without --num_beams, or of sampling
        with it.
    """
    from lm.generate.beam_config import BeamConfig

    if values.num_beams is None:
        given = _present(values, (*FIELDS, *CONSTRAINTS))
        if given:
            raise ConfigError(f"--{given[0]} is of beam search: give --num_beams with it")
        return None
    _check_none(values, ("penalty_alpha", "top_k", *CHANCE), "num_beams")
    fields = {field: values[flag].value for flag, field in FIELDS.items()}
    if values.early_stopping in ("true", "false"):
        fields["early_stopping"] = values.early_stopping == "true"
    return BeamConfig(
        num_beams=values.num_beams,
        repetition_penalty=values.repetition_penalty,
        **{name: value for name, value in fields.items() if value is not None},
    )


def contrast_from(values: flags.FlagValues) -> ContrastiveConfig | None:
    """What the flags say about contrastive search; None where they ask for none.

    Raises:
      ConfigError: a value outside its range, or flags of sampling with it.
    """
    from lm.generate.contrastive import ContrastiveConfig

    if values.penalty_alpha is None:
        return None
    _check_none(values, ("repetition_penalty", *CHANCE), "penalty_alpha")
    top_k = {} if values.top_k is None else {"top_k": values.top_k}
    return ContrastiveConfig(values.penalty_alpha, **top_k)


def _present(values: flags.FlagValues, names: Sequence[str]) -> list[str]:
    """Those that were given, of flags that the command may have."""
    return [name for name in names if name in values and values[name].present]


def _check_none(values: flags.FlagValues, names: Sequence[str], search: str) -> None:
    given = _present(values, names)
    if given:
        raise ConfigError(
            f"--{given[0]} does not go with --{search}: a search has its own way to choose tokens, "
            "up to the end of sequence, and leaves nothing to chance"
        )


def constraints_from(values: flags.FlagValues, tokenizer: Tokenizer) -> Constraints | None:
    """--suppress and --choice as tokens, for one prompt.

    Raises:
      ConfigError: an empty text.
      UserError: the tokenizer cannot encode one.
    """
    from lm.generate.constraints import Constraints

    if "" in (*values.suppress, *values.choice):
        raise ConfigError("--suppress= or --choice= is empty: give at least one character")
    if not values.suppress and not values.choice:
        return None
    suppressed = {
        tuple(tokenizer.encode(form)) for text in values.suppress for form in (text, f" {text}")
    }
    choices = [tokenizer.encode(text) for text in values.choice]
    return Constraints(sorted(suppressed), [choices] if choices else None)
