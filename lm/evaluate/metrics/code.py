"""pass@k: how often one of k generated programs passes its problem's tests (Chen et al. 2021)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import get_args

import numpy as np

from lm.errors import ConfigError, UserError
from lm.evaluate.metrics.common import Scores, Values, as_list, pairs, text_lists, texts
from lm.evaluate.metrics.sandbox import Limits, Outcome, Reason, run_programs


def estimate(samples: int, passed: int, k: int) -> float:
    """The chance that of k programs drawn from `samples`, of which `passed` are right, one is:
    1 - C(samples - passed, k) / C(samples, k), equation 1; without bias.

    Raises:
      ConfigError: numbers that cannot be: passed > samples, k < 1, k > samples.
    """
    if not 0 <= passed <= samples or not 1 <= k <= samples:
        raise ConfigError(
            f"pass@{k} of {samples} programs, {passed} of them right, has no estimate: k must be "
            "between 1 and the programs"
        )
    # Whole numbers as far as the quotient: nothing overflows, nothing is rounded twice.
    return 1 - math.comb(samples - passed, k) / math.comb(samples, k)


def pass_at_k(
    predictions: Values,
    references: Values,
    *,
    k: Sequence[int] = (1,),
    untrusted_code: str = "refuse",
    limits: Limits = Limits(),
    workers: int | None = None,
) -> Scores:
    """The mean over problems of pass@k, and the shares of all programs that ended each way.

    Args:
      predictions: the programs generated for each problem (all of Python: HumanEval's prompt and
        completion together).
      references: the tests of each problem, run after each of its programs; an AssertionError
        fails it (HumanEval's `check`, and its call).
      untrusted_code: these programs can do what `lm.evaluate.metrics.sandbox` says it does not
        protect from. "isolated" runs them where network, processes and files can be cut off;
        "allow" in any case.
      limits, workers: see `sandbox`.

    Raises:
      ConfigError: not permitted to run programs; a k of more than a problem's programs.
      UserError: the isolation asked for cannot be had.
    """
    if untrusted_code not in ("isolated", "allow"):
        raise ConfigError(
            "pass@k runs generated programs on this machine, with limits that are no full "
            "protection (lm/evaluate/metrics/sandbox.py says from what); to permit it give "
            "untrusted_code='isolated', or 'allow' where the system cannot isolate them"
        )
    found, wanted = pairs(predictions, references)
    problems, tests = text_lists(found, "predictions"), texts(wanted, "references")
    for index, samples in enumerate(problems):
        for size in as_list(k, "k"):
            if not 1 <= size <= len(samples):
                raise ConfigError(
                    f"pass@{size} needs {size} programs or more of each problem (and k at least "
                    f"1): predictions[{index}] has {len(samples)}"
                )
    if untrusted_code == "isolated":
        _require_isolation(limits)
    programs = [f"{p}\n{test}\n" for some, test in zip(problems, tests) for p in some]
    outcomes = run_programs(programs, limits, workers=workers)
    return scores_of(outcomes, [len(some) for some in problems], k)


def scores_of(outcomes: Sequence[Outcome], samples: Sequence[int], k: Sequence[int]) -> Scores:
    """pass@k of outcomes, so many of which are each problem's, in order. For a bootstrap resample
    problems' `estimate`s, so that nothing runs again."""
    ends = np.cumsum(samples).tolist()
    passed = [
        sum(outcome.reason == "passed" for outcome in outcomes[end - size : end])
        for size, end in zip(samples, ends)
    ]
    reasons = Counter(str(outcome.reason) for outcome in outcomes)
    return {
        **{
            f"pass@{size}": float(np.mean([estimate(n, c, size) for n, c in zip(samples, passed)]))
            for size in k
        },
        **{name.replace(" ", "_"): reasons[name] / len(outcomes) for name in get_args(Reason)},
    }


def _require_isolation(limits: Limits) -> None:
    missing = {"network", "processes", "files"} - run_programs(["pass"], limits)[0].isolated
    if missing:
        raise UserError(
            "generated programs cannot be isolated here: this system does not let the user cut "
            f"off {', '.join(sorted(missing))} (Linux namespaces); evaluate elsewhere, or accept "
            "the risk with untrusted_code='allow'"
        )
