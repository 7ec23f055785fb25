"""Tables, records and pictures of a comparison with known times."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from lm.bench import train
from lm.bench.harness import Comparison, Result, Sample
from lm.bench.report import picture, record, table
from lm.bench.shapes import TRAIN

FACTS = {"units": 4, "tokens_per_unit": 100, "peak_memory_rounds": 300 << 20}
COMPARISON = Comparison(
    "lm train",
    (
        Result(
            "lm train",
            Sample((0.25, 0.5, 0.75)),
            {
                **FACTS,
                "flops_per_unit": {"palm": 5e8, "causal": 4e8},
                "losses": {"1": 4.0, "3": 3.5},
            },
        ),
        Result(
            "torch eager",
            Sample((0.5, 0.75, 1.5)),
            {**FACTS, "losses": {"1": 4.0, "2": 3.75, "3": 3.25}},
        ),
    ),
    {"torch compiled": "no compiler"},
)
TABLE = """\
train, shape tiny: two layers
(time a step, median of the rounds; ratio: time over that of lm train)

contestant     time  quartiles  ratio  tokens/s   MFU   memory
lm train     500 ms    375-625   1.00       200  1.0%  300 MiB
torch eager  750 ms   625-1125   2.00       133  0.7%  300 MiB
left out: torch compiled: no compiler

twice as fast"""


def the_record() -> dict:
    return record(train.SUITE, "tiny", "two layers", COMPARISON, ceiling=1e11)


def test_the_table() -> None:
    assert table(the_record(), ["twice as fast"]) == TABLE


def test_a_column_without_values_is_left_out() -> None:
    bare = Comparison("a", (Result("a", Sample((2e-6,)), {}),))
    suite = dataclasses.replace(train.SUITE, base="a")
    lines = table(record(suite, "tiny", "nothing", bare, None), []).splitlines()
    assert lines[3].split() == ["contestant", "time", "quartiles", "ratio"]
    assert lines[4].split() == ["a", "2", "us", "2-2", "1.00"]


def test_the_record_is_json_without_the_bulk() -> None:
    values = json.loads(json.dumps(the_record()))
    ours, theirs = values["contestants"]
    assert ours["seconds_per_unit"]["rounds"] == [0.25, 0.5, 0.75]
    assert theirs["ratio"]["rounds"] == [2.0, 1.5, 2.0]
    assert ours["tokens_per_second"] == 200
    assert ours["mfu_palm"] == pytest.approx(0.01)
    assert theirs["mfu_causal"] == pytest.approx(4e8 / 0.75 / 1e11)
    assert ours["facts"]["peak_memory_rounds"] == 300 << 20
    assert "losses" not in ours["facts"]
    assert values["left_out"] == {"torch compiled": "no compiler"}


def test_without_the_base_there_are_times_and_no_ratios() -> None:
    others = dataclasses.replace(COMPARISON, results=COMPARISON.results[1:])
    values = record(train.SUITE, "tiny", "two layers", others, ceiling=1e11)
    assert values["contestants"][0]["ratio"] is None
    lines = table(values, []).splitlines()
    assert lines[3].split() == ["contestant", "time", "quartiles", "tokens/s", "memory"]
    assert lines[4].split()[:4] == ["torch", "eager", "750", "ms"]
    assert picture([values]).startswith(b"\x89PNG\r\n")


def test_nobody_ran() -> None:
    nobody = Comparison("lm train", (), {"lm train": "no device"})
    values = record(train.SUITE, "tiny", "two layers", nobody, ceiling=1e11)
    assert "left out: lm train: no device" in table(values, [])
    assert picture([values]).startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize(("shared", "utilisation"), [(True, 0.01), (False, 0.0025)])
def test_utilisation_is_of_all_chips_that_were_used(shared: bool, utilisation: float) -> None:
    """A CPU's virtual devices share its rate; each chip of a board has one of its own."""
    four = [
        dataclasses.replace(result, facts={**result.facts, "devices": 4})
        for result in COMPARISON.results
    ]
    comparison = dataclasses.replace(COMPARISON, results=tuple(four))
    values = record(train.SUITE, "tiny", "two layers", comparison, 1e11, shared=shared)
    assert values["contestants"][0]["mfu_palm"] == pytest.approx(utilisation)


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    drawn = picture([the_record(), the_record()])
    assert drawn.startswith(b"\x89PNG\r\n")


def test_what_training_times_come_to() -> None:
    found = {finding.name: finding for finding in train.findings(TRAIN["tiny"], COMPARISON)}
    assert found["stock torch"].value == 2.0
    assert found["loss difference, torch eager"].value == 0.25
    assert "step 3 of 3" in found["loss difference, torch eager"].text
    assert found["checkpoint, steps"].value == 0.0
    assert "full MKL" not in found
