"""The papers' claims: read strictly; those that are shipped are whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from lm.errors import ConfigError, UserError
from lm.reproduce.claims import SCALES, find_papers, load_paper
from lm.reproduce.measures.scaling import parameters_of
from lm.reproduce.record import cells_of

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/claims.py"))

MINIMAL = {
    "title": "T",
    "reference": "R",
    "runs": {"r": {"config": "experiments/quickstart.py:smoke"}},
    "measures": {"loss": {"kind": "metric", "runs": ("r",)}},
    "claims": (
        {
            "id": "X",
            "sentence": "s",
            "where": "Table 1",
            "published": 1.0,
            "measure": "loss",
            "quantities": ("r",),
            "check": {"kind": "within", "tolerance": 1.0},
            "scale": "cpu",
        },
    ),
}


def written(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "claims.py").write_text(text)
    return folder


def test_a_minimal_paper(tmp_path: Path) -> None:
    paper = load_paper(written(tmp_path / "p", f"PAPER = {MINIMAL!r}"))
    assert paper.claims[0].check.band(1.0) == (0.0, 2.0)
    assert paper.scale_of("loss") == "cpu"
    assert [cell.name for cell in cells_of("r", paper.runs["r"])] == ["r-seed0"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("PAPER['claims'][0]['measure'] = 'lost'", "no measure 'lost'; did you mean 'loss'"),
        ("PAPER['claims'][0]['quantities'] = ('q',)", "gives no quantity 'q'"),
        ("PAPER['measures']['loss']['runs'] = ('x',)", "no run 'x'"),
        ("PAPER['claims'] *= 2", "two have the id X"),
        ("PAPER['claims'][0]['figure'] = 'f'", "no figure 'f'"),
        ("PAPER['claims'][0]['publised'] = 2", "publised: unknown key; did you mean 'published'"),
        ("PAPER['measures']['loss']['kind'] = 'metrics'", "did you mean 'metric'"),
        ("PAPER['runs']['r']['seeds'] = (1, 1)", "one twice"),
        ("PAPER = 3", "defines no PAPER"),
        ("import nowhere_at_all", "cannot be read: No module"),
        ("PAPER[", "cannot be read"),
        ("PAPER['clams']", "claims.py:2 cannot be read: KeyError: 'clams'"),
        ("(1, 2)[2]", "claims.py:2 cannot be read: IndexError: tuple index"),
        ("import math\n\nmath.tua", "claims.py:4 cannot be read: AttributeError: .* 'tua'"),
        ("1 / 0", "claims.py:2 cannot be read: ZeroDivisionError"),
    ],
)
def test_what_is_wrong_with_one(tmp_path: Path, change: str, words: str) -> None:
    folder = written(tmp_path / "p", f"PAPER = {MINIMAL!r}\n{change}\n")
    with pytest.raises(ConfigError, match=words):
        load_paper(folder)


def test_a_folder_without_claims(tmp_path: Path) -> None:
    written(tmp_path / "nanogpt", "PAPER = {}")
    with pytest.raises(UserError, match=r"has no claims.py; did you mean 'nanogpt'"):
        load_paper(tmp_path / "nanogtp")
    with pytest.raises(UserError, match="no folder in .* has a claims.py"):
        find_papers(tmp_path / "empty")


def test_there_are_papers() -> None:
    assert {"nanogpt", "chinchilla", "grokking", "transformer", "layer_norm"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_paper_is_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    paper = load_paper(ROOT / "experiments" / name)
    assert paper.claims and paper.reference
    for claim in paper.claims:
        assert claim.sentence.endswith(".") and claim.where
        # What is run at a smaller scale than the paper's and is judged easier says so.
        assert claim.check.kind not in ("at_least", "at_most") or claim.proxy or not claim.published
    # Every run that a measure has is an experiment that exists, with overrides that it takes.
    for run, runs in paper.runs.items():
        cell = cells_of(run, runs)[0]
        assert Path(runs.config.partition(":")[0]).is_file()
        assert cell.resolve().train.batch_size
    used = {run for measure in paper.measures.values() for run in measure.runs}
    assert used == set(paper.runs), "a run that nothing measures"
    assert set(paper.measures) == {claim.measure for claim in paper.claims}


def test_the_size_that_is_said_is_that_of_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    paper = load_paper(ROOT / "experiments" / "chinchilla")
    runs = [cells_of(name, paper.runs[name])[0] for name in ("w32-t1", "w128-t4")]
    least, most = (parameters_of(cell.resolve().model) for cell in runs)
    words = f"{round(least / 1e3)} thousand to {most / 1e6:.1f} million parameters"
    assert all(words in claim.proxy for claim in paper.claims if claim.measure == "own")


def test_ids_are_of_one_claim_in_all_papers() -> None:
    ids = [c.id for name in SHIPPED for c in load_paper(ROOT / "experiments" / name).claims]
    assert len(ids) == len(set(ids)) and len(ids) >= 20


def test_scales_are_in_the_order_of_their_cost() -> None:
    assert SCALES == ("cpu", "gpu", "paper")
