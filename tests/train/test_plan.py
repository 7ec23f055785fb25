from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from lm.cli.configs import load_config
from lm.config import Config, Duration
from lm.errors import ConfigError
from lm.train.plan import Plan, durations, make_plan


def config(*overrides: tuple[str, str]) -> Config:
    return load_config("experiments/quickstart.py:smoke", overrides)


def plan(*overrides: tuple[str, str], rows_per_epoch: int = 100) -> Plan:
    value = config(*overrides)
    return make_plan(value, durations(value, rows_per_epoch))


@pytest.mark.parametrize("total", [1, 7, 20, 23])
@pytest.mark.parametrize("group", [1, 5, 50])
def test_dispatches_cover_every_step_and_depend_on_the_step_alone(total: int, group: int) -> None:
    whole = Plan(total, group, None, None)
    ends, step = [], 0
    while step < total:
        step += whole.dispatch(step)
        ends.append(step)
    assert ends == [*range(group, total, group), total]


def test_epochs_and_tokens_are_rounded_to_dispatches() -> None:
    made = plan(
        ("train.duration", "{'epochs': 2}"),  # 2 * 100 rows / 8 rows a step = 25 steps
        ("train.steps_per_dispatch", "4"),
        ("evaluation.every", "{'epochs': 0.5}"),  # 6.25 steps -> 7 -> 8
        ("checkpoint.every", "{'tokens': 1}"),
    )
    assert made == Plan(25, 4, 8, 4)
    assert [s for s in range(1, 26) if made.evaluates(s)] == [8, 16, 24, 25]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([("train.duration.steps", "0")], "no step to train"),
        (
            [("train.steps_per_dispatch", "4"), ("checkpoint.every.steps", "6"),
             ("evaluation.every.steps", "4")],
            "checkpoint.every=6 steps must be a positive multiple of train.steps_per_dispatch=4",
        ),
        (
            [("checkpoint.keep_best", "1"), ("checkpoint.every.steps", "2"),
             ("evaluation.every.steps", "4")],
            "checkpoint.every=2 steps must be a multiple of evaluation.every=4 steps",
        ),
        ([("checkpoint.keep_best", "1"), ("data.validation", "{}"),
             ("evaluation.every", "None")], "keep_best needs data.valid"),
    ],
)  # fmt: skip
def test_refusals(overrides: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan(*overrides)


def test_the_plan_does_not_depend_on_the_machine() -> None:
    fields: Any = dataclasses.asdict(plan())
    assert fields == dataclasses.asdict(plan(("parallel.data", "1")))
    assert Duration(steps=fields["total_steps"])
