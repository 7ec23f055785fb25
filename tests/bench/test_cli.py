"""`lm bench` on the command line: what it refuses, and one whole benchmark."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from lm.bench import shapes
from lm.bench.run import SUITES
from lm.cli.main import main


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        ([], 2, "--suite is required"),
        (["--suite=trian"], 2, "did you mean 'train'?"),
        (["--suite=train", "--shape=iv"], 2, "this suite has: i, ii, iii"),
        (["--suite=decode", "--shape=ii"], 2, "6x384-b1"),
        (["--suite=train", "--peers=egaer"], 2, "did you mean 'eager'?"),
        (["--suite=train", "--peers=eager,eager"], 2, "eager is there twice"),
        (["--suite=train", "--rounds=0", "--peers=none"], 2, "--rounds=0: at least one"),
        (["--suite=train", "--json="], 2, "--json= names no file"),
        (["--suite=train", "--json=x.png"], 2, "the picture gets this name"),
        (["--suite=train", "--json=no/such/folder.json"], 1, "no/such is no folder"),
        (["--suite=train", "--peers=none", "--scratch=no/such"], 1, "--scratch=no/such"),
        (["--suite=train", "ii"], 2, "unexpected argument 'ii'"),
    ],
)
def test_refusals(
    flags: list[str], status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *flags]) == status
    assert words in capsys.readouterr().err


def test_peers_that_are_named_need_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else found(name)
    )
    assert main(["bench", "--suite=train", "--peers=eager"]) == 1
    said = capsys.readouterr().err
    assert "pip install 'lm[bench]'" in said and "--peers=none" in said


@pytest.mark.parametrize("name", shapes.TRAIN)
def test_a_training_shape_is_a_config_whose_rounds_fit(name: str) -> None:
    """A checkpoint in the middle of a round falls on a dispatch's end."""
    shape = shapes.TRAIN[name]
    config = shape.config(10 * shape.round_steps, shape.round_steps)
    assert config.data.sequence_length == shape.sequence_length
    assert shape.round_steps % (2 * shape.steps_per_dispatch) == 0


def test_every_suite_has_its_usual_shape() -> None:
    for suite in SUITES.values():
        assert suite.default in suite.shapes


def lm_bench(run_lm, path: Path, *flags: str) -> list[dict]:
    done = run_lm("bench", "--peers=none", f"--json={path}", f"--scratch={path.parent}", *flags)
    assert done.returncode == 0, done.stderr
    assert not list(path.parent.glob("lm-bench-*"))
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_a_whole_benchmark(suite: str, run_lm, tmp_path: Path) -> None:
    """Every suite at its tiny size, without the peers."""
    path = tmp_path / "results.json"
    [result] = lm_bench(run_lm, path, f"--suite={suite}", "--shape=tiny", "--rounds=2")
    assert result["suite"] == suite
    assert result["machine"]["cores"] >= 1
    assert all(rate > 0 for rate in result["machine"]["matmul_flops"].values())
    for contestant in result["contestants"]:
        times = contestant["seconds_per_unit"]
        assert len(times["rounds"]) == 2
        assert min(times["rounds"]) > 0
        assert contestant["facts"]["peak_memory"] > 0
