"""A paper's claims as values: what was published, what is measured, and when they agree.

`experiments/<paper>/claims.py` has one value, PAPER, plain and nested as an experiment's config is;
`load_paper` turns it into a `Paper`, strictly. A claim names one or more quantities that a measure
gives, one number a seed; how they have to lie to what was published is its `check`, fixed before
anything is run.
"""

from __future__ import annotations

import importlib.util
import math
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union

from lm.config import from_dict
from lm.config.checks import at_least, check, positive
from lm.errors import ConfigError, UserError, did_you_mean
from lm.reproduce.figures import Figure
from lm.reproduce.measures import Measure

CLAIMS = "claims.py"
Scale = Literal["cpu", "gpu", "paper"]
# In the order of what they cost.
SCALES: tuple[Scale, ...] = ("cpu", "gpu", "paper")
Band = tuple[float, float]


@dataclass(frozen=True)
class Within:
    """As far as `tolerance` from what was published, or (`relative`) that share of it."""

    tolerance: float
    relative: bool = False
    kind: Literal["within"] = "within"

    def __post_init__(self) -> None:
        positive(self, "tolerance")

    def band(self, published: float) -> Band:
        width = self.tolerance * abs(published) if self.relative else self.tolerance
        return published - width, published + width

    def words(self) -> str:
        return f"± {self.tolerance:.3g}" if not self.relative else f"± {100 * self.tolerance:.3g} %"


@dataclass(frozen=True)
class Factor:
    """At most `times` as large as what was published, or as small."""

    times: float
    kind: Literal["factor"] = "factor"

    def __post_init__(self) -> None:
        check(self.times > 1, f"times must be above 1, not {self.times}")

    def band(self, published: float) -> Band:
        return published / self.times, published * self.times

    def words(self) -> str:
        return f"within {self.times:.3g}×"


@dataclass(frozen=True)
class AtLeast:
    """`bound` or more: what is asked of a run that is smaller than the paper's."""

    bound: float
    kind: Literal["at_least"] = "at_least"

    def band(self, published: float) -> Band:
        return self.bound, math.inf

    def words(self) -> str:
        return f"≥ {self.bound:.4g}"


@dataclass(frozen=True)
class AtMost:
    """`bound` or less."""

    bound: float
    kind: Literal["at_most"] = "at_most"

    def band(self, published: float) -> Band:
        return -math.inf, self.bound

    def words(self) -> str:
        return f"≤ {self.bound:.4g}"


@dataclass(frozen=True)
class Ordered:
    """The quantities, in the order named, rise (or fall) by `margin` or more each time. What is
    judged is the smallest of these steps."""

    direction: Literal["rising", "falling"]
    margin: float = 0.0
    kind: Literal["ordered"] = "ordered"

    def __post_init__(self) -> None:
        at_least(self, 0, "margin")

    def band(self, published: float) -> Band:
        return self.margin, math.inf

    def words(self) -> str:
        return f"{self.direction}: each step ≥ {self.margin:.3g}"


@dataclass(frozen=True)
class Reported:
    """Not judged: a number that stands beside the others."""

    kind: Literal["reported"] = "reported"

    def band(self, published: float) -> Band:
        return -math.inf, math.inf

    def words(self) -> str:
        return "reported, not judged"


# What a config's value can be on a command line.
Value = Union[bool, int, float, str]
Check = Union[Within, Factor, AtLeast, AtMost, Ordered, Reported]


