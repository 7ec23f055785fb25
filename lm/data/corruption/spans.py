"""Span corruption: spans of text drop out of the source, and the target says what they were.

    tokens    Thank you for inviting me to your party last week .
    source    Thank you <X> me to your party <Y> week .
    targets   <X> for inviting <Y> last

T5 (Raffel et al. 2020, sections 3.1.4 and 3.3.4), and UL2's mixture of such denoisers (Tay et al.
2022, section 3.1). A span's sentinel comes before the span, in the target as in the source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from lm.data.corruption.seq2seq import (
    Tokens,
    encoder_decoder_row,
    eos_of,
    most_after_split,
    split_point,
)
from lm.data.corruption.vocabulary import Vocabulary
from lm.errors import ConfigError
from lm.types import Features


def span_counts(n: int, density: float, mean_length: float) -> tuple[int, int]:
    """How many of n tokens drop out, in how many spans.

    As many as T5 drops: n * density and that over the mean length, both rounded (halves to even),
    at least one and never all. Fewer than two tokens stay whole. T5's code, which is for densities
    up to one half, has no limit for the spans where too few tokens stay to keep them apart.

    Raises:
      ConfigError: a density outside (0, 1), a mean length below 1.
    """
    if not 0 < density < 1:
        raise ConfigError(f"the density of spans must be in (0, 1), not {density}")
    if not mean_length >= 1:
        raise ConfigError(f"the mean length of spans must be at least 1, not {mean_length}")
    if n < 2:
        return 0, 0
    noise = min(max(round(n * density), 1), n - 1)
    return noise, min(max(round(noise / mean_length), 1), n - noise)


def span_lengths(
    n: int, density: float = 0.15, mean_length: float = 3.0, *, add_eos: bool = True
) -> tuple[int, int]:
    """S and T of `span_corruption` for n tokens: exact, whatever the spans are.

    Raises:
      ConfigError: as `span_counts`.
    """
    noise, spans = span_counts(n, density, mean_length)
    return n - noise + spans + add_eos, noise + spans + add_eos


def raw_length(
    source_length: int, density: float = 0.15, mean_length: float = 3.0, *, add_eos: bool = True
) -> tuple[int, int]:
    """How many tokens a row has to have for a full source, and T for them: the other way round
    from `span_lengths`. 512 with T5's defaults: 568 and 114.

    For a density of exactly one half T5's code may take one token less, so that the target is not
    longer than the source.

    Raises:
      ConfigError: as `span_counts`; a source too short for a token and a sentinel.
    """
    if source_length < 2 + add_eos:
        raise ConfigError(
            f"a source of {source_length} is too short for span corruption: it needs at least "
            f"{2 + add_eos}"
        )
    n = 2
    # The source never gets shorter with more tokens.
    step = source_length
    while step:
        if span_lengths(n + step, density, mean_length, add_eos=add_eos)[0] <= source_length:
            n += step
        else:
            step //= 2
    return n, span_lengths(n, density, mean_length, add_eos=add_eos)[1]


def noise_spans(
    n: int, rng: np.random.Generator, *, density: float = 0.15, mean_length: float = 3.0
) -> Bool[np.ndarray, "n"]:
    """True where a token drops out: spans apart from each other, each way to place so many spans of
    so many tokens as likely, the first token kept and the last dropped (T5)."""
    noise, spans = span_counts(n, density, mean_length)
    if not spans:
        return np.zeros(n, bool)
    lengths = np.empty(2 * spans, np.int64)
    lengths[0::2] = _segments(n - noise, spans, rng)
    lengths[1::2] = _segments(noise, spans, rng)
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


def _segments(total: int, parts: int, rng: np.random.Generator) -> Int[np.ndarray, "parts"]:
    """`parts` lengths of at least 1 that sum to `total`, all such as likely."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)


def drop_spans(
    tokens: Tokens, dropped: Bool[np.ndarray, "n"], sentinels: Sequence[int]
) -> tuple[Int[np.ndarray, "S"], Int[np.ndarray, "T"]]:
    """The source and the target for given spans: each run of True is one.

    In the source the i-th sentinel stands for the i-th span; the target is every span, its sentinel
    before it, and one more sentinel where the text goes on after the last span (T5's code does the
    same: as its spans end with the row, it writes none; the paper's figure shows one).

    Raises:
      ConfigError: more spans than sentinels.
    """
    first = dropped.copy()
    first[1:] &= ~dropped[:-1]
    spans = int(first.sum())
    ends_open = bool(spans and not dropped[-1])
    if spans + ends_open > len(sentinels):
        raise ConfigError(
            f"a row of {len(tokens)} tokens has {spans} spans, and the vocabulary only "
            f"{len(sentinels)} sentinels: give it more, take shorter rows, fewer or longer spans"
        )
    marks = np.asarray(sentinels[: spans + ends_open], np.int32)
    source = tokens.astype(np.int32)
    source[first] = marks[:spans]
    targets = np.insert(
        tokens[dropped].astype(np.int32), np.flatnonzero(first[dropped]), marks[:spans]
    )
    return source[first | ~dropped], np.concatenate([targets, marks[spans:]])


