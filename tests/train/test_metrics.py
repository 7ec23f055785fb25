from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lm.errors import UserError
from lm.train.metrics import MetricsWriter, read_jsonl


def write(workdir: Path, start: int, steps: range) -> None:
    writer = MetricsWriter(workdir, start)
    for step in steps:
        writer.write(step, "train", {"loss": np.float32(1 / step), "tokens": 7})
    writer.close()


def test_values_read_back_equal(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 4))
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(np.float32(row["loss"]) == np.float32(1 / row["step"]) for row in rows)
    assert rows[0] == {"step": 1, "split": "train", "loss": 1.0, "tokens": 7}


def test_going_on_from_a_step_drops_what_came_after(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 9))
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    write(tmp_path, 3, range(4, 9))
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def test_a_line_cut_by_a_kill_is_dropped(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 5))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert [row["step"] for row in read_jsonl(path)] == [1, 2, 3]
    write(tmp_path, 3, range(4, 5))
    assert path.read_bytes() == whole


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 3))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + "nonsense\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl:3 is not a line of metrics: b'nonsense'"):
        MetricsWriter(tmp_path, 2)


def test_a_cut_line_of_timing_is_dropped(tmp_path: Path) -> None:
    for start in (0, 1):
        writer = MetricsWriter(tmp_path, start)
        writer.write_timing(start + 1, {"tokens_per_second": 1.0})
        writer.close()
        with (tmp_path / "timing.jsonl").open("a") as file:
            file.write('{"step": 9, "tok')
    assert [row["step"] for row in read_jsonl(tmp_path / "timing.jsonl")] == [1, 2]


def test_timing_is_kept_apart(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, 0)
    writer.write_timing(5, {"tokens_per_second": 3.5, "mfu_palm": None})
    writer.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    line = json.loads((tmp_path / "timing.jsonl").read_text())
    assert line == {"step": 5, "tokens_per_second": 3.5, "mfu_palm": None}
    assert list(tmp_path.glob("events*"))


def test_writing_does_not_import_torch(tmp_path: Path) -> None:
    """Where it is installed tensorboardX would, and keep what takes more memory than a model."""
    (tmp_path / "torch.py").write_text("raise RuntimeError('imported')\n")
    program = (
        "import sys; from pathlib import Path; from lm.train.metrics import MetricsWriter\n"
        f"writer = MetricsWriter(Path({str(tmp_path)!r}), 0)\n"
        "writer.write(1, 'train', {'loss': 2.0}); writer.close()\n"
        # What is not there for a moment can still be imported afterwards.
        "assert 'torch' not in sys.modules"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    subprocess.run(
        [sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert list(tmp_path.glob("events.*"))