@dataclass(frozen=True)
class Runs:
    """Training runs that differ in their seed alone. `config` is FILE.py:VARIANT as `lm train`
    takes it, `overrides` are values by dotted key; `cost` is said beside the command. `after` names
    other runs, with whose last parameters, of the same seed, these begin."""

    config: str
    overrides: Mapping[str, Value] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    cost: str = ""
    after: str | None = None

    def __post_init__(self) -> None:
        check(len(self.seeds) > 0, "seeds names none")
        check(len(set(self.seeds)) == len(self.seeds), f"seeds has one twice: {self.seeds}")


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper that can be right or wrong here.

    `where` is the table or figure; `published` the paper's number (None where there is none to
    compare with); `quantities` are those of `measure`. `scale` is what it takes to run: "cpu" an
    hour on two cores, "gpu" half an hour on one accelerator, "paper" the paper's own. `proxy` says
    what stands here for what the paper did, and is shown with the verdict. `why`: where the
    tolerance is from.
    """

    id: str
    sentence: str
    where: str
    measure: str
    quantities: tuple[str, ...]
    check: Check
    scale: Scale
    unit: str = ""
    published: float | None = None
    proxy: str = ""
    why: str = ""
    figure: str | None = None

    def __post_init__(self) -> None:
        check(bool(re.fullmatch(r"[\w.-]+", self.id)), f"id {self.id!r}: letters, digits, - and .")
        check(len(self.quantities) > 0, f"claim {self.id}: quantities names none")
        ordered = isinstance(self.check, Ordered)
        check(
            ordered == (len(self.quantities) > 1),
            f"claim {self.id}: check 'ordered' compares two quantities or more, the others one",
        )
        check(
            self.published is not None or not isinstance(self.check, (Within, Factor)),
            f"claim {self.id}: check {self.check.kind!r} needs the published value",
        )


@dataclass(frozen=True)
class Paper:
    """A paper and what is claimed of it here. `deviations`: what is done otherwise than there."""

    title: str
    reference: str
    claims: tuple[Claim, ...]
    measures: Mapping[str, Measure]
    runs: Mapping[str, Runs] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    summary: str = ""
    deviations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ids = [claim.id for claim in self.claims]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        check(not twice, f"claims: two have the id {', '.join(twice)}")
        for name, runs in self.runs.items():
            if runs.after is not None:
                self._check_start(name, runs.after)
        for name, measure in self.measures.items():
            for run in measure.runs:
                _known(run, self.runs, f"measure {name!r}: no run")
                after = self.runs[run].after
                check(
                    after is None or after in measure.runs,
                    f"measure {name!r}: {run!r} begins after {after!r}, which has to be one of its "
                    "runs too",
                )
        for name, figure in self.figures.items():
            _known(figure.measure, self.measures, f"figure {name!r}: no measure")
        for claim in self.claims:
            place = f"claim {claim.id}"
            _known(claim.measure, self.measures, f"{place}: no measure")
            known = self.measures[claim.measure].quantities
            for name in claim.quantities:
                _known(name, known, f"{place}: measure {claim.measure!r} gives no quantity")
            if claim.figure is not None:
                _known(claim.figure, self.figures, f"{place}: no figure")

    def _check_start(self, name: str, after: str) -> None:
        _known(after, self.runs, f"run {name!r}: after names no run")
        first = self.runs[after]
        check(first.after is None, f"run {name!r}: after {after!r}, which begins after another")
        lacking = sorted(set(self.runs[name].seeds) - set(first.seeds))
        check(not lacking, f"run {name!r}: {after!r}, with which it begins, has no seeds {lacking}")

    def scale_of(self, measure: str) -> Scale:
        """The least that a claim about this measure says it takes."""
        scales = [claim.scale for claim in self.claims if claim.measure == measure]
        return min(scales, key=SCALES.index, default="paper")


def _known(name: str, names: Any, what: str) -> None:
    if name not in names:
        raise ConfigError(f"{what} {name!r}{did_you_mean(name, names)}")


def load_paper(folder: Path) -> Paper:
    """The paper that FOLDER/claims.py describes.

    Raises:
      UserError: there is no such file.
      ConfigError: it cannot be read, defines no PAPER, or not a valid one.
    """
    path = folder / CLAIMS
    if not path.is_file():
        near = folder.parent.glob(f"*/{CLAIMS}") if folder.parent.is_dir() else ()
        hint = did_you_mean(folder.name, (found.parent.name for found in near))
        raise UserError(f"{folder} has no {CLAIMS}{hint}")
    spec = importlib.util.spec_from_file_location(f"lm_claims_{folder.name}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    # Whatever a file of Python may do wrong: it is said with the line.
    except Exception as error:
        raise ConfigError(f"{path}{_line(error, path)} cannot be read: {_said(error)}") from error
    values = getattr(module, "PAPER", None)
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{path} defines no PAPER, a dict with the fields of lm.reproduce's Paper"
        )
    return from_dict(Paper, values, path=f"{path}: PAPER")


def _line(error: Exception, path: Path) -> str:
    """Where in the file it happened, as :LINE; a SyntaxError says so itself."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve() == path.resolve()
    ]
    return f":{lines[-1]}" if lines else ""


def _said(error: Exception) -> str:
    """What a person reads of an error: a KeyError by itself says the key and nothing else."""
    told = isinstance(error, SyntaxError | ImportError | ConfigError)
    return str(error) if told else f"{type(error).__name__}: {error}"


def find_papers(root: Path) -> list[Path]:
    """The folders below `root` that have claims, by name.

    Raises:
      UserError: none has.
    """
    found = sorted(path.parent for path in root.glob(f"*/{CLAIMS}"))
    if not found:
        raise UserError(f"no folder in {root.absolute()} has a {CLAIMS}")
    return found