def span_corruption(
    tokens: Tokens,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    *,
    density: float = 0.15,
    mean_length: float = 3.0,
    add_eos: bool = True,
    length: int | None = None,
) -> Features:
    """T5's objective: an encoder-decoder row (see `lm.data.corruption.seq2seq`).

    (S, T) = span_lengths(`length`), by default of n, the number of tokens; a row with fewer tokens
    than `length` is padded. Any token may drop out, also one that is special: rows as T5 makes them
    are text only.

    Raises:
      ConfigError: as `span_counts`; fewer sentinels than spans; add_eos without an eos token.
      UserError: more tokens than `length`.
    """
    dropped = noise_spans(len(tokens), rng, density=density, mean_length=mean_length)
    source, targets = drop_spans(tokens, dropped, vocabulary.sentinels)
    most = len(tokens) if length is None else length
    room = span_lengths(most, density, mean_length, add_eos=add_eos)
    return _row(source, targets, vocabulary, room, (), add_eos)


@dataclass(frozen=True)
class Denoiser:
    """One task of UL2's mixture: R(egular) and X(treme) are span corruption, S(equential) is a
    prefix to be continued: `density` is then the mean share of tokens after it."""

    mode: Literal["R", "S", "X"]
    density: float
    mean_length: float = 3.0

    def __post_init__(self) -> None:
        if self.mode not in ("R", "S", "X"):
            raise ConfigError(f"a denoiser's mode must be R, S or X, not {self.mode!r}")
        span_counts(0, self.density, self.mean_length)

    def lengths(self, n: int, *, add_eos: bool = True) -> tuple[int, int]:
        """The longest source and target of n tokens."""
        if self.mode != "S":
            return span_lengths(n, self.density, self.mean_length, add_eos=add_eos)
        longest = n - 1 if self.density <= 0.5 else most_after_split(n, 1 - self.density)
        return max(longest, 1) + add_eos, most_after_split(n, self.density) + add_eos


# Table 1 of the paper.
UL2 = (
    Denoiser("R", 0.15, 3.0),
    Denoiser("R", 0.15, 8.0),
    Denoiser("S", 0.25),
    Denoiser("X", 0.5, 3.0),
    Denoiser("X", 0.5, 8.0),
    Denoiser("X", 0.15, 64.0),
    Denoiser("X", 0.5, 64.0),
)


def mixture_lengths(
    n: int,
    denoisers: Sequence[Denoiser] = UL2,
    modes: Mapping[str, int] | None = None,
    *,
    add_eos: bool = True,
) -> tuple[int, int]:
    """S and T of `mixture_of_denoisers` for n tokens: the longest of any denoiser's."""
    sources, targets = zip(*(d.lengths(n, add_eos=add_eos) for d in denoisers))
    return max(sources) + bool(modes), max(targets)


def mixture_of_denoisers(
    tokens: Tokens,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    *,
    denoisers: Sequence[Denoiser] = UL2,
    rates: Sequence[float] | None = None,
    modes: Mapping[str, int] | None = None,
    add_eos: bool = True,
    length: int | None = None,
) -> Features:
    """UL2's objective: each row is given to one denoiser, drawn by `rates` (default: all alike).

    With `modes`, the id of the token for each of "R", "S" and "X", the source begins with the
    denoiser's. (S, T) = mixture_lengths(`length`), by default of n. Besides the arrays of an
    encoder-decoder row there is denoiser int32 [], which of `denoisers` it was. UL2 gives each
    denoiser as many tokens as fill the source; here all have n, and short sources are padded.

    Raises:
      ConfigError: as `span_corruption`; rates that are not one a denoiser; a mode without a token.
      UserError: more tokens than `length`.
    """
    probabilities = None
    if rates is not None:
        if len(rates) != len(denoisers) or min(rates) < 0 or not sum(rates) > 0:
            raise ConfigError(
                f"rates must be one number from 0 for each of {len(denoisers)} denoisers, "
                f"not {list(rates)}"
            )
        probabilities = np.asarray(rates, float) / sum(rates)
    which = int(rng.choice(len(denoisers), p=probabilities))
    chosen = denoisers[which]
    if modes is not None and chosen.mode not in modes:
        raise ConfigError(f"modes has no token for denoiser {chosen.mode!r}: {dict(modes)}")
    if chosen.mode == "S":
        at = split_point(len(tokens), rng, chosen.density)
        source, targets = tokens[:at], tokens[at:]
    else:
        dropped = noise_spans(
            len(tokens), rng, density=chosen.density, mean_length=chosen.mean_length
        )
        source, targets = drop_spans(tokens, dropped, vocabulary.sentinels)
    most = len(tokens) if length is None else length
    room = mixture_lengths(most, denoisers, modes, add_eos=add_eos)
    before = () if modes is None else (modes[chosen.mode],)
    row = _row(source, targets, vocabulary, room, before, add_eos)
    return {**row, "denoiser": np.array(which, np.int32)}


def _row(
    source: Tokens,
    targets: Tokens,
    vocabulary: Vocabulary,
    room: tuple[int, int],
    before: tuple[int, ...],
    add_eos: bool,
) -> Features:
    eos = eos_of(vocabulary, add_eos)
    return encoder_decoder_row(
        np.concatenate([before, source, eos]).astype(np.int32),
        np.concatenate([targets, eos]).astype(np.int32),
        vocabulary,
        source_length=room[0],
        length=room[1],
    )
