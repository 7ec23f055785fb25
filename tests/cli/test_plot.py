"""`lm plot`: one picture of several runs, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lm.cli.main import main


def workdir(path: Path, losses: list[float], baseline: float | None = None) -> Path:
    path.mkdir()
    lines = [{"step": i + 1, "split": "train", "loss": loss} for i, loss in enumerate(losses)]
    lines.append({"step": len(losses), "split": "text", "loss": losses[-1] + 0.5})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if baseline is not None:
        (path / "eval").mkdir()
        splits = {"text": {"loss": 1.0, "baseline": {"loss": baseline}}}
        (path / "eval" / "3.json").write_text(json.dumps({"step": 3, "splits": splits}))
    return path


def test_a_picture_of_runs(tmp_path: Path) -> None:
    runs = [workdir(tmp_path / "a", [3.0, 2.0, 1.0], 2.5), workdir(tmp_path / "b", [4.0, 3.9])]
    one, both = tmp_path / "one.png", tmp_path / "both.png"
    assert main(["plot", f"--output={one}", str(runs[0])]) == 0
    assert main(["plot", f"--output={both}", *map(str, runs)]) == 0
    narrow, wide = plt.imread(one), plt.imread(both)
    assert wide.shape[1] == pytest.approx(2 * narrow.shape[1], rel=0.01)
    # Something is drawn in either half.
    for half in np.array_split(wide[..., :3], 2, axis=1):
        assert (half < 0.9).any(axis=-1).mean() > 0.01


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = workdir(tmp_path / "a", [3.0, 2.0])
    assert main(["plot", f"--output={tmp_path / 'x.png'}"]) == 2
    assert "takes the folders of runs" in capsys.readouterr().err
    assert main(["plot", f"--output={tmp_path / 'x.png'}", str(tmp_path / "none")]) == 1
    assert "has no losses in metrics.jsonl" in capsys.readouterr().err
    assert main(["plot", f"--output={tmp_path / 'x.txt'}", str(run)]) == 1
    assert "could not write" in capsys.readouterr().err
    assert main(["plot", f"--output={tmp_path / 'no' / 'x.png'}", str(run)]) == 1
    assert "could not write" in capsys.readouterr().err
    other = workdir(tmp_path / "b", [3.0, 2.0], 2.5)
    (other / "eval" / "3.json").write_text('{"splits": ')
    assert main(["plot", f"--output={tmp_path / 'x.png'}", str(other)]) == 1
    assert "3.json is not what lm evaluate writes" in capsys.readouterr().err
    (other / "eval" / "3.json").write_text('{"splits": {"text": {"baseline": {}}}}')
    assert main(["plot", f"--output={tmp_path / 'x.png'}", str(other)]) == 0
